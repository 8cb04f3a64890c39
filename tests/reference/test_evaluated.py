import pytest
from made_up_runs import write_run

from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.reference.compare_to import main
from harness.reference.evaluated import Score, card_of, evaluated
from harness.reference.signals import read_run

PROTOCOL = {"prompts_sha256": "a", "clips": 16}


def card(fvd, *, protocol=PROTOCOL, run=None, **metrics):
    """A card of a student; metrics by name."""
    values = {name: {"value": value} for name, value in {"fvd": fvd, **metrics}.items()}
    student = {"label": "Student", "sampler": {"forwards": 2}, "metrics": values}
    models = {"student": student, "init": student | {"metrics": {"fvd": {"value": 99.0}}}}
    return {"protocol": protocol, "models": models} | ({} if run is None else {"run": run})


@pytest.fixture
def judged(arm):
    """An arm with cards, and an ad hoc run with one."""
    for seed, fvd in enumerate((30.0, 32.0, 34.0)):
        write_json(arm / f"results/x/a/seed{seed}/cards.json", card(fvd, identity=1.0, recall=0.5))
    folder = write_run(arm / "runs/mine", seed=7)
    own = {"fingerprint": "f", "target": "mine", "ad_hoc": True}
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | own)
    write_json(folder / "evaluation/cards.json", card(35.0, run="f", identity=0.95))
    return arm


def both(root):
    runs = [read_run(root / f"results/x/a/seed{seed}", f"x/a/seed{seed}") for seed in range(3)]
    return evaluated(read_run(root / "runs/mine", "mine"), runs)


def test_the_trained_models_are_compared_metric_by_metric(judged):
    found = both(judged)
    assert [(s.metric, s.run, s.reference) for s in found.scores] == [
        ("fvd", 35.0, (30.0, 32.0, 34.0)),
        ("identity", 0.95, (1.0, 1.0, 1.0)),
    ]
    assert [score.outside for score in found.scores] == [False, True]


def test_the_band_is_students_prediction_interval():
    low, high = Score(metric="fvd", run=0.0, reference=(30.0, 32.0, 34.0)).band
    assert (low, high) == pytest.approx((32 - 4.302653 * 2 * (4 / 3) ** 0.5, 32 + 4.302653 * 2 * (4 / 3) ** 0.5))
    equal = Score(metric="fvd", run=33.9, reference=(32.0, 32.0))  # not worth a claim
    assert (equal.band, equal.outside) == ((30.0, 34.0), False)
    assert Score(metric="fvd", run=1.0, reference=(32.0,)).band is None


def test_what_is_said(judged, capsys):
    assert main(["mine", "--to", "x/a"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "Fréchet video distance 35 30, 32, 34 22.06 … 41.94" in lines
    assert "Identity kept over frames 0.95 1, 1, 1 0.98 … 1.02 outside" in lines


def test_what_one_side_alone_has_is_said(judged, capsys):
    (judged / "results/x/a/seed1/cards.json").unlink()
    main(["mine", "--to", "x/a"])
    text = capsys.readouterr().out
    assert "on one side only, so not compared: Recall\n" in text
    assert "of the reference, not evaluated: results/x/a/seed1\n" in text


def test_runs_of_other_methods_are_compared_by_what_each_trained(judged):
    for seed in range(3):
        folder = judged / f"results/x/a/seed{seed}"
        theirs = card(40.0 + seed)
        names = ("causal_sft", "causal_sft_euler", "causal_sft_cfg")
        write_json(folder / "cards.json", theirs | {"models": dict.fromkeys(names, theirs["models"]["student"])})
        manifest = read_json(folder / "manifest.json")
        write_json(folder / "manifest.json", manifest | {"config": manifest["config"] | {"method": "causal_sft"}})
    assert both(judged).scores[0].reference == (40.0, 41.0, 42.0)


def test_cards_of_another_protocol_do_not_compare(judged, capsys):
    write_json(judged / "runs/mine/evaluation/cards.json", card(5.0, run="f", protocol=PROTOCOL | {"clips": 8}))
    assert (both(judged).scores, both(judged).unlike) == ((), ("clips",))
    main(["mine", "--to", "x/a"])
    assert "do not compare: their protocols differ in clips" in capsys.readouterr().out


@pytest.mark.parametrize("stale", [True, False])
def test_a_run_that_was_not_evaluated_since_it_was_trained(judged, stale, capsys):
    path = judged / "runs/mine/evaluation/cards.json"
    write_json(path, card(5.0, run="of an earlier one")) if stale else path.unlink()
    assert card_of(read_run(judged / "runs/mine", "mine")) is None
    main(["mine", "--to", "x/a"])
    assert "this run was not: `python -m harness evaluate runs/mine`" in capsys.readouterr().out


def test_nothing_is_said_where_the_reference_has_no_cards_or_the_run_goes_on(judged):
    (judged / "runs/mine/manifest.json").unlink()
    assert both(judged) is None
    for seed in range(3):
        (judged / f"results/x/a/seed{seed}/cards.json").unlink()
    assert both(judged) is None


def test_a_damaged_card_is_named(judged):
    write_json(judged / "runs/mine/evaluation/cards.json", card("much", run="f"))
    with pytest.raises(
        HarnessError, match=r"mine/evaluation/cards\.json: models\.student\.metrics\.fvd\.value: 'much'"
    ):
        both(judged)
