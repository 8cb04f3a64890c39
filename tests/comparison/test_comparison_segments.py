import pytest

from harness.comparison.segments import Cell, segment_groups, spans


def comparison(common: bool, real: bool = True) -> dict:
    def of(values: list[float], ink: bool = True) -> dict:
        return {"fvd": values, **({"ink": [1.0, 1.1]} if ink else {})}

    segments = {
        "start": [0, 36],
        "real": {"fvd": [18.0, 19.0]} if real else {},
        "student": {
            "a": {"0": of([50.0, 51.0]), "1": of([52.0, 55.0])},
            "b": {"0": of([60.0, 61.0]), "1": of([60.0, 63.0], ink=False)},
        },
        "init": {arm: {"0": of([70.0, 90.0]), "1": of([70.0, 90.0])} for arm in ("a", "b")},
    }
    arms = [{"name": "a", "label": "First"}, {"name": "b", "label": "Second"}]
    return {"arms": arms, "long": {"segment_frames": 33, "common_init": common, "segments": segments}}


def rows(found, index: int = 0) -> dict:
    return {row.label: [(cell.value, cell.seeds) for cell in row.cells] for row in found[index].rows}


def test_a_group_per_metric_with_real_clips_arms_and_inits():
    groups = segment_groups(comparison(common=False))
    assert [group.label for group in groups] == ["Fréchet video distance", "Mean brightness against real"]
    assert [group.direction for group in groups] == ["lower", "one"]
    assert rows(groups) == {
        "Real clips": [(18.0, ()), (19.0, ())],
        "First": [(51.0, (50.0, 52.0)), (53.0, (51.0, 55.0))],
        "Second": [(60.0, ()), (62.0, (61.0, 63.0))],
        "First: its init": [(70.0, ()), (90.0, ())],
        "Second: its init": [(70.0, ()), (90.0, ())],
    }
    assert [row.student for row in groups[0].rows] == [False, True, True, False, False]


def test_a_common_init_stands_there_once():
    listed = [row.label for row in segment_groups(comparison(common=True, real=False))[0].rows]
    assert listed == ["First", "Second", "What all start from"]


def test_a_row_needs_every_seed():
    assert list(rows(segment_groups(comparison(common=False)), 1)) == ["First", "First: its init", "Second: its init"]


def test_no_long_evaluation_no_table():
    assert segment_groups({"arms": []}) == []


def test_spans_in_pixel_frames():
    assert spans(comparison(common=True)) == [(0, 32), (36, 68)]


def test_cells_are_plain():
    with pytest.raises(AttributeError):
        Cell(value=1.0).value = 2.0
