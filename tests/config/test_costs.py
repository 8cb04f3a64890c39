import pytest
from attrs import evolve

from harness.config.costs import (
    dmd_updates,
    ema_half_life,
    long_rollout_cost,
    pixel_frames,
    sampling_forwards,
    training_rollout_cost,
    warped_timesteps,
)
from harness.config.load import resolve_file
from harness.config.schema import RolloutConfig


def test_timesteps_are_the_published_ones():
    assert warped_timesteps([1000, 750, 500, 250], 5.0) == pytest.approx([1000, 937.5, 833.3333, 625])
    assert warped_timesteps([700], 1.0) == pytest.approx([700])


def test_half_life():
    assert 0.99 ** ema_half_life(0.99) == pytest.approx(0.5)
    assert ema_half_life(0.0) == 0


def test_rollout_cost():
    causal = RolloutConfig()
    cost = training_rollout_cost(causal, 21)
    assert (cost.blocks, cost.steps_per_block, cost.context_passes) == (7, 2.5, 6)
    assert cost.forwards == 7 * 2.5 + 6
    last = training_rollout_cost(evolve(causal, exit_step="last"), 21)
    assert last.forwards == 7 * 4 + 6
    whole = training_rollout_cost(evolve(causal, attention="bidirectional"), 21)
    assert (whole.blocks, whole.context_passes, whole.forwards) == (1, 0, 2.5)


def test_forwards_of_a_sampled_video():
    assert sampling_forwards(RolloutConfig(), 21) == (28, 6)
    assert sampling_forwards(RolloutConfig(), 120) == (160, 39)
    assert sampling_forwards(RolloutConfig(attention="bidirectional"), 21) == (4, 0)


def test_a_given_first_frame_costs_a_context_pass_and_no_block():
    given = RolloutConfig(image_conditioning="first_latent")
    assert sampling_forwards(given, 21) == (28, 7)
    assert sampling_forwards(evolve(given, frames_per_block=4), 21) == (20, 5)
    assert sampling_forwards(evolve(given, attention="bidirectional"), 21) == (4, 0)
    cost = training_rollout_cost(given, 22)
    assert (cost.blocks, cost.context_passes) == (7, 7)


def test_the_cost_of_long_tuning(project):
    config = resolve_file(
        project / "dmd.yaml",
        ["long_tuning={enabled: true, max_frames: 33, min_new_frames: 6}"],
        project / "params.yaml",
    )
    clips = evolve(config, long_tuning=evolve(config.long_tuning, max_frames=9))
    assert long_rollout_cost(clips) == training_rollout_cost(config.rollout, 9)
    two = evolve(config, long_tuning=evolve(config.long_tuning, max_frames=18))  # 9, then 6 or 9: 5.5 blocks
    assert (long_rollout_cost(two).blocks, long_rollout_cost(two).context_passes) == (2.75, 2.25)


def test_updates_of_a_distillation(project):
    words = ["dmd.generator_updates=100", "dmd.critic_warmup_updates=50"]
    assert dmd_updates(resolve_file(project / "dmd.yaml", words, project / "params.yaml").dmd) == (645, 545)


def test_frames_of_video():
    assert [pixel_frames(latent, 4) for latent in (1, 2, 21)] == [1, 5, 81]
