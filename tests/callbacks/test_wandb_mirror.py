import sys
import threading
import time
from pathlib import Path

import pytest

from harness.callbacks import wandb_mirror
from harness.callbacks.wandb_mirror import Mirror, follow, mode, new_rows, run_settings


class FakeRun:
    def __init__(self):
        self.rows, self.metrics = [], []

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, row, step):
        self.rows.append((step, row))


def write(path, *lines):
    path.write_text("\n".join(lines))


def test_offline_unless_told_otherwise():
    assert mode({}) == "offline"
    assert mode({"WANDB_API_KEY": "x"}) == "online"
    assert mode({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}) == "offline"


def test_all_rows_in_the_order_of_the_batches(tmp_path):
    write(tmp_path / "history.csv", "batch,phase,loss", "1,critic,0.5", "2,generator,0.25", "3,critic,")
    write(tmp_path / "quality.csv", "batch,update,fvd", "0,0,9", "2,1,7", "")
    ended, run = threading.Event(), FakeRun()
    ended.set()
    assert follow(tmp_path, run, ended) == 4  # the last line of the history has no end yet
    assert run.rows == [
        (0, {"quality/batch": 0.0, "quality/update": 0.0, "quality/fvd": 9.0}),
        (1, {"batch": 1.0, "phase": "critic", "loss": 0.5}),
        (2, {"batch": 2.0, "phase": "generator", "loss": 0.25}),
        (2, {"quality/batch": 2.0, "quality/update": 1.0, "quality/fvd": 7.0}),
    ]
    assert ("quality/*", "quality/update") in run.metrics


def test_rows_that_come_while_it_looks(tmp_path):
    ended, run = threading.Event(), FakeRun()
    follower = threading.Thread(target=follow, args=(tmp_path, run, ended, 0.01))
    follower.start()
    write(tmp_path / "history.csv", "batch,loss", "1,1", "")
    deadline = time.monotonic() + 10
    while not run.rows and time.monotonic() < deadline:
        time.sleep(0.01)
    write(tmp_path / "history.csv", "batch,loss", "1,1", "2,2", "")
    ended.set()
    follower.join()
    assert [step for step, _ in run.rows] == [1, 2]


def test_a_line_that_is_being_written_is_left(tmp_path):
    write(tmp_path / "t.csv", "batch,loss", "1,0.5", "2,0.")
    assert list(new_rows(tmp_path / "t.csv", 0)) == [{"batch": 1.0, "loss": 0.5}]
    assert list(new_rows(tmp_path / "t.csv", 1)) == []
    assert list(new_rows(tmp_path / "none.csv", 0)) == []


def test_disabled_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirror = Mirror(tmp_path, {}, tmp_path / "home")
    mirror.close()
    assert list(tmp_path.iterdir()) == []


SETTINGS = run_settings(
    fingerprint="0123456789abcdef0", group="g", name="n", job_type="train", config={"a": 1}, tags=["t" * 80]
)


def test_a_failure_is_told_and_stops_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "no such mode")
    Mirror(tmp_path, SETTINGS, tmp_path / "home").close()
    assert "the run's own history is complete" in capsys.readouterr().err
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    Mirror(tmp_path, SETTINGS, tmp_path / "home").close()
    assert "not mirrored" in capsys.readouterr().err


def test_a_real_offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb_mirror, "PATIENCE", 60.0)
    write(tmp_path / "history.csv", "batch,loss", "1,0.5", "2,0.25", "")
    Mirror(tmp_path, SETTINGS, tmp_path / "home").close()
    runs = list((tmp_path / "home").rglob("*.wandb"))
    assert [path.stem for path in runs] == ["run-0123456789abcdef-train"], Path(tmp_path / "tracking.log").read_text()
    content = runs[0].read_bytes()
    assert b"0.25" in content
    assert b"t" * 64 in content


@pytest.mark.parametrize("key", ["project", "group", "name", "job_type", "tags", "config", "id"])
def test_a_run_is_filed(key):
    assert SETTINGS[key]
