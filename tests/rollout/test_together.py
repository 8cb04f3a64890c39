"""Rollouts that run as one batch must be those that run alone: samples, draws, number of calls, counted FLOPs."""

import pytest
import torch
from small_wan import small_wan

from harness.callbacks.flops import DenoiserCost
from harness.config.schema import RolloutConfig
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition, pad_text
from harness.rollout.few_step import rollout
from harness.rollout.together import Start, rollouts_together

FRAMES, SIZES, TOKENS = 5, (2, 1, 2), (7, 3, 5)
CAUSAL_EXITS = ([1, 1, 1], [0, 0, 0], [2, 2, 2])
SETTINGS = {
    "uniform": ({}, CAUSAL_EXITS),
    "per block": ({}, ([1, 0, 2], [0, 2, 1], [2, 1, 0])),
    "together all the way": ({}, ([2, 2, 2],) * 3),
    "window and sink": ({"window": 4, "sink": 1}, CAUSAL_EXITS),
    "positions in the window": ({"window": 4, "sink": 1, "rope": "relative"}, CAUSAL_EXITS),
    "noised context": ({"context_sigma": 0.1}, CAUSAL_EXITS),
    "bidirectional": ({"attention": "bidirectional"}, ([1], [0], [2])),
}


class Counted(CausalWan):
    """Counts calls, the samples in them, and FLOPs."""

    def forward(self, *args, **kwargs):
        self.calls.append(kwargs["hidden_states"].shape[0])
        self.flops += self.cost.of(args, kwargs)
        return super().forward(*args, **kwargs)

    def start(self):
        self.calls, self.flops, self.cost = [], 0, DenoiserCost(self)
        return self


@pytest.fixture(scope="module")
def network():
    return small_wan(Counted, in_channels=5, image_dim=6, added_kv_proj_dim=24)


def make_starts(exits):
    """Prompts of different lengths, image tokens, a channel of `y`; a generator for each."""
    starts = []
    for number, (size, tokens, exit_steps) in enumerate(zip(SIZES, TOKENS, exits, strict=True)):
        own = torch.Generator().manual_seed(number)
        condition = Condition(
            text=pad_text(torch.randn(size, tokens, 6, generator=own), 9),
            image_tokens=torch.randn(size, 3, 6, generator=own),
            y=torch.randn(size, 1, FRAMES, 4, 4, generator=own),
            unconditional_text=torch.zeros(1, 9, 6),
        )
        noise = torch.randn(size, 4, FRAMES, 4, 4, generator=own)
        starts.append(Start(noise, condition, exit_steps, own))
    return starts


def alone(network, start, config):
    with torch.no_grad():
        return rollout(network, start.noise, start.condition, config, start.rng, start.exit_steps)


def make_config(changes):
    return RolloutConfig(**{"frames_per_block": 2, "denoising_steps": (1000, 600, 300)} | changes)


@pytest.mark.parametrize("name", SETTINGS)
def test_rollouts_together_are_those_alone(network, name):
    changes, exits = SETTINGS[name]
    config = make_config(changes)
    separate, joined = make_starts(exits), make_starts(exits)
    network.start()
    expected = [alone(network, start, config) for start in separate]
    calls, flops = len(network.calls), network.flops
    network.start()
    clips = rollouts_together(network, joined, config)
    for clip, one, start, other in zip(clips, expected, joined, separate, strict=True):
        assert clip.shape == one.shape
        assert torch.allclose(clip, one, atol=2e-5 * one.std().item())
        assert torch.equal(start.rng.get_state(), other.rng.get_state())
    assert network.flops == flops  # the work is the same, in fewer calls
    blocks = len(exits[0])
    longest = sum(max(steps[block] for steps in exits) + 1 for block in range(blocks))
    assert len(network.calls) == longest + blocks - 1 < calls


def test_a_rollout_that_has_reached_its_exit_leaves_the_batch_and_comes_back_for_the_commit(network):
    network.start()
    rollouts_together(network, make_starts(CAUSAL_EXITS), make_config({}))
    assert network.calls == [5, 4, 2, 5, 5, 4, 2, 5, 5, 4, 2]


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_one_rollout_is_the_plain_one_bit_for_bit(network, attention):
    config = make_config({"attention": attention})
    exits = ([1] * (3 if attention == "causal" else 1),) * 3
    network.start()
    (clip,) = rollouts_together(network, make_starts(exits)[:1], config)
    assert torch.equal(clip, alone(network, make_starts(exits)[0], config))


def test_no_gradient_is_kept(network):
    network.start()
    clips = rollouts_together(network, make_starts(CAUSAL_EXITS), make_config({"kv_grad": "straight_through"}))
    assert not any(clip.requires_grad for clip in clips)
