import pytest
import torch
from attrs import evolve

from harness.config.schema import AdamWConfig, DMDConfig, RolloutConfig
from harness.errors import HarnessError
from harness.methods.dmd import DMD
from harness.methods.draws import Draws
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.training.precision import forbid_cached_casts, trainer_precision


def test_bf16_needs_an_accelerator(project, small_run, monkeypatch):
    config = small_run(project, "dmd")
    low = evolve(config, precision="bf16")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert trainer_precision(config) == "fp32"
    with pytest.raises(HarnessError, match="bf16 needs a GPU"):
        trainer_precision(low)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert trainer_precision(low) == "amp_bf16"


@pytest.fixture
def caching():
    before = torch.is_autocast_cache_enabled()
    yield torch.set_autocast_cache_enabled
    torch.set_autocast_cache_enabled(before)


def generator_gradients() -> dict[str, bool]:
    """Which of the generator's weights get a gradient from an update of DMD under autocast."""
    torch.manual_seed(0)
    shape = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
    networks = [CausalWan(in_channels=4, out_channels=4, text_dim=8, **shape) for _ in range(3)]
    adamw = AdamWConfig(lr=1e-3)
    config = DMDConfig(generator_updates=1, batch_size=2, generator_optimizer=adamw, critic_optimizer=adamw)
    rollout = RolloutConfig(frames_per_block=1, denoising_steps=(1000, 500), exit_step="last")
    method = DMD(*networks, config, rollout)
    method.draws = Draws.at(0, 0)
    condition = Condition(text=torch.randn(2, 5, 8), unconditional_text=torch.randn(1, 5, 8))
    with torch.autocast("cpu", torch.bfloat16):
        loss = method({"latent": torch.randn(2, 4, 3, 4, 4), "condition": condition})["loss"]
    loss.backward()
    return {name: w.grad is not None for name, w in networks[0].named_parameters()}


def test_steps_without_gradient_do_not_take_it_from_the_step_that_has_it(caching):
    caching(True)
    assert not all(generator_gradients().values())  # what torch does by default
    forbid_cached_casts()
    assert [name for name, found in generator_gradients().items() if not found] == []
