import fcntl
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from harness.data import shared_memory
from harness.data.loader import build_dataloader
from harness.data.shared_memory import release_stale

context = multiprocessing.get_context("fork")


def open_loader(data):
    return build_dataloader(data.encoded / "train", 8, seed=3, text_length=data.text_length)


def blocks(prefix):
    return sorted(p.name for p in Path("/dev/shm").glob(f"{prefix:06}_*"))


def _hold(data, numbers, stop):
    numbers.put(open_loader(data).dataset._shm_prefix_int)
    stop.wait(60)


def test_trainings_that_start_together_take_different_numbers(data):
    numbers, stop = context.Queue(), context.Event()
    children = [context.Process(target=_hold, args=(data, numbers, stop)) for _ in range(4)]
    for child in children:
        child.start()
    taken = [numbers.get(timeout=60) for _ in children]
    stop.set()
    for child in children:
        child.join(60)
    assert len(set(taken)) == 4
    assert [child.exitcode for child in children] == [0] * 4


def _start_and_end(data, done):
    list(open_loader(data))
    done.put(release_stale())


def test_a_start_leaves_a_running_training_alone(data):
    whole = open_loader(data)
    expected = [[batch["key"] for batch in whole] for _ in range(2)]
    begun = open_loader(data)
    batches = iter(begun)
    first = [next(batches)["key"]]
    resumed = open_loader(data)
    resumed.load_state_dict(begun.state_dict())  # waits in shared memory for the next iteration
    before = blocks(resumed.dataset._shm_prefix_int)

    done = context.Queue()
    other = context.Process(target=_start_and_end, args=(data, done))
    other.start()
    freed = done.get(timeout=60)
    other.join(60)

    assert resumed.dataset._shm_prefix_int not in freed
    assert blocks(resumed.dataset._shm_prefix_int) == before
    assert [batch["key"] for batch in resumed] == expected[0][1:]
    assert first + [batch["key"] for batch in batches] == expected[0]
    assert [batch["key"] for batch in begun] == expected[1]


def test_what_a_killed_training_left_is_removed_at_the_next_start(data):
    numbers, stop = context.Queue(), context.Event()
    child = context.Process(target=_hold, args=(data, numbers, stop))
    child.start()
    prefix = numbers.get(timeout=60)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert blocks(prefix)
    loader = open_loader(data)
    if loader.dataset._shm_prefix_int != prefix:  # taken again at once, unless a neighbor was faster
        assert not blocks(prefix)
    owners = {Path(held.name).name for held in shared_memory._held if not held.closed}
    assert f"{loader.dataset._shm_prefix_int:06}_harness_owner" in owners
    assert len(list(loader)) == 5


def test_blocks_without_an_owner_file_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "_root", lambda: tmp_path / "tmp")
    monkeypatch.setattr(shared_memory, "_SHM", tmp_path / "shm")
    for folder in ("tmp", "shm"):
        (tmp_path / folder).mkdir()
    for name in ("000007_locals", "000008_locals", "000008_epoch_data", "000008_other"):
        (tmp_path / "shm" / name).touch()
    for name in ("000008_harness_owner", "000008_barrier_filelock", "000007_barrier_filelock"):
        (tmp_path / "tmp" / name).touch()
    assert release_stale() == [8]
    assert sorted(os.listdir(tmp_path / "shm")) == ["000007_locals", "000008_other"]
    assert os.listdir(tmp_path / "tmp") == ["000007_barrier_filelock"]


def test_a_held_number_is_not_freed(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "_root", lambda: tmp_path)
    monkeypatch.setattr(shared_memory, "_held", [])
    shared_memory._own(5)
    assert release_stale() == []
    shared_memory._held.pop().close()
    assert release_stale() == [5]


def test_a_failed_start_gives_the_lock_back(data):
    with pytest.raises(ValueError, match="shuffle_seed"):
        build_dataloader(data.encoded / "train", 8, seed=-1, text_length=data.text_length)
    assert len(list(open_loader(data))) == 5


def test_a_number_is_looked_for_and_taken_under_the_start_lock(tmp_path, monkeypatch):
    locked = []

    class Dataset:
        _shm_prefix_int = 3

        def __init__(self, **arguments):
            with open(next(tmp_path.glob("*.lock"))) as other:
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    locked.append(False)
                except BlockingIOError:
                    locked.append(True)

    monkeypatch.setattr(shared_memory, "_root", lambda: tmp_path)
    monkeypatch.setattr(shared_memory, "_held", [])
    monkeypatch.setattr(shared_memory, "StreamingDataset", Dataset)
    shared_memory.open_streaming()
    assert locked == [True]
    assert (tmp_path / "000003_harness_owner").exists()
