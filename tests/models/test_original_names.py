import pytest
import torch
from wan_helpers import SMALL_I2V, golden_wan, small_wan

from harness.models.original_names import to_diffusers, to_original


def test_names_go_there_and_back():
    state = small_wan(**SMALL_I2V).state_dict()
    original = to_original(state)
    back = to_diffusers(original)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert "blocks.1.self_attn.norm_q.weight" in original
    assert "head.modulation" in original


@pytest.mark.parametrize("name", ["t2v", "i2v"])
def test_the_golden_files_use_exactly_these_names(name):
    model, tensors, _ = golden_wan(name)
    assert {f"weights.{key}" for key in to_original(model.state_dict())} == {
        key for key in tensors if key.startswith("weights.")
    }


@pytest.mark.parametrize(
    "name", ["blocks.0.self_attn.z.weight", "vace.weight", "modulation", "blocks.0.head.head.bias"]
)
def test_foreign_names_are_named(name):
    with pytest.raises(KeyError, match=name):
        to_diffusers({name: 0, "head.head.bias": 1})
