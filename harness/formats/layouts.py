"""What lies at a path: the layout of a checkpoint, told from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from harness.errors import HarnessError
from harness.formats.folders import PARTS, model_folder
from harness.formats.wan_config import is_original
from harness.io import read_json
from harness.models.checkpoint import WEIGHTS, weight_files

Layout = Literal["diffusers", "original", "single_file", "self_forcing"]
PIPELINE = "model_index.json"
_CLASSES = ("WanTransformer3DModel", "CausalWan")
_TORCH = (".pt", ".pth", ".bin", ".ckpt")


@frozen
class Found:
    """A checkpoint on disk.

    layout     `diffusers`: its config and names; `original`: Wan's; `single_file`: one safetensors file of either
               naming, as ComfyUI and LightX2V use; `self_forcing`: a `.pt` of state dicts
    weights    files that hold tensors
    config     `config.json`, for the folder layouts
    pipeline   the folder of the pipeline that the network is a part of
    """

    layout: Layout
    weights: tuple[Path, ...]
    config: Path | None = None
    pipeline: Path | None = None


def detect(path: Path) -> Found:
    """The checkpoint at a path: a file, a model folder, or a folder with the network under `transformer/` or `model/`.

    Raises:
        HarnessError: nothing is there, it is another model's, or files are missing.
    """
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        raise HarnessError(f"{path}: no such file or folder")
    folder = model_folder(path)
    if folder is None:
        files = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", *_TORCH))
        advice = f"; give one of its files: {', '.join(files[:5])}" if files else ""
        raise HarnessError(f"{path}: no config.json, here or in {' or '.join(PARTS)}{advice}")
    raw = read_json(folder / "config.json", kind=object)
    raw = raw if isinstance(raw, dict) else {}
    if raw.get("_class_name") in _CLASSES:
        layout: Layout = "diffusers"
    elif is_original(raw):
        layout = "original"
    else:
        raise HarnessError(
            f"{folder / 'config.json'}: is of {raw.get('_class_name') or raw.get('model_type') or 'nothing known'}; "
            f"expected {_CLASSES[0]}, or Wan's original config (dim, num_heads, num_layers): give the transformer's "
            "folder"
        )
    pipeline = path if folder.name == PARTS[0] and folder != path and (path / PIPELINE).is_file() else None
    return Found(layout, tuple(weight_files(folder)), folder / "config.json", pipeline)


def _file(path: Path) -> Found:
    if path.suffix == ".safetensors":
        beside = path.parent / "config.json"
        if path.name == WEIGHTS and beside.is_file():
            return detect(path.parent)  # a model folder's own file: its config says more than shapes can
        return Found("single_file", (path,))
    if path.suffix in _TORCH:
        return Found("self_forcing", (path,))
    raise HarnessError(f"{path}: expected a folder, a .safetensors file or a {', '.join(_TORCH)} file")
