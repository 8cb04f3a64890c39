import os
import sys
import time

import pytest
from small_project import EXPERIMENT

from harness.errors import HarnessError
from harness.tracking import background
from harness.tracking.background import Mirror, publish
from harness.tracking.requests import compare_request, finished_train_request
from harness.tracking.store import HOME, entries

TARGET = f"{EXPERIMENT}/first/seed0"


@pytest.fixture
def stand_in(project, monkeypatch):
    """`stand_in(code)`: the mirror is a Python program of a line instead; returns the request to mirror."""

    def make(code: str):
        program = project / "program"
        program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
        program.chmod(0o755)
        monkeypatch.setattr(background.sys, "executable", str(program))
        monkeypatch.setenv("WANDB_MODE", "offline")
        return finished_train_request(TARGET, project)

    return make


def test_disabled_starts_nothing(project, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Mirror(finished_train_request(TARGET, project), project).close()
    publish(lambda: pytest.fail("was made"), project)
    assert not (project / HOME).exists()


def test_the_mirror_ends_with_its_run(stand_in, project, capsys):
    request = stand_in('import sys; sys.stdin.read(); open("seen", "w").write(" ".join(sys.argv))')
    mirror = Mirror(request, project)
    assert not (project / "seen").exists()
    mirror.close()
    (entry,) = entries(project / HOME)
    assert (project / "seen").read_text().split()[-2:] == [str(entry.folder), "--follow"]
    assert entry.request() == request
    assert capsys.readouterr().err == ""


def test_a_failure_is_told_and_stops_nothing(stand_in, project, monkeypatch, capsys):
    Mirror(stand_in("raise SystemExit(1)"), project).close()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "nothing is lost" in told
    monkeypatch.setattr(background.sys, "executable", "/no/such/python")
    mirror = Mirror(finished_train_request(TARGET, project), project)
    assert "not mirrored" in capsys.readouterr().err
    mirror.close()
    publish(lambda: compare_request(EXPERIMENT, project), project)
    assert "not mirrored" in capsys.readouterr().err


def test_a_slow_mirror_holds_nobody_up(stand_in, project, monkeypatch, capsys):
    monkeypatch.setattr(background, "PATIENCE", 0.1)
    begun = time.monotonic()
    mirror = Mirror(stand_in("import time; time.sleep(20)"), project)
    mirror.close()
    publish(lambda: compare_request(EXPERIMENT, project), project)
    assert time.monotonic() - begun < 5
    assert "still busy" in capsys.readouterr().out
    assert mirror._process is not None
    mirror._process.kill()


def test_publish_needs_no_care(stand_in, project, capsys):
    stand_in("pass")

    def damaged():
        raise HarnessError("no card")

    publish(damaged, project)
    publish(lambda: {}["absent"], project)  # type: ignore[arg-type, return-value]
    assert capsys.readouterr().err.count("not mirrored") == 2


def test_no_room_for_the_request(stand_in, project, capsys):
    request = stand_in("pass")
    (project / ".work").write_text("a file where the folder should be")
    Mirror(request, project).close()
    assert "not mirrored" in capsys.readouterr().err


def test_the_process_is_apart_from_its_run(stand_in, project):
    request = stand_in('import os, sys; sys.stdin.read(); open("seen", "w").write(str(os.getsid(0)))')
    Mirror(request, project).close()
    assert int((project / "seen").read_text()) != os.getsid(0), "a Ctrl-C would end it too"


def test_the_process_shares_no_wandb_core(stand_in, project, monkeypatch):
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-1-1")
    request = stand_in('import os, sys; sys.stdin.read(); open("seen", "w").write(str("WANDB_SERVICE" in os.environ))')
    Mirror(request, project).close()
    assert (project / "seen").read_text() == "False"
