import pytest

from harness.errors import HarnessError
from harness.training.assembly import batch_per_process, optimizers


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
