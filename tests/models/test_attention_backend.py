"""Back ends of diffusers' dispatcher: which are refused and why, and that those that run here give the same numbers."""

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from wan_helpers import cached_rollout, relative_error, small_condition, small_latent, small_wan

from harness.errors import HarnessError
from harness.models.attention import block_bounds
from harness.models.attention_backend import BACKENDS, check_backend, needs_half_precision, set_backend
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache

T = torch.tensor([900.0, 300.0])


@pytest.mark.parametrize("name", ["_native_math", "_native_flash", pytest.param("flex", marks=pytest.mark.slow)])
def test_every_mode_and_its_gradient_is_the_same_with_another_back_end(name):
    """Attention goes through diffusers' dispatcher, so that back ends are a setting: masked training, teacher forcing
    and cached rollout with window and sink, also for a back end that takes no masks (`_native_flash`).
    """
    results = []
    for backend in ("native", name):
        model, condition, x, noisy = small_wan(), small_condition(), small_latent(5), small_latent(5, seed=4)
        set_backend(model, backend)
        with torch.no_grad():
            cached = cached_rollout(model, x, noisy, T, block_bounds(5, 2), condition, KVCache(4, 1))
            forced = predict_velocity(model, noisy, T, condition, frames_per_block=2, clean=x)
        masked = predict_velocity(model, x, T, condition, frames_per_block=2)
        masked.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        results.append((cached, forced, masked.detach(), gradients))
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual, expected) < 1e-5


def test_a_back_end_is_that_of_one_model():
    before = _AttentionBackendRegistry.get_active_backend()
    check_backend("_native_math", precision="fp32", training=True)
    first, second = small_wan(), small_wan()
    set_backend(first, "_native_math")
    assert {block.attn2.processor._attention_backend for block in second.blocks} == {None}
    assert _AttentionBackendRegistry.get_active_backend() == before


def test_an_unknown_name_lists_all_and_what_they_need():
    with pytest.raises(
        HarnessError, match=r"no back end 'fast'; expected one of flash, .*pip install sageattention"
    ) as e:
        check_backend("fast", precision="fp32", training=True)
    assert all(name in str(e.value) for name in BACKENDS)


def test_a_missing_package_is_named():
    with pytest.raises(HarnessError, match=r"attention_backend: xformers cannot be used here: .*install"):
        check_backend("xformers", precision="fp32", training=True)


def test_training_needs_a_backward_pass_and_flash_needs_bf16():
    for name in (n for n in BACKENDS if "sage" in n):
        with pytest.raises(HarnessError, match=f"{name} has no backward pass"):
            check_backend(name, precision="bf16", training=True)
    with pytest.raises(HarnessError, match="sage computes in bf16 only"):
        check_backend("sage", precision="fp32", training=False)
    with pytest.raises(HarnessError, match="_native_flash computes in bf16 only"):
        check_backend("_native_flash", precision="fp32", training=True)
    check_backend("_native_flash", precision="bf16", training=True)
    check_backend("native", precision="fp32", training=True)
    check_backend("flex", precision="fp32", training=True)


def test_half_precision_is_what_diffusers_checks():
    """It checks all but some variants of sage attention, which are no different."""
    for backend, constraints in _AttentionBackendRegistry._constraints.items():
        half = any("bf16_or_fp16" in check.__name__ for check in constraints) or "sage" in backend.value
        assert needs_half_precision(backend.value) == half, backend
