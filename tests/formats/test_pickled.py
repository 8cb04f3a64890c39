import pytest
import torch

from harness.errors import HarnessError
from harness.formats.pickled import choose_state, is_state, load_pickle, write_pickle
from harness.formats.placing import whole_file
from harness.formats.tensor_stream import from_tensors

STATE = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bfloat16)}


class Code:
    """Its loading would run code."""

    def __reduce__(self):
        return print, ("this must never be printed",)


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"generator": STATE, "config": Code()}, tmp_path / "a.pt")
    with pytest.raises(HarnessError, match="holds more than tensors"):
        load_pickle(tmp_path / "a.pt")
    assert "never be printed" not in capsys.readouterr().out


def test_what_is_no_such_file_is_named(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    with pytest.raises(HarnessError, match="cannot be read as a PyTorch file"):
        load_pickle(path)
    with pytest.raises(HarnessError, match=r"nothing\.pt.*missing"):
        load_pickle(tmp_path / "nothing.pt")
    torch.save([1], path)
    with pytest.raises(HarnessError, match="holds a list, expected a dictionary"):
        load_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(HarnessError, match=r"a\.pt"):
        load_pickle(path)


def test_written_as_the_reference_does_and_shared(tmp_path, same):
    path = tmp_path / "a.pt"
    write_pickle(from_tensors(STATE), path)
    content = torch.load(path, weights_only=True)
    same(content["generator"], {f"model.{name}": tensor for name, tensor in STATE.items()})
    same(content["generator_ema"], content["generator"])
    big = {"a": torch.zeros(100_000)}
    write_pickle(from_tensors(big), path)
    assert path.stat().st_size < 1.1 * big["a"].nbytes


def test_the_choice_of_weights(tmp_path):
    both = {"generator": {"x": torch.ones(1)}, "generator_ema": {"y": torch.ones(1)}, "model": {"z": torch.ones(1)}}

    def chosen(content, weights=None):
        found, key = choose_state(content, weights, tmp_path)
        return [*found.infos, key]

    assert chosen(both) == ["y", "generator_ema"]
    assert chosen(both, "raw") == ["x", "generator"]
    assert chosen({"model": both["model"]}) == ["z", "model"]
    assert chosen(STATE, "raw") == ["a", "b", "state_dict"]
    with pytest.raises(HarnessError, match="no generator_ema"):
        chosen(STATE, "ema")


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.int8, "int8"), (torch.float8_e4m3fn, "float8_e4m3fn"), (torch.int64, "int64")]
)
def test_quantised_weights_are_refused(tmp_path, dtype, name):
    state = {**STATE, "c": torch.ones(2).to(dtype)}
    for content in (state, {"generator": state}, {"generator_ema": state, "generator": STATE}):
        with pytest.raises(HarnessError, match=rf"a\.pt: c is of type {name}; expected F64, F32, .*Quantised"):
            choose_state(content, None, tmp_path / "a.pt")
    assert choose_state({"generator": STATE, "critic": state}, None, tmp_path)[1] == "generator"


class FullDisk:
    """A file that takes `room` bytes."""

    def __init__(self, room):
        self.room = room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(data)

    def flush(self):
        pass


@pytest.mark.parametrize("room", [0, 1000, 3000])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch, room):
    # From 1000 bytes on the writer's own RuntimeError hides the disk's error.
    monkeypatch.setattr("harness.formats.pickled.open", lambda *_: FullDisk(room), raising=False)
    target = tmp_path / "a.pt"
    target.write_text("old")
    with pytest.raises(HarnessError, match=r"/a\.pt: cannot be written \(No space left"), whole_file(target) as new:
        write_pickle(from_tensors({"a": torch.zeros(1000)}), new)
    assert target.read_text() == "old"


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path, monkeypatch):
    def save(*_):
        raise RuntimeError("another")

    monkeypatch.setattr("torch.save", save)
    with pytest.raises(RuntimeError, match="another"):
        write_pickle(from_tensors(STATE), tmp_path / "a.pt")


@pytest.mark.parametrize("value", [{}, {"a": 1}, {1: torch.ones(1)}, [torch.ones(1)], None])
def test_what_is_no_state(value):
    assert not is_state(value)
    assert is_state(STATE)
