"""`python -m harness export`: a trained target or a model folder → a format that others read, with a model card."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.config.runs import EVALUATION, places, run_name
from harness.errors import HarnessError
from harness.formats.adapters import read_adapter, write_longlive
from harness.formats.folders import model_folder
from harness.formats.importing import DTYPES
from harness.formats.model_card import Provenance, model_card
from harness.formats.placing import ORIGIN, refuse_foreign, whole_file, whole_folder
from harness.formats.reading import open_checkpoint
from harness.formats.sources import file_sums
from harness.formats.tensor_stream import Weights, cast
from harness.formats.wan_config import Config
from harness.formats.writing import write_diffusers, write_original, write_self_forcing, write_single_file
from harness.io import atomic_write_text, read_json, write_json
from harness.models.checkpoint import ADAPTER
from harness.models.lora import Update, write_adapter

FOLDERS: dict[str, Callable[[Path, Config, Weights], None]] = {"diffusers": write_diffusers, "original": write_original}
FILES: dict[str, tuple[str, Callable[[Path, Weights], None]]] = {
    "single_file": (".safetensors", write_single_file),
    "self_forcing": (".pt", write_self_forcing),
}
ADAPTERS = ("peft", "longlive")  # formats of what `lora.rank` has trained, without the network
FORMATS = (*FOLDERS, *FILES)


@frozen
class Exported:
    """What is exported: a model folder, and what is known about it."""

    folder: Path
    provenance: Provenance


def find(what: str, root: Path) -> Exported:
    """The model of a target (`teacher`, `causal_sft/seed0`, `EXPERIMENT/ARM/seed0`), an ad hoc run (`runs/NAME`) or a
    folder.

    Raises:
        HarnessError: there is no such target, run or folder.
    """
    for path in (root / places(run_name(what, root))[0], root / what):
        folder = model_folder(path) if path.is_dir() else None
        if folder is not None:
            return Exported(folder, _provenance(folder, root))
    raise HarnessError(
        f"{what}: no model at {root / 'checkpoints' / what} or {root / what}. Expected a target that is trained "
        "(`teacher`, `causal_sft/seed0`, `EXPERIMENT/ARM/seed0`), a finished ad hoc run (`runs/NAME`) or a folder with "
        "config.json"
    )


def _provenance(folder: Path, root: Path) -> Provenance:
    results = results_folder(folder, root)
    origins = [place / ORIGIN for place in (folder, folder.parent) if (place / ORIGIN).is_file()]
    manifest = None if results is None else _read(results / "manifest.json")
    return Provenance(
        name=str(manifest["target"]) if manifest and "target" in manifest else folder.resolve().name,
        manifest=manifest,
        cards=None if results is None or manifest is None else _card(results, manifest),
        origin=read_json(origins[0]) if origins else None,
    )


def results_folder(folder: Path, root: Path) -> Path | None:
    """Where the results of a run's model lie: of `checkpoints/TARGET/model` in `results/TARGET`, of an ad hoc run's
    `runs/NAME/checkpoints/model` in `runs/NAME`; None for other folders, a run's `init/` and `last/` among them.
    """
    checkpoints, folder = (root / "checkpoints").resolve(), folder.resolve()
    if folder.name != "model":
        return None
    if folder.is_relative_to(checkpoints):
        return root / "results" / folder.relative_to(checkpoints).parent
    return folder.parent.parent if folder.parent.name == "checkpoints" else None


def _card(results: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A run's evaluation card; None where it was not evaluated, or its card is of an earlier run of its name."""
    card = _read(results / EVALUATION / "cards.json" if manifest.get("ad_hoc") else results / "cards.json")
    fingerprint = manifest.get("fingerprint")
    return card if card is not None and card.get("run", fingerprint) == fingerprint else None


def _read(path: Path) -> Mapping[str, Any] | None:
    return read_json(path) if path.is_file() else None


def export_checkpoint(what: str, layout: str, out: Path, *, dtype: str | None = None, root: Path = Path(".")) -> None:
    """Write the model with its card: `README.md` in a folder, `NAME.README.md` beside a file.

    Raises:
        HarnessError: the model is missing or damaged, or `out` cannot be written or does not suit the format.
    """
    exported = find(what, root)
    checkpoint = open_checkpoint(exported.folder)
    updates = _updates(what, exported.folder, dtype) if layout in ADAPTERS else {}
    weights = cast(checkpoint.weights, DTYPES[dtype] if dtype else None)
    written = [update.a.dtype for update in updates.values()] or [info.dtype for info in weights.infos.values()]
    dtypes = sorted({str(dtype).removeprefix("torch.") for dtype in written})

    def card(sums: Mapping[str, str]) -> str:
        return model_card(exported.provenance, checkpoint.config, layout, dtypes, sums)

    if layout in FOLDERS or layout == "peft":
        refuse_foreign(out)
        with whole_folder(out) as new:
            if layout == "peft":
                write_adapter(new, updates)
            else:
                FOLDERS[layout](new, checkpoint.config, weights)
            sums = file_sums(new.iterdir(), new)
            (new / "README.md").write_text(card(sums), encoding="utf-8")
            write_json(new / ORIGIN, {"schema": 1, "source": what, "layout": layout, "dtype": dtype, "written": sums})
        return
    suffix, write = (".pt", None) if layout == "longlive" else FILES[layout]
    if out.suffix != suffix or out.is_dir():
        raise HarnessError(f"--out {out}: {layout} is one file, expected a name that ends in {suffix}")
    with whole_file(out) as new:
        if write is None:
            write_longlive(new, updates)
        else:
            write(new, weights)
        sums = file_sums([new], new.parent)
    atomic_write_text(out.with_suffix(".README.md"), card({out.name: next(iter(sums.values()))}))


def _updates(what: str, folder: Path, dtype: str | None) -> dict[str, Update]:
    """The adapter that was merged into a model."""
    if not (folder / ADAPTER).is_dir():
        raise HarnessError(
            f"{what}: no adapter at {folder / ADAPTER}: it was trained without `lora.rank`, or is no run's model. "
            f"Export the whole network ({', '.join(FORMATS)})"
        )
    updates = read_adapter(folder / ADAPTER)
    if dtype is None:
        return updates
    return {
        name: Update(update.a.to(DTYPES[dtype]), update.b.to(DTYPES[dtype]), update.scale)
        for name, update in updates.items()
    }


def parser() -> argparse.ArgumentParser:
    """The command line of `export`."""
    parser = argparse.ArgumentParser(
        prog="python -m harness export",
        description="Export a model for other programs, with a model card (README.md): method, data, metrics, "
        "provenance. The values are written as they are. Formats and examples: docs/checkpoints.md",
    )
    parser.add_argument("what", metavar="RUN_OR_FOLDER", help="a target (EXPERIMENT/ARM/seed0) or a model folder")
    parser.add_argument(
        "--format",
        required=True,
        choices=(*FORMATS, *ADAPTERS),
        help="diffusers: a folder for from_pretrained; original: Wan's own folder; single_file: one safetensors file "
        "for ComfyUI and LightX2V; self_forcing: a .pt for Self-Forcing and its forks; peft: the folder of the adapter "
        "alone; longlive: a .pt of the adapter alone",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder, or file (.safetensors, .pt), to write")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="cast the weights (default: keep each as it is)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The `export` verb."""
    arguments = parser().parse_args(argv)
    export_checkpoint(arguments.what, arguments.format, arguments.out, dtype=arguments.dtype)
    print(f"{arguments.out}: {arguments.what} as {arguments.format}", file=sys.stderr)
    return 0
