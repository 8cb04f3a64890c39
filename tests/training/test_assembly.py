import pytest
from attrs import evolve

from harness.errors import HarnessError
from harness.training.assembly import batch_per_process, optimizers, trainer_precision


@pytest.fixture
def config(project, small_run):
    return small_run(project, "dmd", "dmd.batch_size=6")


def test_the_global_batch_is_shared_out(config):
    assert [batch_per_process(config, n) for n in (1, 2, 3)] == [6, 3, 2]
    with pytest.raises(HarnessError, match=r"dmd\.batch_size: 6 does not divide over 4 processes"):
        batch_per_process(config, 4)


def test_each_role_has_its_own_optimizer_settings(config, project, small_run):
    assert optimizers(config) == {
        "generator": config.dmd.generator_optimizer,
        "critic": config.dmd.critic_optimizer,
    }
    sft = small_run(project, "causal_sft")
    assert optimizers(sft) == {"generator": sft.causal_sft.optimizer}


def test_bf16_needs_an_accelerator(config, monkeypatch):
    low = evolve(config, precision="bf16")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert trainer_precision(config) == "fp32"
    with pytest.raises(HarnessError, match="bf16 needs a GPU"):
        trainer_precision(low)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert trainer_precision(low) == "amp_bf16"
