import importlib.util
from pathlib import Path

import pytest

from harness.models.presets import geometry
from harness.planning.memory import FSDP, count_parameters, gathered, held_throughout, moments, unreduced
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
