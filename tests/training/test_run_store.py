import json
import os
import shutil
import time

import pytest

from harness.errors import HarnessError
from harness.io import directory_digest, read_json
from harness.training.run_store import follow, held, launch_name, materialize, run_folder


@pytest.fixture
def finished(tmp_path):
    folder = run_folder(tmp_path, "f" * 64)
    model = folder.output / "checkpoints/model"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(b"new")
    (folder.output / "history.csv").write_text("batch\n1\n")
    (folder.path / "states/batch00000001").mkdir(parents=True)
    folder.finish({"fingerprint": "f" * 64, "schema": 1})
    return folder


def test_finishing_marks_and_clears(finished):
    assert finished.finished
    assert not (finished.path / "states").exists()
    assert not run_folder(finished.path, "e" * 64).finished


def test_materialize_replaces_whole_folders_and_writes_the_same_bytes(finished, tmp_path):
    checkpoints, results = tmp_path / "checkpoints/a", tmp_path / "results/a"
    checkpoints.mkdir(parents=True)
    (checkpoints / "old").write_text("old")
    digests = []
    for _ in range(2):
        materialize(finished, checkpoints, results, own={"target": "a"})
        digests.append((directory_digest(checkpoints), directory_digest(results)))
    assert digests[0] == digests[1]
    assert sorted(path.name for path in checkpoints.rglob("*")) == ["model", "weights"]
    assert sorted(path.name for path in results.iterdir()) == ["history.csv", "manifest.json"]
    assert read_json(results / "manifest.json") == {"fingerprint": "f" * 64, "schema": 1, "target": "a"}
    assert sorted(path.name for path in checkpoints.parent.iterdir()) == ["a"], "nothing is left beside it"


def test_twins_share_one_run(finished, tmp_path):
    for target in ("a", "b"):
        materialize(finished, tmp_path / "c" / target, tmp_path / "r" / target, own={"target": target})
    assert directory_digest(tmp_path / "c/a") == directory_digest(tmp_path / "c/b")
    assert read_json(tmp_path / "r/b/manifest.json")["target"] == "b"


def test_what_evaluation_wrote_stays(finished, tmp_path):
    results = tmp_path / "results/a"
    results.mkdir(parents=True)
    (results / "cards.json").write_text("{}")
    materialize(finished, tmp_path / "checkpoints/a", results, own={})
    assert (results / "cards.json").exists()


def test_a_run_that_is_not_whole_is_refused_and_the_old_stays(finished, tmp_path):
    checkpoints = tmp_path / "checkpoints/a"
    checkpoints.mkdir(parents=True)
    (checkpoints / "old").write_text("old")
    shutil.rmtree(finished.output / "checkpoints")
    with pytest.raises(HarnessError, match=r"delete .* and train again"):
        materialize(finished, checkpoints, tmp_path / "results/a", own={})
    assert (checkpoints / "old").exists()


class Child:
    """A fork that calls when it is told to. It is made before any lock is taken: a fork would hold its parent's too."""

    def __init__(self, call):
        self.read, self.write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.read(self.read, 1)
                call()
                os._exit(0)
            except HarnessError as error:
                os.write(2, str(error).encode())
                os._exit(2)
            finally:
                os._exit(1)

    def go(self):
        os.write(self.write, b"g")

    def code(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def try_to_hold(folder, wait=False):
    with held(folder, wait=wait, what="target t"):
        (folder.path / "had it").touch()


def test_the_second_is_told_who_the_first_is(tmp_path, capfd):
    folder = run_folder(tmp_path, "f" * 64)
    child = Child(lambda: try_to_hold(folder))
    with held(folder, wait=False, what="target t"):
        since = json.loads((folder.path / "lock").read_text())["since"]
        child.go()
        assert child.code() == 2
    message = capfd.readouterr().err
    assert f"target t is being trained by process {os.getpid()} on" in message
    assert f"since {since}" in message
    assert "--wait" in message
    assert not (folder.path / "had it").exists()
    try_to_hold(folder)  # the first is gone


def test_or_waits_for_it(tmp_path, capfd):
    folder = run_folder(tmp_path, "f" * 64)
    child = Child(lambda: try_to_hold(folder, wait=True))
    with held(folder, wait=False, what="target t"):
        child.go()
        deadline = time.monotonic() + 20
        while "waiting for process" not in capfd.readouterr().err:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not (folder.path / "had it").exists()
    assert child.code() == 0
    assert (folder.path / "had it").exists()


def test_a_killed_holder_holds_nothing(tmp_path):
    folder = run_folder(tmp_path, "f" * 64)

    def hold_and_die():
        with held(folder, wait=False, what="t"):
            os.kill(os.getpid(), 9)

    child = Child(hold_and_die)
    child.go()
    assert child.code() == -9
    try_to_hold(folder)


def test_processes_of_one_launch_have_one_name():
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
    assert launch_name({**launch, "RANK": "0"}) == launch_name({**launch, "RANK": "1"}) == "node7:29500"
    assert launch_name({**launch, "MASTER_PORT": "29501"}) != "node7:29500"
    assert launch_name({}) is launch_name({**launch, "WORLD_SIZE": "1"}) is None


def test_the_other_processes_wait_until_theirs_holds_the_run(tmp_path):
    """Two launches want one run; the second process of the second launch must not begin with the first launch's."""
    folder = run_folder(tmp_path, "f" * 64)
    went_on = folder.path / "went on"

    def second():
        follow(folder, "b:2", interval=0.01)
        went_on.touch()

    child = Child(second)
    child.go()
    time.sleep(0.1)
    assert not went_on.exists(), "nobody holds it yet"
    with held(folder, wait=False, what="t", launch="a:1"):
        time.sleep(0.1)
        assert not went_on.exists()
    with held(folder, wait=False, what="t", launch="b:2"):
        assert child.code() == 0
    assert went_on.exists()


def test_the_other_processes_need_not_wait_for_a_finished_run(finished):
    with held(finished, wait=False, what="t", launch="a:1"):
        follow(finished, "b:2")


def test_a_file_where_runs_are_kept_is_named(tmp_path):
    (tmp_path / ".work").write_text("")
    with pytest.raises(HarnessError, match=r"cannot be made \(Not a directory\); \.work/runs is where runs are kept"):
        run_folder(tmp_path, "f" * 64)


def test_when_it_began_is_told_of_a_whole_file_only(finished):
    first = finished.started()
    assert finished.started() == first
    (finished.path / "started.json").write_text("[1]")
    with pytest.raises(HarnessError, match=r"started\.json: holds \[1\], expected a string"):
        finished.started()
