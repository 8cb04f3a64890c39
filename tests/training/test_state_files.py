import pytest
import torch

from harness.errors import HarnessError
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
        write_state(root, batch, {"x": torch.full((3,), float(batch)), "n": batch}, fingerprint="mine", **kwargs)


def newest(root, **kwargs):
    return newest_good(root, **({"fingerprint": "mine", "world_size": 1} | kwargs))


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


def test_another_runs_state_is_refused_by_name(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(HarnessError, match=r"batch00000005: is the state of run mine, this is run yours"):
        newest(tmp_path, fingerprint="yours")


def test_another_number_of_processes_is_refused(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(HarnessError, match="saved by 1 processes, now there are 2"):
        newest(tmp_path, world_size=2)


def test_states_are_read_without_running_code(tmp_path):
    write_state(tmp_path, 1, {"x": torch.nn.Linear(1, 1)}, fingerprint="mine")
    with pytest.raises(Exception, match="weights_only"):
        read_state(tmp_path, 1)
