import pytest
import torch
from linear_video import LinearVideo, make_condition, make_noise

from harness.config.schema import RolloutConfig
from harness.rollout.few_step import draw_exit_steps, num_blocks, rollout


def rng(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("frames", "blocks"), [(9, 3), (10, 4), (2, 1), (21, 7)])
def test_blocks_are_counted_with_a_shorter_last_one(frames, blocks):
    assert num_blocks(RolloutConfig(), frames) == blocks
    assert num_blocks(RolloutConfig(attention="bidirectional"), frames) == 1


def test_the_exit_step_is_shared_by_all_blocks_and_covers_all_steps():
    generator = rng()
    drawn = [draw_exit_steps(RolloutConfig(), 3, generator) for _ in range(100)]
    assert all(len(steps) == 3 and len(set(steps)) == 1 for steps in drawn)
    assert {steps[0] for steps in drawn} == {0, 1, 2, 3}


def test_the_exit_step_is_equal_for_equal_shared_generators():
    assert draw_exit_steps(RolloutConfig(), 3, rng(3)) == draw_exit_steps(RolloutConfig(), 3, rng(3))


def test_other_ways_to_draw_the_exit_step():
    assert draw_exit_steps(RolloutConfig(exit_step="last"), 3, rng()) == [3, 3, 3]
    generator = rng()
    per_block = [draw_exit_steps(RolloutConfig(exit_step="uniform_per_block"), 3, generator) for _ in range(50)]
    assert all(len(steps) == 3 for steps in per_block)
    assert any(len(set(steps)) > 1 for steps in per_block)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_sampling_runs_every_step_without_gradient_and_equals_the_last_exit(attention):
    config = RolloutConfig(attention=attention, frames_per_block=2)
    model, noise, condition = LinearVideo(), make_noise(), make_condition()
    sampled = rollout(model, noise, condition, config, rng())
    assert not sampled.requires_grad
    assert not any(call["grad"] for call in model.calls)
    predictions = sum(not call["write"] for call in model.calls)
    blocks = num_blocks(config, 4)
    assert predictions == 4 * blocks
    assert sum(call["write"] for call in model.calls) == blocks - 1
    trained = rollout(LinearVideo(), noise, condition, config, rng(), [3] * blocks)
    assert trained.requires_grad
    assert torch.equal(sampled, trained.detach())


def test_a_caller_without_gradient_gets_none():
    with torch.no_grad():
        x = rollout(LinearVideo(), make_noise(), make_condition(), RolloutConfig(frames_per_block=2), rng(), [1, 1])
    assert not x.requires_grad
