import math
from pathlib import Path

import pytest
from attrs import evolve

from harness.config.explain import ema_half_life, explain, main, training_rollout_cost, warped_timesteps
from harness.config.load import load_params, resolve_file, resolve_target
from harness.config.schema import RolloutConfig
from harness.errors import HarnessError


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


def page(project: Path, *overrides: str) -> str:
    config = resolve_file(project / "dmd.yaml", overrides, project / "params.yaml")
    return explain(config, load_params(project / "params.yaml").preset)


def test_a_distillation_in_words_and_numbers(project):
    updates = ("dmd.generator_updates=100", "dmd.critic_warmup_updates=50")
    text = page(project, "dmd.cfg_scale=4", "rollout.window=6", *updates)
    for part in (
        "t = 1000, 750",
        "guidance_scale: 3",
        "100 of the generator, 550 of the critic",
        "650 batches",
        "the last 6 frames",
        "3 blocks of 3",
        "33 frames of 24×24",
        f"half-life {math.log(0.5) / math.log(0.97):.1f}",
    ):
        assert part in text
    assert "1 teacher forwards" in page(project, "dmd.cfg_scale=1")
    assert "no cache" in page(project, "rollout.attention=bidirectional")


@pytest.mark.parametrize(
    ("target", "part"), [("teacher", "random weights"), ("causal_sft/seed1", "clean earlier blocks")]
)
def test_targets(project, target, part):
    assert part in explain(resolve_target(target, project), load_params(project / "params.yaml").preset)


def test_the_verb(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(["dmd.yaml", "dmd.cfg_scale=3"]) == 0
    assert "cfg_scale 3" in capsys.readouterr().out
    with pytest.raises(HarnessError, match="did you mean"):
        main(["dmd.yaml", "dmd.cfg=3"])
    with pytest.raises(SystemExit):
        main(["teacher", "seed=1"])
