import pytest
import torch
from linear_video import LinearVideo, make_condition, make_noise

from harness.config.schema import RolloutConfig
from harness.rollout.causal import block_spans, causal_rollout, first_gradient_frame

STEPS = (1000.0, 937.5, 2500 / 3, 625.0)  # the default list, warped at shift 5


def rng(seed=7):
    return torch.Generator().manual_seed(seed)


def by_hand(model, noise, condition, exit_step, generator):
    """Write the rollout of two blocks of two frames out, with plain tensors for the memory."""
    a, b, c, d, e = model.parameters()
    words = condition.text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
    context, blocks = torch.tensor(0.0), []
    for start in (0, 2):
        x = noise[:, :, start : start + 2]
        for step in range(exit_step + 1):
            sigma = STEPS[step] / 1000
            p = [a, b, c, d] if step == exit_step else [v.detach() for v in (a, b, c, d)]
            x0 = x - sigma * (p[0] * x + p[1] * sigma + p[2] * context + p[3] * words)
            if step < exit_step:
                fresh = torch.randn(x.shape, generator=generator)
                x = (1 - STEPS[step + 1] / 1000) * x0 + STEPS[step + 1] / 1000 * fresh
        blocks.append(x0)
        context = (e * x0.mean(dim=(1, 2, 3, 4), keepdim=True)).detach()
    return torch.cat(blocks, dim=2)


@pytest.mark.parametrize("exit_step", [0, 1, 3])
def test_the_rollout_and_its_gradient_are_those_written_out_by_hand(exit_step):
    noise, condition = make_noise(), make_condition()
    model, reference = LinearVideo(), LinearVideo()
    config = RolloutConfig(frames_per_block=2)
    x = causal_rollout(model, noise, condition, config, rng(), [exit_step] * 2)
    expected = by_hand(reference, noise, condition, exit_step, rng())
    assert torch.allclose(x, expected, atol=1e-6)
    weights = torch.linspace(-1, 2, x.numel()).reshape(x.shape)
    (x * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = model.gradients()
    assert gradients[4] is None  # what the commit pass wrote carries no gradient
    assert gradients[:4] == pytest.approx(reference.gradients()[:4], rel=1e-5, abs=1e-5)


def test_only_the_exit_step_and_never_a_commit_runs_with_gradient():
    model = LinearVideo()
    causal_rollout(model, make_noise(), make_condition(), RolloutConfig(frames_per_block=2), rng(), [2, 2])
    pattern = [(call["t"][0].item(), call["write"], call["grad"]) for call in model.calls]
    block = [(1000.0, False, False), (937.5, False, False), (pytest.approx(2500 / 3), False, True)]
    assert pattern == [*block, (0.0, True, False), *block]
    assert not any(call["input_grad"] for call in model.calls)
    assert [call["offset"] for call in model.calls] == [0, 0, 0, 0, 2, 2, 2]


def test_the_commit_pass_gets_the_blocks_output():
    model = LinearVideo()
    x = causal_rollout(model, make_noise(), make_condition(), RolloutConfig(frames_per_block=2), rng(), [1, 1])
    (commit,) = [call for call in model.calls if call["write"]]
    assert torch.equal(commit["x"], x[:, :, :2].detach())


def test_the_noise_between_steps_is_fresh():
    model, noise = LinearVideo(), make_noise()
    config = RolloutConfig(frames_per_block=4)
    causal_rollout(model, noise, make_condition(), config, rng(), [3])
    first, second, third, _ = (call["x"] for call in model.calls)
    used = []
    for x_t, x_before, t_before, t in ((second, first, 1000.0, 937.5), (third, second, 937.5, 2500 / 3)):
        a, b, _, d, _ = (p.item() for p in model.parameters())
        words = make_condition().text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        x0 = x_before - t_before / 1000 * (a * x_before + b * t_before / 1000 + d * words)
        used.append((x_t - (1 - t / 1000) * x0) / (t / 1000))
    for eps in used:
        assert abs(torch.corrcoef(torch.stack([eps.flatten(), noise.flatten()]))[0, 1]) < 0.5
        assert eps.std().item() == pytest.approx(1.0, abs=0.25)
    assert not torch.allclose(used[0], used[1], atol=0.1)


def test_the_context_can_be_noised():
    model, noise = LinearVideo(), make_noise()
    config = RolloutConfig(frames_per_block=2, context_sigma=0.1)
    x = causal_rollout(model, noise, make_condition(), config, rng(), [0, 0])
    (commit,) = [call for call in model.calls if call["write"]]
    assert commit["t"].tolist() == [100.0, 100.0]
    added = (commit["x"] - 0.9 * x[:, :, :2].detach()) / 0.1
    assert added.std().item() == pytest.approx(1.0, abs=0.3)


def test_early_frames_of_a_long_rollout_get_no_gradient():
    model = LinearVideo()
    config = RolloutConfig(frames_per_block=2, gradient_frames=3)
    x = causal_rollout(model, make_noise(frames=7), make_condition(), config, rng(), [0] * 4)
    assert [call["grad"] for call in model.calls if not call["write"]] == [False, False, True, True]
    assert x.requires_grad
    assert first_gradient_frame(7, config) == 4


def test_the_last_block_carries_gradient_even_when_it_is_longer_than_asked():
    assert first_gradient_frame(6, RolloutConfig(frames_per_block=3, gradient_frames=1)) == 3
    assert first_gradient_frame(21, RolloutConfig()) == 0
    assert first_gradient_frame(24, RolloutConfig()) == 3


def test_each_block_may_have_its_own_exit_step():
    model = LinearVideo()
    causal_rollout(model, make_noise(), make_condition(), RolloutConfig(frames_per_block=2), rng(), [0, 2])
    assert [call["grad"] for call in model.calls if not call["write"]] == [True, False, False, True]


def test_blocks_cover_the_clip():
    assert list(block_spans(7, 3)) == [(0, 3), (3, 6), (6, 7)]
