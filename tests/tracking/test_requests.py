from pathlib import Path

import pytest
from small_project import EXPERIMENT, fingerprint

from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.tracking import requests
from harness.tracking.discover import chosen, everything
from harness.tracking.requests import Request

TARGET = f"{EXPERIMENT}/first/seed1"


def test_how_a_run_is_filed(project):
    request = requests.finished_train_request(TARGET, project)
    s = request.settings
    assert (s["group"], s["name"], s["job_type"]) == (EXPERIMENT, "first-s1", "train")
    assert (s["id"], s["resume"]) == (f"{fingerprint(TARGET)[:16]}-train", "allow")
    assert s["tags"] == ["tiny", "dmd", "seed1"]
    assert s["config"]["fingerprint"] == fingerprint(TARGET)
    assert s["config"]["target"] == TARGET
    assert s["config"]["method"] == "dmd"
    assert request.uses == ("checkpoints/teacher", "data/encoded")
    assert (request.makes, request.proof) == (f"checkpoints/{TARGET}", f"results/{TARGET}/manifest.json")


def test_a_run_in_training_is_the_same_run_as_when_it_has_finished(project):
    done = requests.finished_train_request(TARGET, project)
    config = {k: v for k, v in done.settings["config"].items() if k not in ("inputs", "fingerprint", "target")}
    now = requests.train_request(
        root=project,
        folder=project / ".work/runs/x",
        target=TARGET,
        group=EXPERIMENT,
        name="first-s1",
        config=config,
        inputs={"data": "d"},
        fingerprint=fingerprint(TARGET),
        uses=[project / "data/encoded", project / "checkpoints/teacher"],
        is_ad_hoc=False,
    )
    assert now.settings == done.settings
    assert now.uses == done.uses


def test_an_ad_hoc_run_says_so_and_claims_nothing_of_dvc(project):
    config = {"preset": "p" * 80, "method": "sft", "seed": 3}
    request = requests.train_request(
        root=project,
        folder=project / "runs/x",
        target="x",
        group="ad_hoc",
        name="x-s3",
        config=config,
        inputs={},
        fingerprint="f",
        uses=[Path("/elsewhere/data")],
        is_ad_hoc=True,
    )
    assert request.settings["tags"] == ["p" * 64, "sft", "seed3", "ad_hoc"]
    assert request.target == request.settings["config"]["target"] == "runs/x"
    assert (request.makes, request.proof, request.uses) == (None, None, ("/elsewhere/data",))


def test_evaluations_and_comparisons(project):
    evaluation = requests.evaluate_request(TARGET, project)
    assert evaluation.settings["job_type"] == "evaluate"
    assert evaluation.settings["group"] == EXPERIMENT
    assert f"checkpoints/{TARGET}" in evaluation.uses
    comparison = requests.compare_request(EXPERIMENT, project)
    assert comparison.settings["job_type"] == "compare"
    assert comparison.settings["group"] == EXPERIMENT
    assert set(comparison.uses) == {
        "results/teacher/cards.json",
        *(f"results/{EXPERIMENT}/{arm}/seed{s}/cards.json" for arm in ("first", "second") for s in (0, 1)),
    }
    again = Request.from_json(evaluation.to_json())
    assert again == evaluation


@pytest.fixture
def ad_hoc(project):
    """An evaluated ad hoc run, `mine`."""
    made, run = project / "results" / TARGET, project / "runs/mine"
    manifest = read_json(made / "manifest.json")
    write_json(run / "manifest.json", manifest | {"ad_hoc": True, "target": "mine"})
    write_json(run / "evaluation/cards.json", read_json(made / "cards.json") | {"run": manifest["fingerprint"]})
    return project


def test_the_evaluation_of_an_ad_hoc_run(ad_hoc):
    for name in ("mine", "runs/mine"):
        request = requests.evaluate_request(name, ad_hoc)
        s = request.settings
        assert (request.target, s["group"], s["name"]) == ("runs/mine", "ad_hoc", "mine-s1-evaluate")
        assert s["config"]["target"] == "runs/mine"
        assert s["tags"][-1] == "ad_hoc"
        assert (request.makes, request.proof) == (None, None)
        assert not any("mine" in path for path in request.uses)
        assert requests.evaluate_request(request.target, ad_hoc) == request  # as the mirror makes it again
        assert request.folder.endswith("runs/mine/evaluation")
    assert request in everything(ad_hoc)
    for name in ("mine", "runs/mine"):
        assert chosen(everything(ad_hoc), [name]) == [request]
    (ad_hoc / "runs/mine").rename(ad_hoc / "runs/teacher")
    request = requests.evaluate_request("runs/teacher", ad_hoc)
    assert requests.evaluate_request(request.target, ad_hoc) == request  # and not the declared teacher's


def test_the_card_of_an_earlier_ad_hoc_run_is_refused(ad_hoc, capsys):
    path = ad_hoc / "runs/mine/evaluation/cards.json"
    write_json(path, read_json(path) | {"run": "e" * 64})
    with pytest.raises(HarnessError, match=r"cards\.json: is of an earlier run; .*evaluate runs/mine"):
        requests.evaluate_request("mine", ad_hoc)
    assert all(request.target != "runs/mine" for request in everything(ad_hoc))
    assert "W&B: left out: " in capsys.readouterr().err


def test_another_card_is_another_run(project):
    before = requests.evaluate_request(TARGET, project)
    path = project / "results" / TARGET / "cards.json"
    path.write_text(path.read_text().replace("8.0", "8.5"))
    assert requests.evaluate_request(TARGET, project).id != before.id


def test_what_is_missing_is_named(project):
    (project / "results" / TARGET / "manifest.json").unlink()
    with pytest.raises(HarnessError, match=r"manifest\.json: missing"):
        requests.finished_train_request(TARGET, project)
