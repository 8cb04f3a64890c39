"""Every golden tensor of the networks: outputs of independent implementations on the same weights."""

import pytest
import torch
from wan_helpers import cached_rollout, golden_wan, relative_error

from harness.models.attention import block_bounds
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache

TOLERANCE = 2e-5
T = 833.33331298828125


@pytest.fixture(scope="module", autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=["t2v", "i2v"])
def wan(request):
    return golden_wan(request.param)


@pytest.fixture(scope="module")
def longlive():
    return golden_wan("longlive")


def test_bidirectional(wan):
    model, golden, condition = wan
    velocity = predict_velocity(model, golden["x"], golden["bidirectional.t"], condition)
    assert relative_error(velocity, golden["bidirectional.velocity"]) <= TOLERANCE


def test_block_causal_with_a_timestep_per_frame(wan):
    model, golden, condition = wan
    velocity = predict_velocity(model, golden["x"], golden["masked.t"], condition, frames_per_block=3)
    assert relative_error(velocity, golden["masked.velocity"]) <= TOLERANCE


def test_teacher_forcing():
    model, golden, condition = golden_wan("t2v")
    clean = golden["teacher_forcing.clean"]
    velocity = predict_velocity(model, golden["x"], golden["masked.t"], condition, frames_per_block=3, clean=clean)
    assert relative_error(velocity, golden["teacher_forcing.velocity"]) <= TOLERANCE


def _rollout(model, golden, condition, noisy, cache):
    x = golden["x"]
    bounds = block_bounds(x.shape[2], 3)
    return cached_rollout(model, x, noisy, torch.full((x.shape[0],), T), bounds, condition, cache)


@pytest.mark.parametrize("window", [-1, 6])
def test_rollout(wan, window):
    model, golden, condition = wan
    name = f"rollout.w{window}.s0"
    velocity = _rollout(model, golden, condition, golden[f"{name}.noisy"], KVCache(window=window))
    assert relative_error(velocity, golden[f"{name}.velocity"]) <= TOLERANCE


@pytest.mark.parametrize("rope", ["absolute", "relative"])
@pytest.mark.parametrize(("window", "sink"), [(6, 3), (9, 0), (9, 3)])
def test_long_rollout_with_window_and_sink(longlive, rope, window, sink):
    model, golden, condition = longlive
    cache = KVCache(window=window, sink=sink, rope=rope)
    velocity = _rollout(model, golden, condition, golden["noisy"], cache)
    assert relative_error(velocity, golden[f"{rope}.w{window}.s{sink}.velocity"]) <= TOLERANCE


def test_the_golden_cases_differ_from_each_other(longlive):
    _, golden, _ = longlive
    assert relative_error(golden["absolute.w6.s3.velocity"], golden["absolute.w9.s0.velocity"]) > 1e-2
    assert relative_error(golden["absolute.w6.s3.velocity"], golden["relative.w6.s3.velocity"]) > 100 * TOLERANCE
