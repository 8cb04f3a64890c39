import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.callbacks.flops import DenoiserCost, causal_pairs
from harness.config.schema import LoRAConfig
from harness.models.attention import block_bounds
from harness.models.causal_wan import CausalWan
from harness.models.kv_cache import KVCache
from harness.models.lora import adapters_off, add_adapters

FRAMES, ROWS, TEXT = 4, 4, 5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CausalWan(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=3,
        ffn_dim=40,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
    )


def arguments(frames=FRAMES, times=None):
    return {
        "hidden_states": torch.randn(2, 4, frames, ROWS, ROWS),
        "timestep": torch.full((2,) if times is None else (2, times), 500.0),
        "encoder_hidden_states": torch.randn(2, TEXT, 8),
    }


def measured(network, **kwargs):
    """FLOPs as torch counts them, with attention written out as matrix products."""
    attention = nn.functional.scaled_dot_product_attention

    def plain(query, key, value, attn_mask=None, **other):
        return ((query @ key.transpose(-2, -1)).softmax(-1)) @ value

    nn.functional.scaled_dot_product_attention = plain
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(**kwargs)
    finally:
        nn.functional.scaled_dot_product_attention = attention
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["bidirectional", "per frame", "cached", "masked", "teacher forcing"])
def test_counts_what_torch_counts(network, kind):
    kwargs = arguments(times=FRAMES if kind in ("per frame", "masked", "teacher forcing") else None)
    if kind == "cached":
        cache = KVCache()
        with torch.no_grad():
            network(**kwargs, cache=cache, write_cache=True)
        kwargs = arguments() | {"cache": cache, "frame_offset": FRAMES}  # another prompt: nothing is reused
    if kind in ("masked", "teacher forcing"):
        kwargs["frames_per_block"] = 3  # the last block is shorter
    if kind == "teacher forcing":
        kwargs["clean_hidden_states"] = torch.randn_like(kwargs["hidden_states"])
    assert DenoiserCost(network).of((), kwargs) == pytest.approx(measured(network, **kwargs), rel=0.01)


def test_adapters_count_unless_they_are_off(network):
    adapted, kwargs = copy.deepcopy(network), arguments()
    add_adapters(adapted, LoRAConfig(rank=5, alpha=5.0), 0)
    on, off = DenoiserCost(adapted), DenoiserCost(adapted, adapters=False)
    assert on.of((), kwargs) == pytest.approx(measured(adapted, **kwargs), rel=0.01)
    assert off.of((), kwargs) == DenoiserCost(network).of((), kwargs)
    with adapters_off(adapted):
        assert off.of((), kwargs) == pytest.approx(measured(adapted, **kwargs), rel=0.01)
    assert on.of((), kwargs) > 1.2 * off.of((), kwargs)


@torch.no_grad()
def test_counts_a_rollout_with_its_commits_and_reused_text(network):
    cost, cache, prompt = DenoiserCost(network), KVCache(), arguments()["encoder_hidden_states"]
    for number, write in enumerate((False, True, False, False, True)):
        kwargs = arguments() | {"cache": cache, "write_cache": write, "frame_offset": cache.num_frames}
        kwargs["encoder_hidden_states"] = prompt
        counted = cost.of((), kwargs)
        assert counted == pytest.approx(measured(network, **kwargs), rel=0.01), number


def test_a_causal_mask_costs_what_is_seen():
    assert causal_pairs(block_bounds(6, 2)) == 2 * 2 + 2 * 4 + 2 * 6
    assert causal_pairs(block_bounds(5, 2)) == 2 * 2 + 2 * 4 + 1 * 5
    assert causal_pairs(block_bounds(4, (1, 3))) == 1 + 3 * 4
    assert causal_pairs(block_bounds(6, 6)) == 36


def test_a_double_without_a_config_is_counted_by_its_products():
    double = nn.Linear(3, 7)
    assert DenoiserCost(double).of((), {"hidden_states": torch.zeros(2, 1, 4, 3, 3)}) == 2 * 2 * 4 * 9 * 21
