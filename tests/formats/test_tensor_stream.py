import pytest
import torch

from harness.errors import HarnessError
from harness.formats.tensor_stream import Info, cast, from_tensors, joined, renamed

A = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}


def test_renamed_keeps_only_what_is_listed():
    weights = renamed(from_tensors(A), {"b": "new"})
    assert weights.infos == {"new": Info((4,), torch.bfloat16)}
    ((name, tensor),) = weights.stream()
    assert (name, tensor.dtype) == ("new", torch.bfloat16)


def test_cast_changes_every_tensor_or_none():
    assert cast(from_tensors(A), None).infos == from_tensors(A).infos
    weights = cast(from_tensors(A), torch.float16)
    assert {info.dtype for info in weights.infos.values()} == {torch.float16}
    assert {tensor.dtype for _, tensor in weights.stream()} == {torch.float16}
    assert weights.nbytes == 2 * (6 + 4)


def test_joined_streams_again_and_refuses_a_name_twice():
    parts = [from_tensors({"a": A["a"]}), from_tensors({"b": A["b"]})]
    weights = joined(parts, "here")
    assert [name for name, _ in weights.stream()] == [name for name, _ in weights.stream()] == ["a", "b"]
    with pytest.raises(HarnessError, match="here: a is in two files"):
        joined([*parts, parts[0]], "here")
