"""The verb from its words to a file: what it refuses, what it says, how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import pytest
from image_project import SIZE, target
from layers import ROOT

from harness.cli import VERBS, run_verb
from harness.errors import HarnessError
from harness.interactive import verb

PROMPT = "a red 7 moving left slowly"


@pytest.fixture
def typed(monkeypatch):
    """Standard input that is a pipe; gives what writes to it."""
    source, end = os.pipe()
    with os.fdopen(source) as reading, os.fdopen(end, "wb", buffering=0) as writing:
        monkeypatch.setattr(sys, "stdin", reading)
        yield writing


def test_a_video_of_two_prompts_in_a_file(project, typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    typed.write(b"a blue 1 moving up quickly\n")
    out = tmp_path / "x.mp4"
    arguments = [target("none"), "--prompt", f"{PROMPT} dragon", "--frames", "30", "--out", str(out)]
    assert run_verb("interactive", VERBS["interactive"], arguments) == 0
    text = capsys.readouterr().out
    assert "note: trained without a window" in text
    assert "1 of its words were in no training caption" in text
    assert f"frame 0: {PROMPT} dragon (seed 0)" in text
    assert ": a blue 1 moving up quickly (seed 0)" in text
    assert f"{out}: 30 frames" in text
    assert iio.imread(out).shape == (30, 4 * SIZE, 4 * SIZE, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "0"], "--frames 0: expected at least 1"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--port", "80"], "--port 80: only with --web"),
        (["--web", "--port", "70000"], "--port 70000: at most 65535"),
        (["--fps", "0"], "--fps 0.0: expected more than 0"),
        (["--fps", "nan"], "--fps nan: expected more than 0"),
        (["--out", "x.png"], "--out x.png: expected a file that ends in .mp4"),
        (["--prompt", " "], "an empty prompt"),
        (["--prompt", "a red 7 " * 20], "longer than 12 tokens"),
        (["--window", "-1"], "--window -1"),
    ],
)
def test_what_is_refused_in_one_line(project, typed, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(project)
    arguments = [target("none"), "--out", str(tmp_path / "x.mp4"), "--prompt", PROMPT, *words]
    assert run_verb("interactive", VERBS["interactive"], arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_prompt_it_is_asked_for_or_refused(project, typed, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(HarnessError, match="no prompt: say how the video begins"):
        verb.main([target("none")])


def test_a_port_in_use_leaves_no_file(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = [target("none"), "--prompt", PROMPT, "--web", "--port", port, "--out", str(tmp_path / "x.mp4")]
        assert run_verb("interactive", VERBS["interactive"], words) == 2
    assert f"--port {port}: cannot be used" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_fails_stays_partial(tmp_path):
    recording = verb.Recording(tmp_path / "x.mp4", 8)

    def broken() -> None:
        with recording.kept():
            for _ in range(3):
                recording.write(np.zeros((24, 24, 3), np.uint8))
            raise HarnessError("disk")

    with pytest.raises(HarnessError, match="disk"):
        broken()
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial.mp4"]
    nowhere = verb.Recording(None, 8)
    with nowhere.kept():
        nowhere.write(np.zeros((24, 24, 3), np.uint8))


@pytest.mark.parametrize(("ending", "web"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
@pytest.mark.slow
def test_it_can_be_ended_at_any_time_and_the_file_is_whole(project, tmp_path, ending, web):
    out = tmp_path / "x.mp4"
    words = [target("none"), "--prompt", PROMPT, "--out", str(out), *(["--web", "--port", "0"] if web else [])]
    command = [sys.executable, "-m", "harness", "interactive", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=project, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith((b"frame 0", b"open http://127.0.0.1:")):
            break
    time.sleep(1)
    process.send_signal(ending)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert b"Traceback" not in rest
    if web:  # nobody has looked
        assert not out.exists()
    else:
        assert len(iio.imread(out)) > 0
