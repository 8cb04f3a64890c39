"""One process, DDP, FSDP1, FSDP2 and hybrid shards: the same twelve updates of DMD."""

import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file
from several_processes import SAMPLES, cpu_shims, exit_steps, network, rows, score, train, weights, with_parallelism
from torch.distributed.fsdp import CPUOffload

from harness.config.schema import LoRAConfig
from harness.errors import HarnessError
from harness.models.lora import Update, merge
from harness.training.parallelism import check_device, check_sharding, copies, shard_networks
from harness.training.state_files import read_state

BATCHES = 12  # two critic updates, then four generator updates with two critic updates between each two
RUN = (
    "dmd.generator_updates=4",
    "dmd.critic_updates_per_generator_update=2",
    "dmd.critic_warmup_updates=2",
    f"dmd.batch_size={SAMPLES}",
    "dmd.ema_decay=0.9",
    "dmd.monitor_every_updates=1",  # measuring puts the averaged weights in place, and must leave nothing of them
    "parallelism.device_microbatch_size=1",
    "save_every_batches=6",
)
# Sums are made in another order: over processes, not over microbatches. That is 1e-7 of a gradient; AdamW divides by
# the gradient's size, so a weight whose gradient is nearly zero may move by a visible part of the learning rate (3e-4).
# Hence losses to 2e-4 of themselves, and weights to a mean difference of 1e-6, 1/3,000 of what four updates move them.
LOSSES, WEIGHTS = 2e-4, 1e-6


def run(config, folder, in_processes, ranks=2, **settings):
    config = with_parallelism(config, **settings)

    def call(rank):
        cpu_shims()
        train(config, folder, rank, ranks, score=score)

    assert in_processes(call, ranks) == [0] * ranks
    return folder


@pytest.fixture(scope="module")
def config(small_run, prepared):
    return small_run(prepared, "dmd", *RUN)


@pytest.fixture(scope="module")
def single(config, in_processes, tmp_path_factory):
    return run(config, tmp_path_factory.mktemp("single"), in_processes, ranks=1)


def assert_agrees(one, several):
    first, second = rows(one / "history.csv"), rows(several / "history.csv")
    assert len(first) == len(second) == BATCHES
    for a, b in zip(first, second, strict=True):
        for name in ("phase", "update", "critic_update", "lr", "exit_step"):
            assert a[name] == b[name]
        for name in ("loss", "grad_norm", "sample_std"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=LOSSES), (name, a["batch"])
        assert float(b["teraflops"]) == pytest.approx(float(a["teraflops"]))
    for a, b in zip(rows(one / "quality.csv"), rows(several / "quality.csv"), strict=True):
        assert float(b["fvd"]) == pytest.approx(float(a["fvd"]), rel=LOSSES)
    for name in ("generator", "critic", "ema", "best"):
        expected, found = weights(one / name), weights(several / name)
        for key, tensor in expected.items():
            assert float((found[key] - tensor).abs().mean()) < WEIGHTS, (name, key)
    assert any(float((weights(one / "generator")[k] - w).abs().mean()) > 1e-4 for k, w in network(1).named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_two_processes_agree_with_one_on_adapters_and_a_shared_teacher(config, in_processes, tmp_path, kind):
    config = evolve(config, lora=LoRAConfig(rank=4, alpha=8.0, share_teacher=True))
    one = run(config, tmp_path / "one", in_processes, ranks=1)
    several = run(config, tmp_path / "several", in_processes, kind=kind)
    assert_agrees(one, several)
    for role, seed in (("generator", 1), ("critic", 2)):
        base, adapter = network(seed).state_dict(), load_file(several / role / "adapter/adapter_model.safetensors")
        updates = {
            name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight": Update(
                a, adapter[name.replace("lora_A", "lora_B")], 2.0
            )
            for name, a in adapter.items()
            if "lora_A" in name
        }
        assert len(updates) == 2 * 10
        for name, weight in weights(several / role).items():
            wanted = merge(base[name], updates[name]) if name in updates else base[name]
            assert torch.equal(weight, wanted), (role, name)
    state = read_state(several / "states", BATCHES, rank=1)
    assert all(".lora_" in name for role in ("generator", "critic") for name in state["weights"][role])
    assert all(".lora_" in name for name in state["parts"]["ema"]["shadow"])


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "ddp"},
        {"kind": "fsdp1", "teacher_cpu_offload": True},
        {"kind": "fsdp2", "teacher_cpu_offload": True, "reshard_after_forward": False},
        pytest.param({"kind": "fsdp1"}, marks=pytest.mark.slow),
        pytest.param({"kind": "fsdp2"}, marks=pytest.mark.slow),
        pytest.param({"kind": "fsdp1", "activation_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param({"kind": "fsdp2", "activation_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_two_processes_agree_with_one(config, single, in_processes, tmp_path, settings):
    assert_agrees(single, run(config, tmp_path, in_processes, **settings))
    first, second = exit_steps(tmp_path, 2)
    assert first == second, "processes that leave at different steps wait for each other for ever"
    assert len(set(first)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_four_processes_with_two_copies_agree_with_one(config, single, in_processes, tmp_path, kind):
    offload = kind == "fsdp2"
    assert_agrees(
        single, run(config, tmp_path, in_processes, 4, kind=kind, shard_degree=2, teacher_cpu_offload=offload)
    )
    assert len(set(map(tuple, exit_steps(tmp_path, 4)))) == 1


@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_fsdp_is_refused_where_its_gradients_would_be_wrong(config, kind):
    parallelism = evolve(config.parallelism, kind=kind)
    check_device(parallelism, has_accelerator=True)
    check_device(config.parallelism, has_accelerator=False)
    with pytest.raises(HarnessError, match=f"parallelism.kind: {kind} needs GPUs"):
        check_device(parallelism, has_accelerator=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "ddp", "shard_degree": 2}, r"shard_degree: has no meaning with parallelism.kind: ddp"),
        ({"kind": "ddp", "teacher_cpu_offload": True}, r"teacher_cpu_offload: .* set the kind to fsdp1 or fsdp2"),
        ({"kind": "fsdp1", "reshard_after_forward": False}, r"reshard_after_forward: .* set the kind to fsdp2"),
        ({"kind": "fsdp2", "shard_degree": 3}, r"shard_degree: 3 does not divide 4 processes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, settings, message):
    with pytest.raises(HarnessError, match=message):
        check_sharding(evolve(config.parallelism, **settings), world_size=4)


def test_settings_that_fit(config):
    for settings in ({"kind": "ddp"}, {"kind": "fsdp1", "shard_degree": 2}, {"kind": "fsdp2", "shard_degree": 4}):
        check_sharding(evolve(config.parallelism, **settings), world_size=4)
    hybrid = evolve(config.parallelism, kind="fsdp1", shard_degree=2)
    assert [copies(hybrid, n) for n in (2, 4, 8)] == [1, 2, 4]
    assert copies(evolve(hybrid, shard_degree=None), 8) == 1


def test_only_the_teachers_layers_are_offloaded_and_only_the_generators_stay_gathered(config):
    networks = {"generator": network(1), "critic": network(2), "teacher": network(3).requires_grad_(False)}
    shard_networks(networks, evolve(config.parallelism, kind="fsdp1", teacher_cpu_offload=True))
    how = {name: net.fsdp_wrap_fn(net.blocks[0]) for name, net in networks.items()}
    assert how == {"generator": True, "critic": True, "teacher": {"cpu_offload": CPUOffload(offload_params=True)}}
    shard_networks(networks, evolve(config.parallelism, kind="fsdp2", reshard_after_forward=False))
    how = {name: net.fsdp_wrap_fn(net.blocks[0]) for name, net in networks.items()}
    assert how == {"generator": {"reshard_after_forward": False}, "critic": True, "teacher": True}


def test_only_trained_layers_are_recomputed(config):
    networks = {"generator": network(1), "teacher": network(2).requires_grad_(False)}
    shard_networks(networks, evolve(config.parallelism, kind="fsdp1", activation_checkpointing=True))
    recomputed = {name: net.activation_checkpointing_fn(net.blocks[0]) for name, net in networks.items()}
    assert recomputed == {"generator": True, "teacher": False}
    for net in networks.values():
        assert net.fsdp_wrap_fn(net.blocks[1]) is True
        assert not net.fsdp_wrap_fn(net.patch_embedding)
