import pytest

from harness.config.schema import AdamWConfig, DataConfig, DMDConfig, InitConfig, RolloutConfig, Splits


@pytest.mark.parametrize("frames", [0, 2, 32, -3])
def test_frames_are_one_and_fours(frames):
    with pytest.raises(ValueError, match="1 \\+ 4k"):
        DataConfig(source="videos", height=8, width=8, frames=frames, clips=Splits(train=1, validation=1, test=1))


@pytest.mark.parametrize("steps", [(), (0,), (1001,), (500, 500), (250, 500)])
def test_denoising_steps_decrease_within_the_table(steps):
    with pytest.raises(ValueError):  # noqa: PT011
        RolloutConfig(denoising_steps=steps)


def test_the_defaults_are_the_reference_values():
    rollout = RolloutConfig()
    assert rollout.denoising_steps == (1000, 750, 500, 250)
    assert (rollout.shift, rollout.frames_per_block, rollout.context_sigma, rollout.kv_grad) == (5.0, 3, 0.0, "detach")
    lr = AdamWConfig(lr=1.0)
    dmd = DMDConfig(generator_updates=120, generator_optimizer=lr, critic_optimizer=lr)
    ratio = dmd.critic_updates_per_generator_update
    assert (ratio, dmd.cfg_scale, dmd.ema_decay, dmd.ema_start) == (5, 4.0, 0.99, 200 // 5)  # iteration 200


@pytest.mark.parametrize("window", [0, -2])
def test_window(window):
    with pytest.raises(ValueError, match="all frames"):
        RolloutConfig(window=window)


def test_betas_and_paths():
    with pytest.raises(ValueError, match="each must be in"):
        AdamWConfig(lr=1.0, betas=(0.0, 1.0))
    with pytest.raises(ValueError, match="is read with `kind: checkpoint`, `causal_sft` or `student`"):
        InitConfig(kind="teacher", path="x")
    with pytest.raises(ValueError, match="must be given with `kind: checkpoint`"):
        InitConfig(kind="checkpoint")
    assert InitConfig(kind="checkpoint", path="x").path == "x"
    assert InitConfig(kind="causal_sft").path is None


@pytest.mark.parametrize(
    ("way", "image", "given"),
    [("none", False, False), ("channels", True, False), ("first_latent", True, True), ("both", True, True)],
)
def test_what_a_way_of_giving_the_image_means(way, image, given):
    rollout = RolloutConfig(image_conditioning=way)
    assert (rollout.has_image, rollout.first_frame_given) == (image, given)
