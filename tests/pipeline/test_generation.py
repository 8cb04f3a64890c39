"""Blocks of a video of any length."""

import pytest
import torch
from image_project import LATENT, random_model

from harness.config.schema import RolloutConfig
from harness.models.condition import Condition, position_channels
from harness.pipeline.generation import buffer_for, made_blocks, noise_by_block, whole_blocks
from harness.rollout.few_step import rollout

CAUSAL = RolloutConfig(frames_per_block=2, denoising_steps=(1000, 500))
GIVEN = RolloutConfig(frames_per_block=2, image_conditioning="first_latent")


def test_blocks_are_whole_and_cover_the_frames():
    assert whole_blocks(4, CAUSAL) == [(0, 2), (2, 4)]
    assert whole_blocks(5, CAUSAL) == [(0, 2), (2, 4), (4, 6)]
    assert whole_blocks(4, GIVEN) == [(1, 3), (3, 5)]


def test_the_cache_holds_the_window_or_everything():
    bounded = RolloutConfig(frames_per_block=3, window=6, sink=1)
    assert [buffer_for(frames, bounded) for frames in (3, 6, 500)] == [3, 6, 6]
    assert buffer_for(500, RolloutConfig(frames_per_block=3, window=6, sink=4)) == 7
    assert buffer_for(500, CAUSAL) == 500


def test_noise_goes_on_where_the_first_ends():
    asked = []

    def draw(start: int, end: int) -> torch.Tensor:
        asked.append((start, end))
        return torch.full((1, 1, end - start, 1, 1), 9.0)

    first = torch.arange(5.0).view(1, 1, 5, 1, 1)
    noise = noise_by_block(first, draw)
    assert noise(0, 3).flatten().tolist() == [0, 1, 2]
    assert noise(3, 6).flatten().tolist() == [3, 4, 9]
    assert noise(6, 9).flatten().tolist() == [9, 9, 9]
    assert asked == [(5, 6), (6, 9)]


def condition(value: float) -> Condition:
    return Condition(text=torch.full((1, 4, 64), value), positions=position_channels(*LATENT[1:])[None])


@pytest.mark.parametrize("buffered", [False, True])
def test_blocks_are_those_of_a_rollout_until_the_prompt_changes(buffered):
    model, frames = random_model("tiny", 0), 8
    noise = torch.randn(1, LATENT[0], frames, *LATENT[2:], generator=torch.Generator().manual_seed(0))

    def made(switches) -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(1)
        spans, buffer = whole_blocks(frames, CAUSAL), buffer_for(frames, CAUSAL) if buffered else None
        blocks = made_blocks(model, condition(0.1), CAUSAL, spans, lambda a, b: noise[:, :, a:b], rng, switches, buffer)
        return list(blocks)

    plain = torch.cat(made({}), dim=2)
    whole = rollout(model, noise, condition(0.1), CAUSAL, torch.Generator().manual_seed(1))
    assert torch.equal(plain, whole)
    assert not plain.requires_grad
    switched = torch.cat(made({4: condition(2.0)}), dim=2)
    assert torch.equal(switched[:, :, :4], plain[:, :, :4])
    assert not torch.allclose(switched[:, :, 4:], plain[:, :, 4:], atol=1e-3)
