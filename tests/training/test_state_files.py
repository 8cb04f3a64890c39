import contextlib
import resource
import shutil
import threading

import pytest
import torch

from harness.errors import HarnessError
from harness.training import state_files
from harness.training.state_files import (
    batches_saved,
    newest_good,
    rank_file,
    read_state,
    state_folder,
    write_state,
)


def save(root, *batches, **kwargs):
    for batch in batches:
        content = {"x": torch.full((3,), float(batch)), "n": batch}
        write_state(root, batch, content, stage="sft", fingerprint="mine", **kwargs)


def newest(root, **kwargs):
    return newest_good(root, **({"stage": "sft", "fingerprint": "mine", "world_size": 1} | kwargs))


def test_round_trip_and_only_the_last_two_stay(tmp_path):
    save(tmp_path, 1, 2, 10)
    assert sorted(batches_saved(tmp_path)) == [2, 10]
    assert newest(tmp_path) == 10
    assert read_state(tmp_path, 10)["x"].tolist() == [10.0] * 3
    assert newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "index"])
def test_the_one_before_is_taken_when_the_newest_is_damaged(tmp_path, damage):
    save(tmp_path, 5, 6)
    path = rank_file(state_folder(tmp_path, 6), 0)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-10])
    elif damage == "remove":
        path.unlink()
    else:
        (path.parent / "state.json").write_text("{")
    told = []
    assert newest(tmp_path, tell=told.append) == 5
    assert len(told) == 1
    assert "batch00000006" in told[0]
    assert "older state" in told[0]


def test_half_written_states_are_not_seen(tmp_path):
    save(tmp_path, 5)
    partial = tmp_path / ".batch00000006.partial"
    partial.mkdir()
    (partial / "rank0.pt").write_bytes(b"half")
    assert newest(tmp_path) == 5
    save(tmp_path, 6)
    assert newest(tmp_path) == 6
    assert not partial.exists()


def test_as_many_stay_as_are_wanted(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5, keep=3)
    assert sorted(batches_saved(tmp_path)) == [3, 4, 5]
    save(tmp_path, 6, keep=1)
    assert batches_saved(tmp_path) == [6]


def test_what_is_saved_after_two_damaged_states_stays(tmp_path):
    save(tmp_path, 5, 6)
    for batch in (5, 6):
        rank_file(state_folder(tmp_path, batch), 0).write_bytes(b"damaged")
    assert newest(tmp_path) is None
    save(tmp_path, 2)  # begun anew
    assert batches_saved(tmp_path) == [2], "the damaged ones are of later batches"
    assert newest(tmp_path) == 2


def test_half_written_states_of_any_batch_go_with_the_next_one(tmp_path):
    for batch in (4, 9):
        (tmp_path / f".batch0000000{batch}.partial").mkdir(parents=True)
    save(tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["batch00000006"]


def test_another_stages_state_is_refused_by_name(tmp_path):
    save(tmp_path, 5)
    message = r"batch00000005: is a state of sft \(run mine\), this is dmd \(run yours\); .* Delete it"
    with pytest.raises(HarnessError, match=message):
        newest(tmp_path, stage="dmd", fingerprint="yours")


def test_another_number_of_processes_is_refused(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(HarnessError, match="saved by 1 processes, now there are 2"):
        newest(tmp_path, world_size=2)


def test_states_are_read_without_running_code(tmp_path):
    write_state(tmp_path, 1, {"x": torch.nn.Linear(1, 1)}, stage="sft", fingerprint="mine")
    with pytest.raises(Exception, match="weights_only"):
        read_state(tmp_path, 1)


@contextlib.contextmanager
def largest_file(size):
    """The largest size of a file that this process may write, the test's own output included: a disk that fills."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_the_last_state_stays(tmp_path):
    save(tmp_path, 5, 6)
    with pytest.raises(HarnessError) as error, largest_file(100_000):
        write_state(tmp_path, 7, {"x": torch.zeros(100_000)}, stage="sft", fingerprint="mine")
    told = str(error.value)
    assert "rank0.pt: cannot be written" in told
    assert "free space" in told
    assert "The state after batch 7 was not saved; " in told
    assert f"{state_folder(tmp_path, 6)} is whole" in told
    assert newest(tmp_path) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch00000005", "batch00000006"], "its part is freed"
    save(tmp_path, 7)
    assert newest(tmp_path) == 7


def test_a_first_state_that_cannot_be_written(tmp_path):
    with pytest.raises(HarnessError, match="no state was saved before"), largest_file(100):
        save(tmp_path, 5)


class Together:
    """Threads as processes: `gather` returns in all of them at once."""

    def __init__(self, number):
        self.barrier, self.values, self.results = (
            threading.Barrier(number, timeout=20),
            [None] * number,
            [None] * number,
        )

    def run(self, call):
        def work(rank):
            def gather(value):
                self.values[rank] = value
                self.barrier.wait()
                values = list(self.values)
                self.barrier.wait()
                return values

            try:
                self.results[rank] = call(rank, gather)
            except HarnessError as error:
                self.results[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(self.results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.results


def save_together(root, batch):
    def call(rank, gather):
        save(root, batch, rank=rank, world_size=2, gather=gather)

    assert Together(2).run(call) == [None, None]


def newest_together(root):
    def call(rank, gather):
        return newest(root, world_size=2, rank=rank, gather=gather)

    return Together(2).run(call)


def test_all_processes_take_the_newest_state_that_is_whole_for_all(tmp_path):
    save_together(tmp_path, 5)
    save_together(tmp_path, 6)
    assert newest_together(tmp_path) == [6, 6]
    rank_file(state_folder(tmp_path, 6), 1).write_bytes(b"damaged")
    assert newest_together(tmp_path) == [5, 5]
    (state_folder(tmp_path, 5) / "state.json").write_text("{}")
    assert newest_together(tmp_path) == [None, None]


def test_a_state_that_one_process_does_not_see_is_taken_by_none(tmp_path):
    """A folder may come late to another node."""
    save_together(tmp_path / "here", 5)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    save_together(tmp_path / "here", 6)

    def call(rank, gather):
        return newest(tmp_path / ("there" if rank else "here"), world_size=2, rank=rank, gather=gather)

    assert Together(2).run(call) == [5, 5]


def test_each_process_looks_at_its_own_file_only(tmp_path, monkeypatch):
    save_together(tmp_path, 5)
    seen = []
    plain = state_files.sha256_file
    monkeypatch.setattr(state_files, "sha256_file", lambda path: seen.append(path.name) or plain(path))
    assert newest(tmp_path, world_size=2, rank=1) == 5
    assert seen == ["rank1.pt"]


def test_what_fails_in_one_process_is_told_in_all(tmp_path, monkeypatch):
    save_together(tmp_path, 5)
    plain = state_files.atomic_write_bytes

    def full(path, data):
        if path.name == "rank1.pt":
            raise HarnessError(f"{path}: cannot be written (No space left on device)")
        plain(path, data)

    monkeypatch.setattr(state_files, "atomic_write_bytes", full)

    def call(rank, gather):
        save(tmp_path, 6, rank=rank, world_size=2, gather=gather)

    first, second = Together(2).run(call)
    for error in (first, second):
        assert "rank1.pt: cannot be written (No space left on device)" in str(error)
        assert "batch00000005 is whole" in str(error)
    assert newest_together(tmp_path) == [5, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["batch00000005"]


def test_a_foreign_state_is_refused_in_all_processes(tmp_path):
    save_together(tmp_path, 5)

    def call(rank, gather):
        return newest(tmp_path, fingerprint="yours", world_size=2, rank=rank, gather=gather)

    assert all("this is sft (run yours)" in str(error) for error in Together(2).run(call))
