"""Model folders as diffusers writes them: `config.json` and `diffusion_pytorch_model.safetensors`, or shards of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from harness.errors import HarnessError
from harness.io import read_json
from harness.models.causal_wan import CausalWan
from harness.models.lora import Update, has_adapters, merged_state, scale_of, write_adapter

WEIGHTS = "diffusion_pytorch_model.safetensors"
ADAPTER = "adapter"  # the folder in a model folder that holds what was merged into it
_CLASSES = ("WanTransformer3DModel", "CausalWan")


def save_model(model: CausalWan, folder: str | os.PathLike, *, adapter: Mapping[str, Update] | None = None) -> None:
    """Write a model folder, complete or not at all: an existing folder is replaced only once the new one is on disk.

    The config names diffusers' own class, so that every tool that reads Wan loads the folder. A network with adapters
    is written as the plain one that computes the same.

    adapter   is written too, as peft saves it, in `adapter/`
    """
    folder = Path(folder)
    if has_adapters(model):
        model = plain_model(model, model.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as scratch:
        new = scratch / "new"
        model.save_pretrained(new)
        config = json.loads((new / "config.json").read_text())
        config["_class_name"] = _CLASSES[0]
        (new / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if adapter is not None:
            write_adapter(new / ADAPTER, adapter)
        for path in new.rglob("*"):
            _sync(path)
        if folder.exists():
            folder.rename(scratch / "old")
        new.rename(folder)
    _sync(folder.parent)


def plain_model(model: CausalWan, state: Mapping[str, torch.Tensor]) -> CausalWan:
    """A network without wrappers or adapters that holds `state`, the whole state of `model`; adapters are merged."""
    with torch.device("meta"):
        plain = CausalWan.from_config(dict(model.config))
    assert isinstance(plain, CausalWan)
    plain.eval()
    load_state(plain, merged_state(state, scale_of(model)) if has_adapters(model) else state, "the network's weights")
    return plain


def load_model(
    folder: str | os.PathLike, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> CausalWan:
    """Read a model folder (one file or shards), tensor by tensor, into a network that is never initialised.

    dtype   of the parameters; None keeps the stored one

    Raises `HarnessError` for a missing or foreign config, a truncated file, and missing, unexpected or wrongly shaped
    parameters; nothing half-loaded is returned.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    class_name = config.get("_class_name") if isinstance(config, dict) else None
    if class_name not in _CLASSES:
        raise HarnessError(
            f"{folder / 'config.json'}: _class_name is {class_name!r}, expected {_CLASSES[0]!r}: "
            "this is not the folder of a Wan transformer; give the folder that holds the transformer's config.json"
        )
    try:
        with torch.device("meta"):
            model = CausalWan.from_config(config)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise HarnessError(f"{folder / 'config.json'}: does not describe a Wan transformer ({error})") from error
    assert isinstance(model, CausalWan)
    state = {}
    for path in weight_files(folder):
        state |= _read_tensors(path, device, dtype)
    load_state(model, state, str(folder))
    return model.eval()


def load_state(model: CausalWan, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Put `state` in place of the parameters of `model`, which may be on the meta device.

    Every name and shape is checked first. Raises `HarnessError`, naming `where` the state comes from, and leaves the
    model as it was.
    """
    wanted = model.state_dict()
    problems = []
    for title, names in (
        ("missing", wanted.keys() - state.keys()),
        ("unexpected", state.keys() - wanted.keys()),
        (
            "of another shape",
            {
                f"{name} {list(state[name].shape)} instead of {list(wanted[name].shape)}"
                for name in wanted.keys() & state.keys()
                if state[name].shape != wanted[name].shape
            },
        ),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5])
            problems.append(f"{len(names)} {title}: {shown}{' …' if len(names) > 5 else ''}")
    if problems:
        raise HarnessError(
            f"{where}: the parameters do not fit the model's config. {'; '.join(problems)}. "
            "Is it the checkpoint of another model or preset?"
        )
    model.load_state_dict(dict(state), strict=True, assign=True)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in the index's order. Raises `HarnessError` when one is absent."""
    index = folder / f"{WEIGHTS}.index.json"
    if index.exists():
        listed = read_json(index)
        names = sorted(set(listed.get("weight_map", {}).values())) if isinstance(listed, dict) else []
        files = [folder / name for name in names]
    else:
        files = [folder / WEIGHTS]
    absent = [str(path) for path in files if not path.is_file()]
    if absent or not files:
        raise HarnessError(
            f"{folder}: no weights at {', '.join(absent) or index}; "
            f"expected {WEIGHTS}, or its shards, beside config.json"
        )
    return files


def _read_tensors(path: Path, device: torch.device | str, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name).to(dtype=dtype) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise HarnessError(
            f"{path}: cannot be read as safetensors ({error}); "
            "the file is truncated or damaged: write or fetch it again"
        ) from error


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` (same file system, so that renames are atomic), gone afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
    finally:
        if (scratch / "old").exists() and not folder.exists():
            (scratch / "old").rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
