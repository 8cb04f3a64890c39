"""`python -m harness import`: a checkpoint of any known layout → a diffusers folder with its origin."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen

from harness.errors import HarnessError
from harness.formats.adapters import adapter_files, merged, read_adapter
from harness.formats.layouts import Found
from harness.formats.pinning import check_place, pin
from harness.formats.placing import ORIGIN, link_or_copy, refuse_foreign, whole_folder
from harness.formats.reading import Checkpoint, open_checkpoint
from harness.formats.sources import Download, Source, check_sum, file_sums, locate, pins, total_sum
from harness.formats.tensor_stream import cast
from harness.formats.wan_config import looks_like
from harness.formats.writing import write_diffusers
from harness.io import sha256_file, write_json
from harness.models.checkpoint import WEIGHTS
from harness.models.presets import MODELS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@frozen(kw_only=True)
class ImportRequest:
    """What is imported, and how.

    preset          what it must be
    revision        branch, tag or commit of a Hub repository
    sha256          sum that the source must have
    weights         `ema` or `raw`, of a `.pt`
    lora            an adapter to merge: a path or a Hub id
    alpha           of the adapter; None: its own, else its rank
    lora_revision   branch, tag or commit of the adapter's Hub repository
    lora_sha256     sum that the adapter must have
    dtype           of the written weights; None keeps each as it is
    """

    source: str
    out: Path
    preset: str | None = None
    revision: str | None = None
    sha256: str | None = None
    weights: str | None = None
    lora: str | None = None
    alpha: float | None = None
    lora_revision: str | None = None
    lora_sha256: str | None = None
    dtype: str | None = None


def import_checkpoint(request: ImportRequest, download: Download | None = None) -> dict[str, Any]:
    """Write the model folder, or the pipeline folder with the network under `transformer/`. Returns its origin.

    Raises:
        HarnessError: for whatever is wrong with source, sum, weights or disk; nothing is then written.
    """
    _refuse_options_without_lora(request)
    refuse_foreign(request.out)
    source = locate(request.source, request.revision, download)
    checkpoint = open_checkpoint(source.path, preset=request.preset, weights=request.weights)
    sums = source_sums(checkpoint.found)
    check_sum(sums, request.sha256, request.source)
    origin = describe(request, source, checkpoint, sums)
    if request.lora is not None:
        adapter = locate(request.lora, request.lora_revision, download, "--lora-revision")
        updates = read_adapter(adapter.path, request.alpha)
        files = adapter_files(adapter.path)
        adapter_sums = file_sums(files, files[0].parent)
        check_sum(adapter_sums, request.lora_sha256, request.lora, "--lora-sha256")
        checkpoint = evolve(checkpoint, weights=merged(checkpoint.weights, updates, request.lora))
        origin["lora"] = {
            "source": request.lora,
            "revision": adapter.revision,
            "alpha": request.alpha,
            "scales": sorted({update.scale for update in updates.values()}),
            "files": adapter_sums,
            "sha256": total_sum(adapter_sums),
        }
    weights = cast(checkpoint.weights, DTYPES[request.dtype] if request.dtype else None)
    with whole_folder(request.out) as new:
        model = new
        if checkpoint.found.pipeline is not None:
            model = new / "transformer"
            model.mkdir()
            for file in _other_parts(checkpoint.found.pipeline):
                link_or_copy(file, new / file.relative_to(checkpoint.found.pipeline))
        write_diffusers(model, checkpoint.config, weights)
        origin["written"] = {path.name: sha256_file(path) for path in sorted(model.iterdir()) if path.is_file()}
        write_json(new / ORIGIN, origin)
    return origin


def _refuse_options_without_lora(request: ImportRequest) -> None:
    given = {
        "--lora-alpha": request.alpha,
        "--lora-revision": request.lora_revision,
        "--lora-sha256": request.lora_sha256,
    }
    for option, value in given.items():
        if value is not None and request.lora is None:
            raise HarnessError(f"{option} {value}: is of an adapter, and there is none; name one with --lora")


def describe(request: ImportRequest, source: Source, checkpoint: Checkpoint, sums: dict[str, str]) -> dict[str, Any]:
    """`origin.json`: where the weights come from, and what was done to them."""
    return {
        "schema": 1,
        "source": request.source,
        "revision": source.revision,
        "files": sums,
        "sha256": total_sum(sums),
        "layout": checkpoint.found.layout,
        "weights": checkpoint.chosen,
        "presets": looks_like(checkpoint.config),
        "ignored": list(checkpoint.ignored),
        "dtype": request.dtype,
        "lora": None,
    }


def source_sums(found: Found) -> dict[str, str]:
    """SHA-256 of every file that is read: of the network, and of the pipeline's other parts."""
    files = [*found.weights]
    if found.config is not None:
        index = found.config.with_name(f"{WEIGHTS}.index.json")
        files += [found.config, *([index] if index.is_file() else [])]
    if found.pipeline is not None:
        return file_sums([*files, *_other_parts(found.pipeline)], found.pipeline)
    return file_sums(files, found.weights[0].parent)


def _other_parts(pipeline: Path) -> list[Path]:
    """The files of a pipeline besides the network: VAE, encoders, tokenizer, scheduler."""
    files = (file for file in pipeline.rglob("*") if file.is_file())
    inside = ((file, file.relative_to(pipeline).parts) for file in files)
    return sorted(
        file
        for file, parts in inside
        if parts[0] not in ("transformer", ORIGIN) and not any(part.startswith(".") for part in parts)
    )


def parser() -> argparse.ArgumentParser:
    """The command line of `import`."""
    parser = argparse.ArgumentParser(
        prog="python -m harness import",
        description="Import a Wan checkpoint: a diffusers folder or pipeline, the original Wan folder, a .pt of "
        "Self-Forcing, LongLive or their forks, or one safetensors file. Writes a diffusers folder and origin.json. "
        "Streams: a checkpoint larger than memory is no problem. Formats and examples: docs/checkpoints.md",
    )
    parser.add_argument("source", help="a file, a folder, or a Hub id: owner/name, or owner/name/path/file.pt")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; an earlier import there is replaced")
    parser.add_argument("--preset", choices=sorted(MODELS), help="refuse anything but this network")
    parser.add_argument("--revision", help="commit, tag or branch of the Hub repository (a commit pins it)")
    parser.add_argument("--sha256", help="refuse any other source; every import prints the sum of its own")
    parser.add_argument("--weights", choices=("ema", "raw"), help="of a .pt (default: ema where there are any)")
    parser.add_argument("--lora", help="an adapter to merge: PEFT folder, .safetensors or LongLive's .pt, or a Hub id")
    parser.add_argument("--lora-alpha", type=float, help="scale · rank (default: the adapter's own, else its rank)")
    parser.add_argument("--lora-revision", help="commit, tag or branch of the adapter's Hub repository")
    parser.add_argument("--lora-sha256", help="refuse any other adapter; every import prints the sum of its own")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="cast the weights (default: keep each as it is)")
    parser.add_argument("--pin", action="store_true", help="also make a DVC stage of it, in pretrained/dvc.yaml")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The `import` verb."""
    a = parser().parse_args(argv)
    request = ImportRequest(
        source=a.source,
        out=a.out,
        preset=a.preset,
        revision=a.revision,
        sha256=a.sha256,
        weights=a.weights,
        lora=a.lora,
        alpha=a.lora_alpha,
        lora_revision=a.lora_revision,
        lora_sha256=a.lora_sha256,
        dtype=a.dtype,
    )
    if a.pin:
        check_place(a.out)
    origin = import_checkpoint(request)
    what = " or ".join(origin["presets"]) or "no preset"
    chosen = f", {origin['weights']}" if origin["weights"] else ""
    print(f"{a.out}: imported from {a.source} ({origin['layout']}{chosen}; {what})", file=sys.stderr)
    print(f"pin it: {' '.join(pins(origin))}", file=sys.stderr)
    if a.pin:
        print(f"pinned by the DVC stage {pin(origin, a.preset, a.out)}: commit it with its lock file", file=sys.stderr)
    return 0
