"""Runs that are killed at any moment and started again end bit for bit as if they had not been.

Every method, in one process and in two, spread in every way. The kills are SIGKILLs: amid the writing of a resume
state, and at random times.
"""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from several_processes import SAMPLES, cpu_shims, rows, score, train, weights, with_parallelism

from harness.training import state_files
from harness.training.state_files import batches_saved, read_state

DMD = ("dmd.generator_updates=4", "dmd.critic_warmup_updates=2", "dmd.ema_decay=0.9", "dmd.monitor_every_updates=1")
METHODS = {
    "sft": ("sft", ()),
    "teacher_forcing": ("causal_sft", ("causal_sft.context=teacher_forcing",)),
    "diffusion_forcing": ("causal_sft", ("causal_sft.context=diffusion_forcing",)),
    "dmd_causal": ("dmd", DMD),
    "dmd_bidirectional": ("dmd", (*DMD, "rollout.attention=bidirectional")),
    "dmd_adapters": ("dmd", (*DMD, "lora.rank=2", "lora.alpha=4.0", "lora.share_teacher=true")),
}
PROCESSES = {"one": ("ddp", 1), "ddp": ("ddp", 2), "fsdp1": ("fsdp1", 2), "fsdp2": ("fsdp2", 2)}
WRITES = ("file", "index", "renamed", "removal")  # moments of the writing of a state


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(seconds):
    threading.Timer(seconds, die).start()


def kill_in_write(moment, number):
    """Die in the middle of the writing of the `number`-th state from now."""
    states = 0
    plain = {name: getattr(state_files, name) for name in ("atomic_write_bytes", "write_json", "_rename", "_remove")}

    def file(path, data):
        nonlocal states
        states += 1
        if moment == "file" and states == number:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[: len(data) // 2])
            die()
        plain["atomic_write_bytes"](path, data)

    def index(path, content):
        if moment == "index" and states == number:
            die()
        plain["write_json"](path, content)

    def rename(work, folder):
        plain["_rename"](work, folder)
        if moment == "renamed" and states == number:
            die()

    def remove(folder):
        if moment == "removal" and states >= number and not folder.name.startswith("."):
            next(folder.iterdir()).unlink()
            die()
        plain["_remove"](folder)

    changed = {"atomic_write_bytes": file, "write_json": index, "_rename": rename, "_remove": remove}
    for name, function in changed.items():
        setattr(state_files, name, function)


def start(config, folder, in_processes, ranks, kill=None):
    """Train in processes; their exit codes. `kill(rank)` prepares the end of one."""

    def call(rank):
        cpu_shims()
        if kill is not None:
            kill(rank)
        train(config, folder, rank, ranks, score=score)
        os._exit(0)  # a timer that is still running must not kill what has ended

    return in_processes(call, ranks)


def equal(a, b):
    """Whether two saved states are the same, bit for bit, but for measured times and memory."""
    if isinstance(a, dict):
        skipped = {"device_seconds", "wall_seconds", "peak_memory_mib"}
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a.keys() - skipped)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_same(whole: Path, killed: Path, ranks):
    assert rows(whole / "history.csv") == rows(killed / "history.csv")
    assert rows(whole / "quality.csv") == rows(killed / "quality.csv")
    last = max(batches_saved(whole / "states"))
    assert last == max(batches_saved(killed / "states"))
    for rank in range(ranks):  # weights, moments, averages, counters
        first, second = (read_state(folder / "states", last, rank) for folder in (whole, killed))
        assert equal(first, second)
        assert any(moments for moments in first["moments"])
    models = [path.name for path in whole.iterdir() if (path / "config.json").exists()]
    assert {"generator", "ema", "best"} <= set(models)
    for name in models:
        first, second = weights(whole / name), weights(killed / name)
        assert equal(first, second), name


@pytest.mark.parametrize(
    ("method", "processes"),
    [
        pytest.param(method, processes, marks=[] if (method, processes) == ("dmd_causal", "ddp") else pytest.mark.slow)
        for method in METHODS
        for processes in PROCESSES
    ],
)
def test_killed_twice(small_run, prepared, in_processes, tmp_path, method, processes):
    kind, ranks = PROCESSES[processes]
    name, overrides = METHODS[method]
    updates = () if name == "dmd" else (f"{name}.updates=8", f"{name}.monitor_every_updates=2")
    config = small_run(prepared, name, *overrides, *updates, f"{name}.batch_size={SAMPLES}", "save_every_batches=2")
    config = with_parallelism(config, kind=kind)
    began = time.monotonic()
    assert start(config, tmp_path / "whole", in_processes, ranks) == [0] * ranks
    duration = time.monotonic() - began

    chance = random.Random(f"{method} {processes}")
    killed = tmp_path / "killed"
    moment, number = chance.choice(WRITES), chance.randint(2, 3)
    dying = chance.randrange(ranks) if moment == "file" else 0
    kills = [lambda rank: kill_in_write(moment, number) if rank == dying else None]
    seconds = chance.uniform(0.1, 0.9) * duration
    kills.append(lambda rank: kill_at(seconds))
    for number_of_kill, kill in enumerate(kills):
        codes = start(config, killed, in_processes, ranks, kill)
        print(f"{method}, {processes}: kill {number_of_kill} ({moment} {number}, {seconds:.2f} s) gave {codes}")
        if number_of_kill == 0:
            assert codes[dying] == -signal.SIGKILL
            assert all(codes)
    assert start(config, killed, in_processes, ranks) == [0] * ranks
    assert_same(tmp_path / "whole", killed, ranks)


def test_the_comparison_sees_a_bit():
    a = {"moments": [{"step": torch.tensor(1.0)}], "timestamp": {"batch": 3}, "parts": {"meter": {"wall_seconds": 1.0}}}
    assert equal(a, {**a, "parts": {"meter": {"wall_seconds": 2.0}}})
    assert not equal(a, {**a, "moments": [{"step": torch.tensor(1.0 + 2**-23)}]})
    assert not equal(a, {**a, "timestamp": {"batch": 4}})
