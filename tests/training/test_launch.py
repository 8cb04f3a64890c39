"""Two processes of one launch, and another launch at the same run: who trains, who waits, who leaves."""

import os
import time
from pathlib import Path

import pytest

import harness.train as train_module
from harness.config.load import resolve_file
from harness.errors import HarnessError
from harness.train import main, parse, read_request, run
from harness.training import session
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.run_store import held, run_folder


@pytest.fixture
def launch(project, in_processes, monkeypatch):
    """Starts the training entry in two processes; training leaves a note for each, and the first one finishes."""
    (project / "run.yaml").write_text("preset: smoke\nmethod: sft\nseed: 0\ninit: {kind: random}\n")

    def train(request, folder, **kwargs):
        rank = os.environ["RANK"]
        (folder.path / f"trained{rank}").touch()
        if rank == "0":
            while not (folder.path / "trained1").exists():  # the second process is needed
                time.sleep(0.01)
            (folder.output / "checkpoints/model").mkdir(parents=True)
            folder.finish({"fingerprint": "f"})

    monkeypatch.setattr(session, "train", train)
    plain = train_module.run_folder

    def noted(root, identity):
        folder = plain(root, identity)
        (folder.path / f"here{os.environ.get('RANK')}").touch()
        return folder

    monkeypatch.setattr(train_module, "run_folder", noted)

    def start(*words):
        def call(rank):
            os._exit(main(["run.yaml", *words]))

        return in_processes(call, 2)

    return start


def this_run(project):
    config = resolve_file("run.yaml")
    return run_folder(project, fingerprint(config, input_digests(config, project), 2))


def test_both_processes_train_and_the_first_gives_out(project, launch):
    assert launch() == [0, 0]
    assert {path.name for path in this_run(project).path.glob("trained*")} == {"trained0", "trained1"}
    assert Path("runs/run/checkpoints/model").is_dir()


def in_a_fork(folder, call):
    """Hold the run in another process, which calls when both processes of the launch have come to it."""
    child = os.fork()
    if child == 0:
        with held(folder, wait=False, what="the other launch", launch="other:1"):
            (folder.path / "held").touch()
            while len(list(folder.path.glob("here?"))) < 2:
                time.sleep(0.01)
            time.sleep(0.3)
            call()
            os._exit(0)
    while not (folder.path / "held").exists():
        time.sleep(0.01)
    return child


def test_a_second_launch_waits_and_finds_the_run_finished(project, launch):
    folder = this_run(project)

    def other():
        (folder.output / "checkpoints/model").mkdir(parents=True)
        folder.finish({"fingerprint": "f"})

    child = in_a_fork(folder, other)
    assert launch("--wait") == [0, 0]
    os.waitpid(child, 0)
    assert not list(folder.path.glob("trained*")), "neither of its processes trains"
    assert Path("runs/run/checkpoints/model").is_dir()


def test_a_second_launch_takes_over_when_the_first_is_gone(project, launch):
    folder = this_run(project)
    child = in_a_fork(folder, lambda: os.kill(os.getpid(), 9))
    assert launch("--wait") == [0, 0]
    os.waitpid(child, 0)
    assert len(list(folder.path.glob("trained*"))) == 2


def test_without_waiting_the_second_launch_is_told_who_trains(project, launch):
    folder, request = this_run(project), read_request(parse(["run.yaml"]), project)
    told = pytest.raises(HarnessError, match=f"being trained by process {os.getpid()}")
    with held(folder, wait=False, what="t", launch="other:1"), told:
        run(request, project, wait=False, rank=0, world_size=2)
