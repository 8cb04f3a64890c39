"""A list of prompts → encoded conditions for distillation, which needs no clips."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen

from harness.config.load import load_params
from harness.config.schema import Preset
from harness.data.mds import PROMPT_COLUMNS, disk_errors_named, new_folder, write_mds
from harness.data.prepare import REPORT
from harness.data.problems import Report
from harness.data.shards import FINGERPRINT, PROMPTS, SCHEMA
from harness.data.texts import write_empty_texts
from harness.data.videos import read_table
from harness.errors import HarnessError
from harness.io import directory_digest, write_json
from harness.models.text import TextEncoder, clean_prompt, encode_prompt, load_text_encoder


@frozen
class Prompt:
    """One prompt; `key` is its place in the list, so the same list gives the same keys."""

    key: str
    text: str
    attributes: dict[str, Any] = field(factory=dict)


def read_prompts(path: str | Path, report: Report | None = None) -> list[Prompt]:
    """Prompts in order: of a `.txt` with one per line, or of a `.csv` with a column `prompt` (or `caption`).

    Raises:
        HarnessError: missing file, another kind of file, no prompts; or, without a `report`, an empty prompt among
            the others (its line is named).
    """
    path = Path(path)
    if not path.is_file():
        raise HarnessError(
            f"{path}: no such file. Expected a list of prompts: .txt with one per line, or .csv with a column `prompt`"
        )
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
        except UnicodeDecodeError as error:
            raise HarnessError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    elif path.suffix.lower() == ".csv":
        column = "caption" if _header_has_caption(path) else "prompt"
        lines = [row[column] for row in read_table(path, (column,))]
    else:
        raise HarnessError(f"{path}: a list of prompts is .txt or .csv, got {path.suffix or 'no suffix'}")
    prompts = []
    for number, line in enumerate(lines, start=1):
        cleaned = clean_prompt(line)
        if cleaned:
            prompts.append(Prompt(f"prompt-{number - 1:06d}", cleaned))
        elif report is None:
            raise HarnessError(f"{path}: prompt {number} is empty; write it or delete the line")
        else:
            report.add("empty_prompt", f"prompt {number}", "nothing in it")
    if not prompts:
        raise HarnessError(f"{path}: has no prompts")
    return prompts


def _header_has_caption(path: Path) -> bool:
    first = path.read_bytes().split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")
    columns = [cell.strip().strip('"') for cell in first.split(",")]
    return "caption" in columns and "prompt" not in columns


def encode_prompts(
    prompts: Sequence[Prompt],
    encoder: TextEncoder,
    encoders_folder: str | Path,
    out: str | Path,
    *,
    clips: Mapping[str, Any],
    negative_prompt: str | None = None,
    report: Report | None = None,
) -> Report:
    """Write `out/prompts` (columns `key, text, caption, attributes`) with what training needs beside it.

    `harness.data.loader.build_dataloader(out / "prompts", …)` then gives batches without `latent`. `clips` says of what
    shape they would be (`latent_shape`, `position_channels`: `clips_of`). Also written: `unconditional.safetensors`,
    `negative.safetensors` where there is a negative prompt, `fingerprint.json` and `report.json` (words that the
    tokenizer does not know are counted there).

    Raises:
        HarnessError: no prompt; a prompt longer than the encoder takes (with a `report` it is left out and named
            there instead); or the disk is full.
    """
    out = Path(out)
    strict, report = report is None, report or Report()
    with disk_errors_named(out, "Free space and run it again"), new_folder(out) as work:
        report.written[PROMPTS] = write_mds(work / PROMPTS, PROMPT_COLUMNS, _rows(prompts, encoder, report))
        if not report.written[PROMPTS] or (strict and report.problems):
            raise HarnessError(f"{out}: not every prompt can be used (--allow-skips goes on).\n{report.summary()}")
        write_empty_texts(work, partial(encode_prompt, encoder), negative_prompt)
        digests = {part: directory_digest(Path(encoders_folder) / part) for part in ("text_encoder", "tokenizer")}
        sizes = {"text_dim": encoder.dim, "text_length": encoder.max_length}
        negative = {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        write_json(work / FINGERPRINT, {"schema": SCHEMA, **digests, **sizes, **clips, **negative})
        write_json(work / REPORT, report.to_json())
    return report


def clips_of(preset: Preset) -> dict[str, Any]:
    """The shape that the preset's clips would have, in words of a fingerprint: `[C, F, h, w]`, and their positions."""
    data, encoders = preset.data, preset.encoders
    shape = [
        encoders.latent_channels,
        1 + (data.frames - 1) // encoders.temporal_factor,
        data.height // encoders.spatial_factor,
        data.width // encoders.spatial_factor,
    ]
    return {"latent_shape": shape, "position_channels": encoders.position_channels}


def _rows(prompts: Sequence[Prompt], encoder: TextEncoder, report: Report) -> Iterator[dict[str, Any]]:
    for prompt in prompts:
        encoded = encode_prompt(encoder, prompt.text)
        report.unknown_words += encoded.unknown_words
        if encoded.truncated:
            report.add("too_long", prompt.key, f"more than {encoder.max_length} tokens: {prompt.text[:60]!r} …")
            continue
        yield {
            "key": prompt.key,
            "text": encoded.vectors.to(torch.float16).numpy(),
            "caption": prompt.text,
            "attributes": prompt.attributes,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """`prompts`: encode a list of prompts for distillation without clips."""
    parser = argparse.ArgumentParser(prog="python -m harness prompts", description=main.__doc__)
    parser.add_argument("list", help=".txt with one prompt per line, or .csv with a column `prompt`")
    parser.add_argument("--params", default="params.yaml", help="file with the presets")
    parser.add_argument("--encoders", default="checkpoints/encoders", help="folder with text_encoder and tokenizer")
    parser.add_argument("--out", default="data/prompts", help="folder to write")
    parser.add_argument("--allow-skips", action="store_true", help="go on when prompts cannot be used")
    arguments = parser.parse_args(argv)
    report = Report() if arguments.allow_skips else None
    prompts = read_prompts(arguments.list, report)
    folder, preset = Path(arguments.encoders), load_params(arguments.params).preset
    encoder = load_text_encoder(folder / "text_encoder", folder / "tokenizer", max_length=preset.encoders.text_length)
    result = encode_prompts(
        prompts,
        encoder,
        folder,
        arguments.out,
        clips=clips_of(preset),
        negative_prompt=preset.encoders.negative_prompt,
        report=report,
    )
    print(result.summary(), file=sys.stderr)
    print(f"{arguments.out}: train on them with `prompts={arguments.out}`", file=sys.stderr)
    return 0
