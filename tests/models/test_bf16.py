"""bf16 within a stated tolerance, on the CPU and on a GPU where there is one.

A bf16 number has a unit roundoff of u = 2⁻⁸. About ten roundings per layer lie on the way to the output: queries, keys
and values, attention and its projection, twice, the two linears of the feed-forward and the residual sums. They are
independent, so the relative error grows as the square root of their number: over L layers the root mean square error
is at most u·√(10·L) of the output's standard deviation (0.017 for the 2 layers here; measured 0.006–0.011, and
0.009–0.014 against a bound of 0.049 for 16). Two passes that differ in the order of sums only, such as cached and
masked ones, round differently in a fraction of these places: at most half of it.
"""

import contextlib
import math

import pytest
import torch
from wan_helpers import SMALL, cached_rollout, small_condition, small_latent, small_wan

from harness.models.attention import block_bounds
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache

BOUND = 2**-8 * math.sqrt(10 * SMALL["num_layers"])
T = torch.tensor([900.0, 300.0])
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def rms(actual, expected):
    """Root mean square error in units of the expected values' standard deviation."""
    return float((actual.cpu() - expected.cpu()).square().mean().sqrt() / expected.cpu().std())


def velocities(model, device, cache=None):
    """Bidirectional, teacher forcing, rollout with window and sink, rollout over everything."""
    model, condition, t = model.to(device), small_condition().to(device), T.to(device)
    clean, noisy = small_latent(7, seed=3).to(device), small_latent(7, seed=4).to(device)
    bounds = block_bounds(7, 3)
    with torch.no_grad():
        return {
            "bidirectional": predict_velocity(model, noisy, t, condition),
            "masked": predict_velocity(model, noisy, t, condition, clean=clean, frames_per_block=3),
            "windowed": cached_rollout(model, clean, noisy, t, bounds, condition, KVCache(5, 1)),
            "cached": cached_rollout(model, clean, noisy, t, bounds, condition, cache or KVCache()),
        }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["autocast", "weights"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bf16_stays_near_float32(device, how, seed):
    expected = velocities(small_wan(seed=seed), "cpu")
    model, cache = small_wan(seed=seed), KVCache()
    if how == "weights":
        model.to(torch.bfloat16)
    autocast = torch.autocast(device, torch.bfloat16) if how == "autocast" else contextlib.nullcontext()
    with autocast:
        actual = velocities(model, device, cache)
    for mode, velocity in actual.items():
        assert velocity.dtype == torch.float32, mode  # that of the input
        assert 1e-4 < rms(velocity, expected[mode]) < BOUND, mode
    assert rms(actual["cached"], actual["masked"]) < BOUND / 2
    past = cache.past(0, 3)
    assert {x.dtype for x in (*past.keys, *past.values)} == {torch.bfloat16}


@pytest.mark.parametrize("device", DEVICES[1:])
def test_float32_on_a_gpu_is_float32_on_the_cpu(device):
    """Sums in another order only. Without TF32: off by default in matrix products, on in the patches' convolution."""
    expected = velocities(small_wan(), "cpu")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        actual = velocities(small_wan(), device)
    for mode in expected:
        assert rms(actual[mode], expected[mode]) < 1e-5, mode


def test_the_time_embedding_stays_in_float32_under_autocast():
    """As in the original. In bf16 it would be a third of the whole error."""
    model, t = small_wan(), torch.tensor([[937.5]])
    exact = model._embed_time(t)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model._embed_time(t)
    assert all(torch.equal(a, b) for a, b in zip(inside, exact, strict=True))
