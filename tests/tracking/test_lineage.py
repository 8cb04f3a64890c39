import pytest
from small_project import EXPERIMENT, lock_text, md5

from harness.errors import HarnessError
from harness.tracking.lineage import Reference, known, lineage, locked_outputs
from harness.tracking.requests import evaluate_request, finished_train_request

TARGET = f"{EXPERIMENT}/first/seed0"


def test_what_dvc_recorded(project):
    outputs = locked_outputs(project)
    assert outputs["data/encoded"] == "1" * 32 + ".dir"
    assert outputs[f"checkpoints/{TARGET}"] == "3" * 32 + ".dir"
    assert known("checkpoints/teacher/model", outputs) == Reference("checkpoints/teacher", "2" * 32)
    assert known("checkpoints/other", outputs) is None
    (project / "dvc.lock").unlink()
    assert "data/encoded" not in locked_outputs(project)
    (project / "dvc.lock").write_text("stages: {train: {outs: [3]}}\n")
    with pytest.raises(HarnessError, match=r"dvc\.lock: stage train is damaged"):
        locked_outputs(project)


def test_how_it_is_called(project):
    reference = Reference("checkpoints/teacher", "2" * 32)
    assert (reference.name, reference.type) == ("checkpoints-teacher", "model")
    assert reference.uri == f"dvc://checkpoints/teacher?md5={'2' * 32}"
    assert Reference("data/encoded", "").type == "dataset"


def test_what_went_in_and_what_came_out(project):
    uses, made = lineage(finished_train_request(TARGET, project))
    assert [r.path for r in uses] == ["checkpoints/teacher", "data/encoded"]
    assert made == Reference(f"checkpoints/{TARGET}", "3" * 32 + ".dir")
    uses, made = lineage(evaluate_request(TARGET, project))
    assert [r.path for r in uses] == [f"checkpoints/{TARGET}", "data/encoded"]
    assert made is not None
    assert made.path == f"results/{TARGET}/cards.json"


def test_nothing_is_claimed_that_dvc_has_not_recorded(project):
    _, made = lineage(finished_train_request(f"{EXPERIMENT}/second/seed0", project))
    assert made is None
    request = finished_train_request(TARGET, project)
    manifest = project / "results" / TARGET / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")  # trained again since DVC looked
    assert lineage(request)[1] is None
    manifest.unlink()
    assert lineage(request)[1] is None


def test_the_lock_may_speak_of_a_later_run(project):
    old = finished_train_request(TARGET, project)
    manifest = project / "results" / TARGET / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old.settings["config"]["fingerprint"], "f" * 64))
    outputs = {f"checkpoints/{TARGET}": "4" * 32, f"results/{TARGET}/manifest.json": md5(manifest)}
    (project / "experiments" / EXPERIMENT / "dvc.lock").write_text(lock_text(outputs))
    assert lineage(old)[1] is None
    assert lineage(finished_train_request(TARGET, project))[1] == Reference(f"checkpoints/{TARGET}", "4" * 32)
