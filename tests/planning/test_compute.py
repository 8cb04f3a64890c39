import pytest
import torch
from attrs import evolve

from harness.algorithms.counter_randomness import draws_at
from harness.algorithms.updates import update_order
from harness.callbacks.compute_meter import ComputeMeter
from harness.planning.compute import Budget, Work, budget, exit_chances, work_of_pass, work_per_update
from harness.planning.rehearsal import build_method, build_networks, make_batch


def measured(scene, phase):
    """What the training's own meter counts in one real pass."""
    torch.manual_seed(0)
    networks = build_networks(scene, device="cpu")
    method = build_method(scene, networks)
    method.phase, method.draws = phase, draws_at(0, 0, 0)
    meter = ComputeMeter(networks)
    meter._counting = True
    method(make_batch(scene, scene.microbatch, device="cpu"))
    return meter.forwards, meter.flops


def counted(works):
    return sum(work.calls for work in works.values()), sum(work.flops for work in works.values())


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("sft", ()),
        ("causal_sft", ()),
        ("dmd", ("rollout.exit_step=last", "rollout.window=4")),
        ("dmd", ("rollout.exit_step=last", "lora.rank=2", "lora.alpha=2.0", "lora.share_teacher=true")),
        (
            "dmd",
            (
                "rollout.exit_step=last",
                "rollout.attention=bidirectional",
                "dmd.cfg_scale=1",
                "dmd.rollouts_ahead=false",
            ),
        ),
    ],
)
def test_the_count_is_the_meters(small, method, settings):
    scene = small(method, *settings, batch=2)
    for phase in scene.trained:
        forwards, flops = measured(scene, phase)
        assert counted(work_per_update(scene, phase)) == (pytest.approx(forwards), pytest.approx(flops))


def test_kinds_of_calls(small):
    scene = small("dmd", "dmd.cfg_scale=1", frames=9)  # 3 blocks
    found = work_of_pass(scene, "generator", exit_step=1)
    calls = {key: work.calls for key, work in found.items()}
    assert calls == {
        ("generator", "without gradient"): 3,
        ("generator", "with gradient"): 3,
        ("generator", "to fill the cache"): 2,
        ("critic", "without gradient"): 1,
        ("teacher", "without gradient"): 1,
    }
    guided = work_of_pass(small("dmd", "dmd.cfg_scale=2", frames=9), "generator", exit_step=1)
    assert guided["teacher", "without gradient"].flops == 2 * found["teacher", "without gradient"].flops


def test_checkpointing_repeats_a_third_of_what_carries_gradient(small):
    found = work_per_update(small("sft", "parallelism.activation_checkpointing=true"), "generator")
    work = found["generator", "with gradient"]
    assert work.repeated == pytest.approx(work.flops / 3)
    assert work_per_update(small("sft"), "generator")["generator", "with gradient"].repeated == 0


def test_exit_steps_are_averaged(small):
    scene = small("dmd", "rollout.exit_step=uniform")
    assert exit_chances(scene, 1) == {0: 0.5, 1: 0.5}
    assert exit_chances(scene, 2) == {0: 0.25, 1: 0.75}
    assert exit_chances(small("dmd", "rollout.exit_step=last"), 3) == {1: 1.0}
    assert work_per_update(scene, "critic")["generator", "without gradient"].calls == pytest.approx(2 * 1.5)


def test_rollouts_ahead_need_fewer_calls_of_the_same_cost(small):
    settings = ("dmd.critic_updates_per_generator_update=4", "rollout.exit_step=uniform")
    key = ("generator", "without gradient")
    alone = work_per_update(small("dmd", *settings), "critic")[key]
    ahead = work_per_update(small("dmd", *settings, "dmd.rollouts_ahead=true"), "critic")[key]
    assert ahead.flops == pytest.approx(alone.flops)
    assert ahead.calls == pytest.approx(2 * (2 - 0.5**4) / 4)


def test_microbatches_need_more_calls(small):
    key = ("generator", "with gradient")
    one, four = (work_per_update(small("sft", *s), "generator")[key] for s in ((), (MICRO,)))
    assert (four.calls, four.flops) == (4 * one.calls, one.flops)


MICRO = "parallelism.device_microbatch_size=1"


def test_a_run(small):
    scene = small("dmd", "dmd.generator_updates=3", "dmd.critic_warmup_updates=2", world_size=2)
    found = budget(scene)
    order = update_order(scene.config)
    assert found.updates == {"generator": 3, "critic": order.total("critic")}
    assert found.batches == order.batches
    whole = sum(found.of(role).flops * number for role, number in found.updates.items())
    assert found.whole.flops == pytest.approx(whole)
    alone = budget(evolve(scene, world_size=1))
    assert found.whole.flops == pytest.approx(alone.whole.flops)


def test_time():
    cost = Budget(updates={"generator": 10}, per_update={"generator": {("g", "x"): Work(1, 3e12, 1e12)}}, world_size=4)
    assert cost.whole == Work(10, 120e12, 40e12)
    assert cost.seconds(100.0, 0.4) == pytest.approx(160e12 / (4 * 100e12 * 0.4))
