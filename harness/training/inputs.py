"""What a run reads: data, weights made by earlier runs, the evaluators of its monitor; checked and named by digests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.formats.folders import model_folder
from harness.io import digest, directory_digest, read_json, sha256_file

TEACHERS = {  # target → where a preset that trains its teacher finds it; any other is pretrained
    "teacher": "checkpoints/teacher",
    "teacher_i2v": "checkpoints/teacher_i2v",
}
EVALUATORS = Path("checkpoints/evaluators")
ENCODERS = Path("checkpoints/encoders")
HUB = {  # preset of the network → where Wan's authors publish it
    "wan2.1-t2v-1.3b": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "wan2.1-t2v-14b": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "wan2.1-i2v-14b-480p": "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    "wan2.1-i2v-14b-720p": "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    "wan2.2-ti2v-5b": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}


def monitors(config: RunConfig) -> bool:
    """Whether the run measures quality."""
    return config.monitor_every_updates is not None


def teacher_folder(config: RunConfig, root: Path) -> Path:
    """The teacher's model folder: `model/` of a run, `transformer/` of a pretrained pipeline, or the folder itself."""
    folder = root / config.teacher
    return model_folder(folder) or folder / "model"


def critic_folder(config: RunConfig, root: Path) -> Path:
    """The model folder that DMD's critic starts from: the teacher's, if no other is named."""
    if config.critic is None:
        return teacher_folder(config, root)
    folder = root / config.critic
    return model_folder(folder) or folder / "model"


def import_command(config: RunConfig) -> str:
    """The command that fetches a pretrained teacher, with its VAE and encoders."""
    source = HUB.get(config.model, "SOURCE")
    return f"python -m harness import {source} --preset {config.model} --out {config.teacher}"


def init_folder(config: RunConfig, root: Path) -> Path | None:
    """The model folder that the generator starts from; None for random weights."""
    match config.init.kind:
        case "random":
            return None
        case "teacher":
            return teacher_folder(config, root)
        case "causal_sft":
            return root / (config.init.path or "checkpoints/causal_sft") / f"seed{config.seed}" / "model"
        case "student":
            return root / str(config.init.path) / f"seed{config.seed}" / "model"
        case "checkpoint":
            folder = root / str(config.init.path)
            return model_folder(folder) or folder


def input_folders(config: RunConfig, root: Path) -> dict[str, Path]:
    """Name → folder of everything that the run reads."""
    folders = {} if config.prompts is None else {"prompts": root / config.prompts}
    if config.prompts is None or monitors(config):
        folders["data"] = root / config.data
    if config.method == "dmd":
        folders["teacher"] = teacher_folder(config, root)
        if config.critic is not None:
            folders["critic"] = critic_folder(config, root)
    init = init_folder(config, root)
    if init is not None:
        folders["init"] = init
    if monitors(config):
        folders["evaluators"] = root / EVALUATORS
    if monitors(config) or config.long_tuning.enabled:
        folders["vae"] = root / ENCODERS / "vae"
    return folders


def remedy(name: str, folder: Path, config: RunConfig, root: Path) -> str:
    """The command that makes a missing input."""
    if name == "data":
        return "run `dvc repro encode`"
    if name == "prompts":
        return f"run `python -m harness prompts LIST.txt --out {config.prompts}`"
    if name in ("evaluators", "vae"):
        stage = "evaluators" if name == "evaluators" else "encoders"
        if name == "vae" and config.long_tuning.enabled:
            return "run `dvc repro encoders`: long tuning encodes frames anew"
        return f"run `dvc repro {stage}`, or train without a monitor ({config.method}.monitor_every_updates=null)"
    for target, trained in {**TEACHERS, "sft_first_latent": "checkpoints/sft_first_latent"}.items():
        if folder in (root / trained, root / trained / "model"):
            return f"run `dvc repro {target}`"
    if folder == teacher_folder(config, root) and not config.teacher.startswith("checkpoints/"):
        return f"run `{import_command(config)}`"
    if name == "init" and config.init.kind in ("causal_sft", "student"):
        target = checkpoint_target(folder.parent, root)
        if target is not None:
            return f"run `python harness/train.py --target {target}` (or `dvc repro`)"
    return f"expected a model folder as diffusers writes it; fetch it, or correct `{name}`"


def checkpoint_target(checkpoint: Path, root: Path) -> str | None:
    """The run whose checkpoint a folder is, by its place: `checkpoints/<target>`; None for any other folder."""
    if not checkpoint.is_relative_to(root / "checkpoints"):
        return None
    return checkpoint.relative_to(root / "checkpoints").as_posix()


def input_digests(config: RunConfig, root: Path) -> dict[str, str]:
    """Name → SHA-256 of each input.

    Raises:
        HarnessError: naming every input that is missing and the command that makes it; or a damaged teacher's card.
    """
    folders = input_folders(config, root)
    missing = [
        f"{folder}: no such folder ({name}); {remedy(name, folder, config, root)}"
        for name, folder in folders.items()
        if not folder.is_dir()
    ]
    if missing:
        raise HarnessError("\n".join(missing))
    digests = {name: digest_of(name)(folder) for name, folder in folders.items()}
    return digests | _teacher_motion(config, root)


def digest_of(name: str) -> Callable[[Path], str]:
    """How the input of that name is digested."""
    return data_digest if name in ("data", "prompts") else directory_digest


def _teacher_motion(config: RunConfig, root: Path) -> dict[str, str]:
    """What the monitor reads of the teacher's card: that number alone, so that no other metric makes another run."""
    if not monitors(config):
        return {}
    from harness.evaluation.own_teacher import teacher_motion  # takes a second to import

    motion = teacher_motion(config, root / "results")
    return {} if motion is None else {"teacher_motion": digest(motion)}


def data_digest(folder: Path) -> str:
    """SHA-256 over everything but the shards themselves: their sums are in the indices, and training checks them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".mds")
    return digest({file.relative_to(folder).as_posix(): sha256_file(file) for file in files})


def parents(config: RunConfig, root: Path) -> list[dict[str, Any]]:
    """The runs whose weights this one reads: target, fingerprint and compute, from their manifests."""
    found: dict[str, dict[str, Any]] = {}
    for name, folder in input_folders(config, root).items():
        if name not in ("teacher", "init"):
            continue
        target = checkpoint_target(folder.parent, root)
        if target is None:
            continue
        manifest = root / "results" / target / "manifest.json"
        if manifest.is_file():
            content = read_json(manifest)
            found[target] = {"target": target, **{key: content.get(key) for key in ("fingerprint", "compute")}}
    return [found[target] for target in sorted(found)]
