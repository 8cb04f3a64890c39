import os
import subprocess
import threading
import time

import numpy as np
import pytest
from small_project import EXPERIMENT

from harness.errors import HarnessError
from harness.tracking import background, mirror
from harness.tracking.background import Mirror
from harness.tracking.mirror import current, sent_files, watched
from harness.tracking.requests import compare_request, evaluate_request, finished_train_request
from harness.tracking.samples import keep
from harness.tracking.store import HOME, STILL_MIRRORED, entries, put

TARGET = f"{EXPERIMENT}/first/seed0"


def run(request, root, **environment):
    """The mirroring process, to its end."""
    entry = put(request, root / HOME)
    code = background.start(entry, stdin=subprocess.DEVNULL, environment=environment).wait(120)
    return code, entry


def test_a_real_offline_run(project, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(background, "PATIENCE", 60.0)
    request = finished_train_request(TARGET, project)
    folder = project / "results" / TARGET
    keep(folder, np.zeros((1, 3, 8, 8, 3), np.uint8), ["a red 3"])
    (folder / "samples/2.npy").rename(folder / "samples/1.npy")
    Mirror(request, project).close()
    (entry,) = entries(project / HOME)
    status = entry.status()
    assert (status["state"], status["steps"]) == ("offline", 4), entry.log.read_text()
    (kept,) = (project / HOME).rglob("*.wandb")
    assert kept.stem == f"run-{request.id}"
    content = kept.read_bytes()
    assert b"0.125" in content
    assert b"dvc://checkpoints/two_arms/first/seed0" in b"".join(
        p.read_bytes() for p in (project / HOME).rglob("*") if p.is_file()
    )
    assert len(list((project / HOME).rglob("media/videos/quality/*.mp4"))) == 1


def test_whatever_goes_wrong_ends_in_the_status(project, monkeypatch):
    monkeypatch.setattr(mirror, "step_back", lambda: None)
    entry = put(compare_request(EXPERIMENT, project), project / HOME)

    def fail(*_):
        raise RuntimeError("quota exceeded")

    monkeypatch.setattr(mirror, "mirror", fail)
    assert mirror.main([str(entry.folder)]) == 1
    assert entry.status()["error"] == "RuntimeError: quota exceeded"


def test_what_another_process_mirrors_is_left_alone(project, monkeypatch, capsys):
    monkeypatch.setattr(mirror, "step_back", lambda: None)
    monkeypatch.setattr(mirror, "mirror", lambda *_: pytest.fail("it was mirrored twice"))
    entry = put(compare_request(EXPERIMENT, project), project / HOME)
    entry.note("running")
    before = entry.status()
    codes = []
    second = threading.Thread(
        target=lambda: codes.append(mirror.main([str(entry.folder), "--check-first"])), daemon=True
    )
    with entry.held():
        second.start()
        second.join(10)
        assert codes == [STILL_MIRRORED], "it waited"
    assert entry.status() == before
    assert "is still being mirrored" in capsys.readouterr().err


def test_a_process_that_does_not_finish_is_ended():
    expired, ended = threading.Event(), threading.Event()
    with watched(ended, 0.05, expired.set):
        assert not expired.wait(0.2), "the run has not ended yet"
        ended.set()
        assert expired.wait(5)
    late = threading.Event()
    with watched(ended, 0.2, late.set):
        pass
    assert not late.wait(0.5)


def test_files_that_have_changed_are_not_taken_for_others(project):
    request = evaluate_request(TARGET, project)
    current(request, request)
    with pytest.raises(HarnessError, match="other content"):
        current(request, compare_request(EXPERIMENT, project))


def test_media_by_their_names_at_the_server(tmp_path):
    (tmp_path / "media/videos").mkdir(parents=True)
    (tmp_path / "media/videos/a.mp4").write_bytes(b"12")
    (tmp_path / "config.yaml").write_bytes(b"1")
    assert sent_files(tmp_path) == {"media/videos/a.mp4": 2}


@pytest.mark.slow
def test_what_arrives_of_each_kind(project, server):
    for request in (
        finished_train_request(TARGET, project),
        evaluate_request(TARGET, project),
        compare_request(EXPERIMENT, project),
    ):
        code, entry = run(request, project)
        assert code == 0, entry.log.read_text()
        assert entry.status()["state"] == "uploaded"
        there = server.state.runs[request.id]
        assert there.finished
        assert there.fields["groupName"] == EXPERIMENT
        assert there.fields["jobType"] == request.kind
        assert there.fields["displayName"] == request.settings["name"]
        assert there.fields["tags"] == request.settings["tags"]
    train, evaluation, comparison = (server.state.runs[r] for r in list(server.state.runs) if "-" in r)
    assert [row["_step"] for row in train.history] == [0, 1, 2, 3]
    assert train.history[2]["loss"] == 0.25
    assert train.history[3]["quality/fvd"] == 7
    assert (
        train.config["fingerprint"]["value"]
        == finished_train_request(TARGET, project).settings["config"]["fingerprint"]
    )
    assert train.config["lineage"]["value"]["uses"]["data/encoded"] == "1" * 32 + ".dir"
    metrics = str(train.config["_wandb"]["value"]["m"])
    assert "quality/update" in metrics
    assert "batch" in metrics
    assert evaluation.summary["student/fvd.high"] == 8.0
    assert any(name.startswith("media/videos/clips/student") for name in evaluation.files)
    assert any(name.startswith("media/table/card") for name in evaluation.files)
    assert comparison.summary["first_wins/updates/outcome"] == "supported"
    assert any(name.startswith("media/videos/clips/first") for name in comparison.files)
    model = TARGET.replace("/", "-")
    assert {"checkpoints-teacher", "data-encoded", f"checkpoints-{model}"} <= set(server.state.uses)
    assert f"checkpoints-{model}" in server.state.makes
    assert server.state.artifacts["checkpoints-teacher"]["artifactTypeName"] == "model"
    manifest = server.state.run("artifacts").files["checkpoints-teacher"]
    assert b"dvc://checkpoints/teacher?md5=" + b"2" * 32 in manifest
    assert server.state.unknown == []


@pytest.mark.slow
def test_a_resumed_run_is_one_run(project, server, monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 90.0)
    request = finished_train_request(TARGET, project)
    table = project / "results" / TARGET / "history.csv"
    whole = table.read_text()
    table.write_text("".join(whole.splitlines(keepends=True)[:3]))
    (project / "results" / TARGET / "quality.csv").unlink()
    killed = Mirror(request, project)
    os.close(killed._process.stdin.fileno())  # type: ignore[union-attr]
    assert killed._process.wait(90) == 0  # type: ignore[union-attr]
    assert len(server.state.runs[request.id].history) == 2
    table.write_text(whole)
    Mirror(request, project).close()
    there = server.state.runs[request.id]
    assert [row["_step"] for row in there.history] == [1, 2, 3]
    assert [run for run in server.state.runs if "-" in run] == [request.id]
    (entry,) = entries(project / HOME)
    assert entry.status()["state"] == "uploaded", entry.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuse", "hang", "error"])
def test_a_server_that_fails_holds_nobody_up(project, server, fault, monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 1.0)
    if fault == "refuse":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    server.state.fault = fault
    begun = time.monotonic()
    run = Mirror(finished_train_request(TARGET, project), project)
    run.close()
    assert time.monotonic() - begun < 5
    assert run._process is not None
    assert run._process.wait(120) == 1
    assert run._process.returncode == 1
    (entry,) = entries(project / HOME)
    status = entry.status()
    assert status["state"] == "failed"
    assert status["error"]


def test_it_steps_back_also_where_sessions_share_the_processor(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(mirror.os, "nice", asked.append)
    mirror.step_back(tmp_path / "autogroup")
    assert (asked, (tmp_path / "autogroup").read_text()) == ([10], "10")
    mirror.step_back(tmp_path / "no such folder" / "autogroup")  # another kernel
