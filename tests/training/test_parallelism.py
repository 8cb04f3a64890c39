"""One process, DDP, FSDP1 and FSDP2 with two: the same six updates of DMD."""

import csv
import os
import signal

import pytest
import torch
import torch.distributed
from attrs import evolve
from composer.core import Callback, DataSpec
from safetensors.torch import load_file

from harness.data.loader import size_of, split_batch
from harness.errors import HarnessError
from harness.methods.dmd import DMD
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.training.assembly import build_training
from harness.training.parallelism import check_device
from harness.training.weights import is_sharded, save_weights

RANKS, SAMPLES, BATCHES = 2, 2, 6  # samples: of each process
RUN = (
    "dmd.generator_updates=2",
    "dmd.critic_updates_per_generator_update=3",
    "dmd.critic_warmup_updates=1",
    f"dmd.batch_size={RANKS * SAMPLES}",
    f"parallelism.device_microbatch_size={SAMPLES}",
    "save_every_batches=3",
)


def network(seed):
    torch.manual_seed(seed)
    return CausalWan(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        ffn_dim=32,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
    )


def batch(number, rank, ranks):
    """The samples of one process; all of them, in the order of the processes, where there is one."""
    mine = [number * RANKS * SAMPLES + n for n in range(RANKS * SAMPLES)][rank * SAMPLES :][: SAMPLES * RANKS // ranks]
    generators = [torch.Generator().manual_seed(n) for n in mine]
    return {
        "latent": torch.stack([torch.randn(4, 3, 4, 4, generator=g) for g in generators]),
        "condition": Condition(text=torch.stack([torch.randn(5, 8, generator=g) for g in generators])),
        "key": [str(n) for n in mine],
    }


def train(config, folder, rank, ranks, watchers=()):
    torch.set_num_threads(1)
    data = [batch(number, rank, ranks) for number in range(20)]
    method = DMD(network(1), network(2), network(3), config.dmd, config.rollout)
    training = build_training(
        config,
        method,
        DataSpec(data, split_batch=split_batch, get_num_samples_in_batch=size_of),
        folder,
        fingerprint="test",
        save_best=lambda network: None,
        watchers=lambda order, history: watchers,
    )
    assert training.order.batches == BATCHES
    if config.parallelism.kind != "ddp":
        assert all(is_sharded(network) for network in (method.generator, method.critic, method.teacher))
        assert all(is_sharded(block) for block in method.generator.blocks)
    training.trainer.fit()
    with training.ema.applied() as generator:
        save_weights(generator, folder / "ema")
    save_weights(method.generator, folder / "generator")
    save_weights(method.critic, folder / "critic")


def cpu_shims():
    """Composer passes a GPU's number to FSDP1 on any machine; gloo gives the sum where FSDP2 asks for the mean."""
    torch.cuda.current_device = lambda: torch.device("cpu")
    plain = torch.distributed.reduce_scatter_tensor

    def reduce_scatter_tensor(output, input, op=torch.distributed.ReduceOp.SUM, group=None, async_op=False):
        mean = op == torch.distributed.ReduceOp.AVG
        done = plain(output, input, torch.distributed.ReduceOp.SUM if mean else op, group, async_op)
        if mean:
            assert done is None
            output /= torch.distributed.get_world_size(group)
        return done

    torch.distributed.reduce_scatter_tensor = reduce_scatter_tensor


def run(kind, config, folder, in_processes, ranks=RANKS, watchers=(), code=0):
    config = evolve(config, parallelism=evolve(config.parallelism, kind=kind))

    def call(rank):
        cpu_shims()
        train(config, folder, rank, ranks, watchers)

    assert in_processes(call, ranks) == [code] * ranks
    return None if code else outcome(folder)


def outcome(folder):
    """The history's rows, and the weights by network."""
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("generator", "critic", "ema")
    return rows, {name: load_file(folder / name / "diffusion_pytorch_model.safetensors") for name in names}


@pytest.fixture(scope="module")
def config(small_run, prepared):
    return small_run(prepared, "dmd", *RUN)


@pytest.fixture(scope="module")
def single(config, in_processes, tmp_path_factory):
    return run("ddp", config, tmp_path_factory.mktemp("single"), in_processes, ranks=1)


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_two_processes_agree_with_one(config, single, in_processes, tmp_path, kind):
    one_rows, one_weights = single
    rows, weights = run(kind, config, tmp_path, in_processes)
    assert len(rows) == BATCHES
    for one, two in zip(one_rows, rows, strict=True):
        for name in ("phase", "update", "critic_update", "lr", "exit_step"):
            assert one[name] == two[name]
        for name in ("loss", "grad_norm", "sample_std"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=2e-4), (name, one["batch"])
        assert float(two["teraflops"]) == pytest.approx(float(one["teraflops"]))
    for name, tensors in one_weights.items():
        for key, tensor in tensors.items():
            difference = (weights[name][key] - tensor).abs()
            assert float(difference.mean()) < 1e-6, (name, key)


@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_fsdp_is_refused_where_its_gradients_would_be_wrong(config, kind):
    parallelism = evolve(config.parallelism, kind=kind)
    check_device(parallelism, has_accelerator=True)
    check_device(config.parallelism, has_accelerator=False)
    with pytest.raises(HarnessError, match=f"parallelism.kind: {kind} needs GPUs"):
        check_device(parallelism, has_accelerator=False)


class Killer(Callback):
    """Kills its process at the end of the fourth batch."""

    def batch_end(self, state, logger):
        if state.timestamp.batch.value == 4:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_two_killed_processes_end_as_if_they_had_not_been(config, in_processes, tmp_path, kind):
    rows, weights = run(kind, config, tmp_path / "whole", in_processes)
    run(kind, config, tmp_path / "killed", in_processes, watchers=[Killer()], code=-signal.SIGKILL)
    again, weights_again = run(kind, config, tmp_path / "killed", in_processes)
    times = ("seconds", "device_seconds")
    assert [{k: v for k, v in row.items() if k not in times} for row in rows] == [
        {k: v for k, v in row.items() if k not in times} for row in again
    ]
    for name, tensors in weights.items():
        assert all(torch.equal(tensor, weights_again[name][key]) for key, tensor in tensors.items()), name
