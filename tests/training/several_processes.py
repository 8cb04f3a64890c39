"""Training of a tiny DMD in one or several forked processes on the CPU, with what FSDP needs there to be right."""

import csv
import json

import torch
import torch.distributed
from attrs import evolve
from composer.core import Callback, DataSpec
from safetensors.torch import load_file

from harness.data.loader import size_of, split_batch
from harness.methods.causal_sft import CausalSFT
from harness.methods.sft import SFT
from harness.methods.shared_teacher import build_dmd
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.lora import add_adapters
from harness.training.assembly import build_training
from harness.training.weights import is_sharded, save_weights

SAMPLES = 4  # of the global batch, each a microbatch of its own: they draw the same noise wherever they are computed
TIMES = ("seconds", "device_seconds", "monitor_seconds")


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
    share = SAMPLES // ranks
    mine = [number * SAMPLES + n for n in range(SAMPLES)][rank * share :][:share]
    generators = [torch.Generator().manual_seed(n) for n in mine]
    return {
        "latent": torch.stack([torch.randn(4, 3, 4, 4, generator=g) for g in generators]),
        "condition": Condition(
            text=torch.stack([torch.randn(5, 8, generator=g) for g in generators]),
            unconditional_text=torch.zeros(1, 5, 8),
        ),
        "key": [str(n) for n in mine],
    }


def method_of(config):
    if config.method == "sft":
        return SFT(network(1), config.sft)
    if config.method == "causal_sft":
        return CausalSFT(network(1), config.causal_sft, config.rollout.frames_per_block)
    generator, critic = network(1), network(2)
    teacher = None if config.lora.share_teacher else network(3)
    if config.lora.rank is not None:
        for seed, model in enumerate((generator, critic)):
            add_adapters(model, config.lora, seed)
    return build_dmd(generator, critic, teacher, config.dmd, config.rollout)


class ExitSteps(Callback):
    """Writes the exit step of each microbatch of this process."""

    def __init__(self, path):
        self.path, self.seen = path, []

    def after_loss(self, state, logger):
        if "exit_step" in state.outputs["metrics"]:
            self.seen.append(float(state.outputs["metrics"]["exit_step"]))

    def fit_end(self, state, logger):
        self.path.write_text(json.dumps(self.seen))


def score(network):
    """A figure of what the network makes of fixed noise."""
    x = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    condition = Condition(text=torch.ones(2, 5, 8))
    return {"fvd": float(predict_velocity(network, x, torch.full((2,), 700.0), condition).square().mean())}


def train(config, folder, rank, ranks, watchers=(), score=None):
    """Train to the end, from wherever the run in `folder` was interrupted; the resume states stay."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data = [batch(number, rank, ranks) for number in range(20)]
    method = method_of(config)
    training = build_training(
        config,
        method,
        DataSpec(data, split_batch=split_batch, get_num_samples_in_batch=size_of),
        folder,
        fingerprint="test",
        save_best=lambda network: save_weights(network, folder / "best"),
        sample_and_score=score,
        watchers=lambda order, history: [ExitSteps(folder / f"exits{rank}.json"), *watchers],
    )
    if config.parallelism.kind != "ddp":
        assert all(is_sharded(network) for network in method.networks().values() if list(network.parameters()))
        for block in method.generator.blocks:  # inside the wrapper that recomputes it, if there is one
            assert any(is_sharded(module) for module in block.modules())
    if training.trainer.state.timestamp.batch.value < training.order.batches:
        training.trainer.fit()
    with training.ema.applied() as generator:
        save_weights(generator, folder / "ema")
    for role in {"generator", "critic"} & method.networks().keys():
        save_weights(getattr(method, role), folder / role)
    return training


def cpu_shims():
    """Composer passes a GPU's number to FSDP1 on any machine, and FSDP1 pins the memory of what it offloads; gloo gives
    the sum where FSDP2 asks for the mean; the CPU's streams give no events, which FSDP2 with hybrid shards wants.
    """
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.Tensor.pin_memory = lambda tensor, *args: tensor
    torch.cpu.Stream.record_event = lambda stream: torch.cpu.Event()
    averaging_over = torch.distributed.ReduceOp.AVG
    scatter, reduce = torch.distributed.reduce_scatter_tensor, torch.distributed.all_reduce

    def reduce_scatter_tensor(output, input, op=torch.distributed.ReduceOp.SUM, group=None, async_op=False):
        mean = op == averaging_over
        done = scatter(output, input, torch.distributed.ReduceOp.SUM if mean else op, group, async_op)
        if mean:
            assert done is None
            output /= torch.distributed.get_world_size(group)
        return done

    def all_reduce(tensor, op=torch.distributed.ReduceOp.SUM, group=None, async_op=False):
        mean = op == averaging_over
        done = reduce(tensor, torch.distributed.ReduceOp.SUM if mean else op, group, async_op)
        if mean:
            assert done is None
            tensor /= torch.distributed.get_world_size(group)
        return done

    torch.distributed.reduce_scatter_tensor = reduce_scatter_tensor
    torch.distributed.all_reduce = all_reduce


def with_parallelism(config, **settings):
    return evolve(config, parallelism=evolve(config.parallelism, **settings))


def rows(path):
    """A table's rows, without the times."""
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def weights(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def exit_steps(folder, ranks):
    return [json.loads((folder / f"exits{rank}.json").read_text()) for rank in range(ranks)]
