"""Training one run from its inputs to its finished folder: the part that needs torch."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from composer.core import DataSpec
from composer.utils import dist, get_device
from torch import Tensor, nn

from harness.callbacks.progress_line import ProgressLine
from harness.config.load import to_dict
from harness.config.schema import RunConfig
from harness.data.loader import build_dataloader, data_spec, size_of
from harness.data.selection import select_split
from harness.data.shards import PROMPTS, read_fingerprint, require_fingerprint, verify_shards
from harness.errors import HarnessError
from harness.io import atomic_write_bytes, directory_digest
from harness.machine import processor_name
from harness.models.checkpoint import save_model
from harness.models.codec import load_vae
from harness.tracking.background import Mirror
from harness.tracking.requests import Request as TrackingRequest
from harness.tracking.requests import train_request
from harness.tracking.samples import keep
from harness.training.assembly import Training, batch_per_process, build_training, method_settings
from harness.training.inputs import ENCODERS, EVALUATORS, input_folders, monitors, parents
from harness.training.manifest import build_manifest, code_diff, surroundings
from harness.training.method_builder import build_method
from harness.training.parallelism import check_device
from harness.training.request import Request
from harness.training.run_store import RESULTS, RunFolder
from harness.training.weights import save_weights

SELECTED = "selected"  # folder of the clips that `captions_with` chooses, while the run is trained
TIMEOUT = 3600.0  # seconds that processes wait for each other: the first collects the results alone


def train(
    request: Request,
    folder: RunFolder,
    *,
    fingerprint: str,
    inputs: dict[str, str],
    root: Path,
) -> None:
    """Train a run to its end, from wherever it was interrupted, and mark it finished.

    Raises:
        HarnessError: damaged data or weights, settings that do not fit, a gradient that is not finite.
    """
    config = request.config
    torch.set_num_threads(config.threads)
    _quiet()
    check_device(config.parallelism, torch.cuda.is_available())
    if dist.get_world_size() > 1:
        dist.initialize_dist(get_device(None), TIMEOUT)
    data = open_data(config, root, folder.path)
    method = build_method(config, root)
    rank = dist.get_global_rank()
    if rank == 0 and config.method == "dmd" and not (folder.path / "init").exists():
        save_model(method.generator, folder.path / "init")  # type: ignore[arg-type]
    training = build_training(
        config,
        method,
        data,
        folder.path,
        fingerprint=fingerprint,
        save_best=lambda network: save_weights(network, folder.path / "best"),
        sample_and_score=_monitor(config, root, folder.path if rank == 0 else None),
        vae=load_vae(root / ENCODERS / "vae") if config.long_tuning.enabled else None,
        watchers=lambda order, history: [ProgressLine(request.target, order=order, history=history, silent=rank > 0)],
    )
    made_with = surroundings(root)  # now: the code may be edited while the run goes on
    if rank == 0:
        folder.started()
        if patch := code_diff(root):
            atomic_write_bytes(folder.path / "diff.patch", patch)
    mirror = Mirror(tracking(request, folder.path, fingerprint, inputs, root), root) if rank == 0 else None
    if not complete(training):  # else it was killed after its last batch
        training.trainer.fit()
    _collect(config, training, folder)
    if rank == 0:
        shutil.rmtree(folder.path / SELECTED, ignore_errors=True)
        manifest = build_manifest(
            fingerprint=fingerprint,
            config=to_dict(config),
            inputs=inputs,
            parents=parents(config, root),
            surroundings=made_with,
            measured=measured(config, training, folder.started()),
        )
        folder.finish(manifest)
    if mirror is not None:
        mirror.close()
    dist.barrier()
    training.trainer.close()


def complete(training: Training) -> bool:
    """Whether nothing is left to train."""
    ended_early = training.monitor is not None and training.monitor.exhausted
    return ended_early or training.trainer.state.timestamp.batch.value >= training.order.batches


def tracking(request: Request, folder: Path, fingerprint: str, inputs: dict[str, str], root: Path) -> TrackingRequest:
    """How W&B files the run."""
    return train_request(
        root=root,
        folder=folder,
        target=request.target,
        group=request.group,
        name=request.name,
        config=to_dict(request.config),
        inputs=inputs,
        fingerprint=fingerprint,
        uses=input_folders(request.config, root).values(),
        is_ad_hoc=request.is_ad_hoc,
    )


def _quiet() -> None:
    """Hide warnings of the libraries that a user can do nothing about."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(composer|torch|streaming|diffusers)\b.*")
    warnings.filterwarnings("ignore", category=FutureWarning)


def open_data(config: RunConfig, root: Path, work: Path) -> DataSpec:
    """Batches of the training clips, or of prompts and the shape of their clips, cut to the run's number of latent
    frames; a choice of them is written to `work`.

    Raises:
        HarnessError: shards are damaged, made by other encoders than the project's, or do not hold what the run needs.
    """
    folder = root / config.told_by
    remake = "`dvc repro encode`" if config.prompts is None else "`python -m harness prompts LIST.txt` again"
    encoded = require_fingerprint(folder, _expected(config, root), remake)
    channels, frames, height, width = encoded["latent_shape"]
    if frames < config.frames:
        raise HarnessError(
            f"frames: {config.frames} latent frames wanted, the clips in {folder} have {frames}; "
            "encode longer clips, or lower it"
        )
    split = folder / ("train" if config.prompts is None else PROMPTS)
    if dist.get_local_rank() == 0:
        verify_shards(split)
        if monitors(config):
            told, clips = root / config.data, (root / config.data).parent / "clips"
            for measured_on in (told / "validation", clips / "validation"):
                if measured_on.is_dir():  # the monitor says what is missing
                    verify_shards(measured_on)
        if config.captions_with is not None:
            select_split(split, config.captions_with, work / SELECTED)
    dist.barrier()
    if config.captions_with is not None:
        split = work / SELECTED / split.name
    loader = build_dataloader(
        split,
        batch_per_process(config, dist.get_world_size()),
        seed=config.seed,
        text_length=encoded["text_length"],
        image=config.rollout.has_image,
        guidance=config.method == "dmd",
    )
    shape = (channels, config.frames, height, width)
    spec = data_spec(loader)
    spec.batch_transforms = (
        lambda batch: {  # without what no method reads: the Trainer copies each batch deeply
            "latent": batch["latent"][:, :, : config.frames] if "latent" in batch else of_shape(size_of(batch), shape),
            "condition": batch["condition"],
            "key": batch["key"],
        }
    )
    return spec


def of_shape(count: int, shape: Sequence[int]) -> Tensor:
    """A batch of `count` latents of a shape, which is all that DMD takes of them: zeros, and one number in memory."""
    return torch.zeros(1).expand(count, *shape)


def _expected(config: RunConfig, root: Path) -> dict[str, Any]:
    """What the data's fingerprint has to say: the project's VAE, or that prompts are as the monitor's clips are."""
    vae = root / ENCODERS / "vae"
    if config.prompts is None:
        return {"vae": directory_digest(vae)} if vae.is_dir() else {}  # data can be had without its encoders
    if not monitors(config):
        return {}
    clips = read_fingerprint(root / config.data)
    return {name: clips.get(name) for name in ("text_encoder", "tokenizer", "text_length", "position_channels")}


def _monitor(config: RunConfig, root: Path, folder: Path | None) -> Callable[[nn.Module], dict[str, float]] | None:
    """The run's monitor; it keeps sample clips in `folder`, if there is one."""
    if not monitors(config):
        return None
    from harness.evaluation.monitor import build_monitor

    monitor = build_monitor(
        config,
        data_folder=root / config.data,
        evaluators_folder=root / EVALUATORS,
        encoders_folder=root / ENCODERS,
    )

    def sample_and_score(network: nn.Module) -> dict[str, float]:
        values = monitor(network)
        if folder is not None:
            keep(folder, monitor.shown, monitor.prompts.captions)
        return values

    return sample_and_score


def _collect(config: RunConfig, training: Training, folder: RunFolder) -> None:
    """Put what is given out into `output/`: the best, the last and the first weights, and the tables."""
    checkpoints = folder.output / "checkpoints"
    if dist.get_global_rank() == 0:
        shutil.rmtree(folder.output, ignore_errors=True)
    dist.barrier()
    with training.ema.applied() as generator:
        save_weights(generator, checkpoints / "last")
    if dist.get_global_rank() == 0:
        best = folder.path / "best"
        found = training.monitor is not None and training.monitor.best is not None
        shutil.copytree(best if found else checkpoints / "last", checkpoints / "model")
        if config.method == "dmd":
            shutil.copytree(folder.path / "init", checkpoints / "init")
        for name in RESULTS:
            if (folder.path / name).is_file():
                shutil.copyfile(folder.path / name, folder.output / name)


def measured(config: RunConfig, training: Training, started: str) -> dict[str, Any]:
    """The part of the manifest that is known at the end."""
    meter = training.meter.state_dict()
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else processor_name(),
        "threads": config.threads,
        "seeds": {"run": config.seed},
        "world_size": dist.get_world_size(),
        "effective_batch": method_settings(config).batch_size,
        "flags": {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        },
        "updates": training.order.done(training.trainer.state.timestamp.batch.value),
        "compute": training.meter.compute(),
        "wall_seconds": round(meter["wall_seconds"], 2),
        "peak_memory_mib": round(meter["peak_memory_mib"], 1),
        "best": training.monitor.best if training.monitor is not None else None,
        "started": started,
        "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
