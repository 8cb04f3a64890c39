import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.io import write_json
from harness.stages import (
    Stage,
    child_environment,
    clear_dead_locks,
    estimate_seconds,
    kind_of,
    record_duration,
    remaining_path,
    stale,
    without_git,
)


def plan_of(**needs: str) -> dict[str, Stage]:
    """`plan_of(a="", b="a")`; a name that ends with `_changed` in needs marks the stage."""
    return {
        name: Stage(name, f"python {name}", frozenset(n for n in text.split() if n != "!"), "!" in text)
        for name, text in needs.items()
    }


def test_what_comes_after_a_change_is_stale():
    plan = plan_of(a="", b="a !", c="b", d="a", e="c d")
    assert stale(plan) == {"b", "c", "e"}
    assert stale(plan_of(a="", b="a")) == set()


def test_the_longest_chain_counts():
    plan = plan_of(a="", b="a", c="a", d="b c", e="")
    path = remaining_path(plan, plan, {"a": 1, "b": 5, "c": 2, "d": 1, "e": 3})
    assert path == {"a": 7, "b": 6, "c": 3, "d": 1, "e": 3}
    assert remaining_path(plan, {"c", "e"}, {"c": 2, "e": 3}) == {"c": 2, "e": 3}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("experiments/x/dvc.yaml:train@a-0", "train"), ("causal_sft@1", "causal_sft"), ("report", "report")],
)
def test_kind(name, kind):
    assert kind_of(name) == kind


def test_estimates_come_from_the_last_run_the_kind_or_the_committed_manifest(tmp_path):
    command = "python harness/train.py --target teacher --wait"
    plan = {
        name: Stage(name, command if name == "teacher" else "x", frozenset(), True)
        for name in ("teacher", "sft@0", "sft@1", "report")
    }
    write_json(tmp_path / "results/teacher/manifest.json", {"wall_seconds": 200})
    record_duration("sft@0", 30.0, tmp_path)
    assert estimate_seconds(plan, tmp_path) == {"teacher": 200.0, "sft@0": 30.0, "sft@1": 30.0, "report": 10.0}
    (tmp_path / ".work/durations.json").write_text("{broken")
    (tmp_path / "results/teacher/manifest.json").write_text("[]")
    assert set(estimate_seconds(plan, tmp_path).values()) == {10.0}


def test_locks_of_dead_processes_go_and_those_of_a_living_dvc_stay(tmp_path, monkeypatch):
    table = tmp_path / ".dvc/tmp/rwlock"
    table.parent.mkdir(parents=True)
    clear_dead_locks(tmp_path)
    assert not table.exists()
    alive, other, gone = {"pid": 1, "cmd": "dvc"}, {"pid": os.getpid(), "cmd": "dvc"}, {"pid": 2**22 + 5, "cmd": "dvc"}
    monkeypatch.setattr("harness.stages._is_dvc", lambda info: info is not None and info["pid"] == 1)
    table.write_text(json.dumps({"read": {"a": [alive, gone], "b": [other]}, "write": {"c": gone, "d": alive}}))
    clear_dead_locks(tmp_path)
    assert json.loads(table.read_text()) == {"read": {"a": [alive]}, "write": {"d": alive}}
    table.write_text('{"read": ')
    clear_dead_locks(tmp_path)
    assert not table.exists()


def test_a_lock_whose_number_is_now_another_program_is_dead(tmp_path):
    table = tmp_path / ".dvc/tmp/rwlock"
    table.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        table.write_text(json.dumps({"write": {"c": {"pid": other.pid, "cmd": "dvc"}}}))
        clear_dead_locks(tmp_path)
        other.kill()
    assert json.loads(table.read_text()) == {"read": {}, "write": {}}


def test_dvc_is_told_once_that_there_is_no_git(tmp_path):
    assert not without_git(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    dir = /x\n")
    assert without_git(tmp_path)
    assert not without_git(tmp_path)
    text = (tmp_path / ".dvc/config.local").read_text()
    assert text.count("no_scm = true") == 1
    assert "dir = /x" in text
    (tmp_path / ".git").mkdir()
    (tmp_path / ".dvc/config.local").unlink()
    assert not without_git(tmp_path)


def test_stages_get_this_python_and_no_thread_counts(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("KEPT", "x")
    environment = child_environment(sys.executable)
    assert "OMP_NUM_THREADS" not in environment
    assert environment["KEPT"] == "x"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


@pytest.mark.parametrize("content", ["[1]", '{"read": []}', '{"write": {"a": 7}}', '{"read": {"a": 3}}', "{"])
def test_a_table_of_locks_that_is_not_dvcs_is_dropped(tmp_path, content):
    table = tmp_path / ".dvc/tmp/rwlock"
    table.parent.mkdir(parents=True)
    table.write_text(content)
    clear_dead_locks(tmp_path)
    assert not table.exists() or json.loads(table.read_text()) == {"read": {}, "write": {}}
