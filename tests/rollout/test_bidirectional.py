import torch
from linear_video import LinearVideo, make_condition, make_noise

from harness.config.schema import RolloutConfig
from harness.rollout.bidirectional import bidirectional_rollout


def test_the_whole_clip_is_one_block_without_a_cache():
    model = LinearVideo()
    config = RolloutConfig(attention="bidirectional")
    x = bidirectional_rollout(model, make_noise(7), make_condition(), config, torch.Generator().manual_seed(0), 2)
    assert x.shape == (2, 3, 7, 2, 2)
    assert x.requires_grad
    assert [call["grad"] for call in model.calls] == [False, False, True]
    assert not any(call["cached"] or call["input_grad"] for call in model.calls)
    assert [call["x"].shape[2] for call in model.calls] == [7, 7, 7]


def test_the_gradient_comes_from_the_exit_step_alone():
    model = LinearVideo()
    config = RolloutConfig(attention="bidirectional")
    x = bidirectional_rollout(model, make_noise(), make_condition(), config, torch.Generator().manual_seed(0), 1)
    x.sum().backward()
    last = model.calls[-1]["x"]
    assert torch.allclose(model.a.grad, -0.9375 * last.sum(), rtol=1e-5)
