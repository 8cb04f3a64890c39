import pytest
import torch
from checkpoint_makers import T2V, random_state
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError
from harness.formats.safetensors_files import read_safetensors, tensor_bytes, write_safetensors
from harness.formats.tensor_stream import from_tensors

MIXED = {
    "z": torch.arange(3, dtype=torch.bfloat16),
    "a": torch.arange(6, dtype=torch.float16).reshape(2, 3).T,  # not contiguous
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "é": torch.tensor([float("nan"), float("-inf"), -0.0]),
    "empty": torch.zeros(0, 4),
}


def test_the_bytes_are_those_of_the_library(tmp_path):
    for number, state in enumerate((MIXED, random_state(T2V, dtype=None), dict(reversed(MIXED.items())))):
        ours, theirs = tmp_path / f"{number}.ours", tmp_path / f"{number}.theirs"
        write_safetensors(from_tensors(state), {ours: list(state)})
        save_file({name: t.contiguous() for name, t in state.items()}, theirs, metadata={"format": "pt"})
        assert ours.read_bytes() == theirs.read_bytes()


def test_tensors_go_to_several_files_in_any_order(tmp_path, same):
    files = {tmp_path / "one": ["é", "z"], tmp_path / "two": ["a", "scalar", "empty"]}
    write_safetensors(from_tensors(MIXED), files)
    for path, names in files.items():
        same(load_file(path), {name: MIXED[name] for name in names})
    weights = read_safetensors(list(files))
    same(dict(weights.stream()), MIXED)
    assert weights.nbytes == sum(t.nbytes for t in MIXED.values())
    assert {name: (i.shape, i.dtype) for name, i in weights.infos.items()} == {
        name: (tuple(t.shape), t.dtype) for name, t in MIXED.items()
    }


def test_a_name_in_two_files_is_refused(tmp_path):
    for name in ("one", "two"):
        save_file({"same": torch.ones(1), name: torch.ones(1)}, tmp_path / name)
    with pytest.raises(HarnessError, match="same is in two files"):
        read_safetensors([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b"\xff" * 64])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(HarnessError, match=r"a\.safetensors: cannot be read as safetensors"):
        read_safetensors([path])
    with pytest.raises(HarnessError, match="missing"):
        read_safetensors([tmp_path / "nowhere"])


def test_bytes_of_a_view():
    base = torch.arange(8, dtype=torch.float32)
    assert bytes(tensor_bytes(base[2:4])) == base[2:4].numpy().tobytes()
