import importlib.util
from pathlib import Path

import pytest

from harness.models.presets import geometry
from harness.planning.memory import (
    FSDP,
    count_adapters,
    count_parameters,
    gathered,
    held_throughout,
    moments,
    unreduced,
)
from harness.planning.rehearsal import build_networks

ROOT = Path(__file__).resolve().parents[2]


def benchmark():
    spec = importlib.util.spec_from_file_location("plan_memory", ROOT / "benchmarks/plan_memory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parameters_are_the_published_ones():
    assert count_parameters(geometry("wan2.1-t2v-1.3b")).all == 1_418_996_800
    assert count_parameters(geometry("wan2.1-t2v-14b")).all == 14_288_491_584
    assert count_parameters(geometry("wan2.1-i2v-14b-480p")).all == 16_394_878_784
    tiny = count_parameters(geometry("tiny"))
    assert tiny.root + tiny.layers * tiny.layer == tiny.all


def test_what_is_held_throughout(small):
    scene = small("dmd", layers=(3, 2, 4))
    number = {role: sum(p.numel() for p in net.parameters()) for role, net in build_networks(scene).items()}
    parts = held_throughout(scene)
    assert parts["generator: weights"] == 4 * number["generator"]
    assert parts["critic: Adam moments"] == 8 * number["critic"]
    assert parts["generator: EMA"] == 4 * number["generator"]
    assert sum(parts.values()) == 4 * (4 * number["generator"] + 3 * number["critic"] + number["teacher"])
    buckets = held_throughout(small("dmd", layers=(3, 2, 4), world_size=2))["buckets of DDP"]
    assert buckets == 4 * (number["generator"] + number["critic"])


def test_sharding(small):
    whole, shared = (small("dmd", f"parallelism.kind={kind}", world_size=2) for kind in ("ddp", "fsdp2"))
    alone = held_throughout(small("dmd"))
    assert gathered(whole) == 0
    assert held_throughout(shared) == {name: size // 2 for name, size in alone.items()}
    count = count_parameters(shared.networks[0][1])
    assert gathered(shared) == 4 * (count.root + 5 * count.layer)
    one = small("dmd", "parallelism.kind=fsdp1", world_size=2)
    assert gathered(one) == 4 * (count.root + 4 * count.layer)
    kept = small("dmd", "parallelism.kind=fsdp2", "parallelism.reshard_after_forward=false", world_size=2)
    assert gathered(kept) == gathered(shared) + 4 * 3 * count.layer
    away = small("dmd", "parallelism.kind=fsdp2", "parallelism.teacher_cpu_offload=true", world_size=2)
    assert held_throughout(away)["teacher: weights"] == 4 * count.root // 2
    assert moments(shared)[0].parts[FSDP] == gathered(shared)


def test_gradients_of_several_blocks_wait_whole_under_fsdp(small):
    def whole(*settings, frames=6):
        scene = small("dmd", *settings, frames=frames, world_size=2)
        return sum(unreduced(scene).values()) / (4 * count_parameters(dict(scene.networks)["generator"]).all)

    fsdp2, fsdp1 = "parallelism.kind=fsdp2", "parallelism.kind=fsdp1"
    assert (whole(fsdp2), whole(fsdp1)) == (1, 2)
    assert whole() == 0  # DDP has the whole gradient anyway
    assert whole(fsdp2, frames=3) == 0  # one block
    assert whole(fsdp2, "rollout.gradient_frames=3") == 0
    assert whole(fsdp2, "rollout.attention=bidirectional") == 0
    found = next(m for m in moments(small("dmd", fsdp2, world_size=2)) if m.when == "an update of the generator")
    assert "gradients of earlier blocks" in found.parts


def test_moments_are_ordered_and_include_what_is_copied(small):
    found = moments(small("dmd"))
    assert len(found) == 4
    assert [m.total for m in found] == sorted((m.total for m in found), reverse=True)
    saved = next(m for m in found if "saved" in m.when)
    copied = saved.parts["a copy of the moments"]
    assert copied == saved.parts["generator: Adam moments"] + saved.parts["critic: Adam moments"]


@pytest.mark.parametrize("name", ["causal_sft, small", "dmd, small"])
def test_predicted_is_measured(name):
    tool = benchmark()
    case = {
        "causal_sft, small": tool.Case(method="causal_sft", frames=6, size=8, batch=1),
        "dmd, small": tool.Case(
            method="dmd", settings="parallelism.activation_checkpointing=true", frames=6, size=8, batch=1
        ),
    }[name]
    assert tool.compare(name, case).ratios == pytest.approx((1.0, 1.0), abs=0.1)


@pytest.mark.slow
def test_all_of_the_benchmarks_cases():
    tool = benchmark()
    for name, case in tool.CASES.items():
        assert tool.compare(name, case).ratios == pytest.approx((1.0, 1.0), abs=0.1), name


LORA = ("lora.rank=2", "lora.alpha=4.0")


@pytest.mark.parametrize("targets", ["all", "to_q", "blocks.1.ffn.net.2"])
def test_with_adapters_only_these_have_moments_and_an_average(small, targets):
    scene = small("dmd", *LORA, f"lora.targets=[{targets}]", "parallelism.device_microbatch_size=2")
    plain = {role: count_parameters(shape).all for role, shape in scene.networks}
    networks = build_networks(scene)
    adapters = sum(p.numel() for p in networks["critic"].parameters() if p.requires_grad)
    if targets == "blocks.1.ffn.net.2":  # rehearsed as if each layer had it, counted as it is
        adapters //= 3
    parts = held_throughout(scene)
    assert parts["critic: weights"] == 4 * (plain["critic"] + adapters)
    assert parts["teacher: weights"] == 4 * plain["teacher"]
    assert parts["generator: Adam moments"] == 8 * adapters
    assert parts["generator: EMA"] == 4 * adapters
    found = {moment.when: moment for moment in moments(scene)}
    assert found["a resume state is saved"].parts["a copy of the moments"] == 16 * adapters
    update = found["an update of the generator"].parts
    assert update["gradients"] == 4 * sum(p.numel() for p in networks["generator"].parameters() if p.requires_grad)
    shape = scene.networks[0][1]
    linear = sum(m.weight.numel() for n, m in networks["generator"].named_modules() if n.endswith("base_layer"))
    merged = found["merged weights are saved"].parts["merged weights"]
    assert merged == 4 * linear // (3 if targets == "blocks.1.ffn.net.2" else 1)
    assert count_adapters(shape, scene.config.lora).all == adapters


def test_a_shared_teacher_is_not_held_and_the_rest_stays(small):
    own, shared = (small("dmd", *LORA, f"lora.share_teacher={share}") for share in ("false", "true"))
    assert "teacher" not in build_networks(shared)
    teacher = 4 * count_parameters(shared.networks[2][1]).all
    assert held_throughout(own) == {**held_throughout(shared), "teacher: weights": teacher}
    before, after = ({m.when: m.total for m in moments(scene)} for scene in (own, shared))
    for when, total in before.items():
        assert total - after[when] == pytest.approx(teacher, rel=0.02), when


def test_fsdp1_makes_room_for_the_gradients_of_frozen_weights(small):
    settings = (*LORA, "rollout.gradient_frames=3")
    one, two = (small("dmd", *settings, f"parallelism.kind=fsdp{number}", world_size=2) for number in (1, 2))
    count, adapters = (
        count_parameters(one.networks[0][1]),
        count_adapters(one.networks[0][1], one.config.lora),
    )
    found = [{m.when: m.parts for m in moments(scene)}["an update of the critic"] for scene in (one, two)]
    assert found[0]["gradients of frozen weights"] == 4 * count.all // 2
    assert "gradients of frozen weights" not in found[1]
    layer = count.layer + adapters.layer
    assert gathered(one) == 4 * (count.root + 4 * layer)
    assert gathered(two) == 4 * (count.root + 3 * layer + 2 * adapters.layer)
