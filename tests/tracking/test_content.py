import json

import pytest
from layers import ROOT
from small_project import EXPERIMENT

from harness.tracking import content

COMPARISONS = sorted((ROOT / "comparisons").glob("*/comparison.json"))
CARDS = sorted((ROOT / "results").rglob("cards.json"))


def test_a_card(project):
    card = json.loads((project / "results" / EXPERIMENT / "first/seed1/cards.json").read_text())
    assert content.card_summary(card) == {"student/fvd": 8.0, "student/fvd.low": 7.0, "student/fvd.high": 9.0}
    assert content.card_table(card).rows == [["student", "Student", "fvd", 8.0, 7.0, 9.0]]
    assert content.frames_table(card).rows == [["student", "ink", 0, 1.0], ["student", "ink", 1, 1.5]]


def test_a_comparison(project):
    comparison = json.loads((project / "comparisons" / EXPERIMENT / "comparison.json").read_text())
    summary = content.comparison_summary(comparison)
    assert summary["first_wins/updates/outcome"] == "supported"
    assert summary["first_wins/updates/gain.low"] == 1.0
    assert summary["first_wins/teraflops/outcome"] == "undecided"
    assert "first_wins/teraflops/gain" not in summary
    assert (summary["first/fvd"], summary["first/fvd.high"]) == (7.5, 8.5)
    assert "second/fvd.low" not in summary
    assert content.hypotheses_table(comparison).rows == [
        ["a|b", "fvd", "updates", "supported", 2.0, 1.0, 3.0, "the interval is above 0"],
        ["a|b", "fvd", "teraflops", "undecided", None, None, None, "no common budget"],
    ]
    assert content.arms_table(comparison).rows[:2] == [["fvd", "first", 0, 7.0], ["fvd", "first", 1, 8.0]]


@pytest.mark.parametrize("path", COMPARISONS + CARDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_committed_can_be_shown(path):
    shown = json.loads(path.read_text())
    if path in COMPARISONS:
        tables = [content.hypotheses_table(shown), content.arms_table(shown)]
        assert content.comparison_summary(shown)
    else:
        tables = [content.card_table(shown), content.frames_table(shown)]
        assert content.card_summary(shown)
    for table in tables:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
