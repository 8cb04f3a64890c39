"""`data/clips` → `data/encoded`: latents, text vectors and first frames, with the fingerprint of what encoded them.

The clips are cut into parts of fixed size; process r of n makes the parts r, r + n, …, each under a temporary name
and renamed when whole. Parts wait in a work folder named after everything they depend on, so an interrupted call goes
on where it stopped, with any number of processes, and the result has the same bytes in all cases.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from safetensors.torch import save

from harness.config.load import load_params
from harness.data import mds
from harness.data.mds import ENCODED_COLUMNS, SPLITS, UNCONDITIONAL, iter_samples, read_index
from harness.data.parts import Part, assemble, finished, parts_of
from harness.data.prepare import REPORT
from harness.data.processes import Processes, hold, join_processes
from harness.data.progress import Progress
from harness.data.shards import FINGERPRINT, SCHEMA
from harness.errors import HarnessError
from harness.io import atomic_write_bytes, code_digest, digest, directory_digest, write_json
from harness.models import codec, text
from harness.models.codec import VAE, check_geometry, encode_video, from_pixels, latent_scale, load_vae
from harness.models.text import EncodedText, TextEncoder, encode_prompt, load_text_encoder

BATCH = 16
LARGEST_LATENT = 1000.0  # normalised latents have about unit variance; float16 ends at 65,504
_CODE = [Path(str(module.__file__)) for module in (mds, codec, text)] + [Path(__file__)]


@frozen
class Encoders:
    """The frozen networks, and where they came from."""

    vae: VAE
    text: TextEncoder
    folder: Path

    @classmethod
    def load(cls, folder: str | Path, *, text_length: int, device: torch.device | str = "cpu") -> Encoders:
        """Read `folder/{vae,text_encoder,tokenizer}`. Raises HarnessError for a missing or damaged one."""
        folder = Path(folder)
        encoder = load_text_encoder(folder / "text_encoder", folder / "tokenizer", max_length=text_length)
        encoder.model.to(device)  # type: ignore[arg-type]
        vae = load_vae(folder / "vae")
        vae.to(device)  # type: ignore[arg-type]
        return cls(vae, encoder, folder)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each folder."""
        return {part: directory_digest(self.folder / part) for part in ("vae", "text_encoder", "tokenizer")}


def to_float16(values: torch.Tensor, what: str, largest: float) -> np.ndarray:
    """Cast for storage. Raises HarnessError for values that are not finite or beyond `largest`: training on them would
    fail much later.
    """
    if not bool(torch.isfinite(values).all()):
        raise HarnessError(f"{what} has values that are not finite; check the encoder's weights and the clip")
    if (peak := float(values.abs().max())) > largest:
        raise HarnessError(
            f"{what} reaches {peak:.4g}, more than {largest:g}; check latents_mean and latents_std of the VAE"
        )
    return values.to(torch.float16).cpu().numpy()


def encode_clips(samples: Sequence[dict[str, Any]], encoders: Encoders, encode_text: Any) -> Iterator[dict[str, Any]]:
    """Clips with `video` uint8 `[F, H, W, 3]` and `caption` → rows of `ENCODED_COLUMNS`, in the same order.

    Raises:
        HarnessError: a clip's size does not fit the VAE, or a latent is not finite or out of range; the clip is named.
    """
    device = next(encoders.vae.parameters()).device
    videos = np.stack([sample["video"] for sample in samples])
    latents = encode_video(encoders.vae, from_pixels(videos).to(device))
    for sample, latent in zip(samples, latents, strict=True):
        words: EncodedText = encode_text(sample["caption"])
        yield {
            "key": sample["key"],
            "latent": to_float16(latent, f"latent of clip {sample['key']}", LARGEST_LATENT),
            "text": to_float16(words.vectors, f"text of clip {sample['key']}", 65504.0),
            "first_frame": np.ascontiguousarray(sample["video"][0]),
            "caption": sample["caption"],
            "attributes": sample["attributes"],
        }


def fingerprint_of(
    encoders: Encoders, clips: Path, text_length: int, position_channels: bool = False
) -> dict[str, Any]:
    """What the encoded data depends on, for `fingerprint.json`.

    Entries: `schema`; `vae`, `text_encoder`, `tokenizer` (digests); `vae_class`; `latents_mean`, `latents_std`;
    `latent_shape` `[C, F, h, w]`; `frames`, `height`, `width`; `text_dim`, `text_length`; `position_channels`;
    `clips` (digest of the shards' sums).

    Raises:
        HarnessError: the clips do not fit the VAE.
    """
    video = next(iter_samples(clips / "train", stop=1))["video"]
    frames, height, width = video.shape[:3]
    config = encoders.vae.config
    spatial = config["spatial_factor"] if "spatial_factor" in config else config["scale_factor_spatial"]
    temporal = config["temporal_factor"] if "temporal_factor" in config else config["scale_factor_temporal"]
    check_geometry(frames, height, width, spatial, temporal)
    scale = latent_scale(encoders.vae)
    return {
        "schema": SCHEMA,
        **encoders.digests(),
        "vae_class": type(encoders.vae).__name__,
        "latents_mean": list(scale.mean),
        "latents_std": list(scale.std),
        "latent_shape": [len(scale.mean), 1 + (frames - 1) // temporal, height // spatial, width // spatial],
        "frames": frames,
        "height": height,
        "width": width,
        "text_dim": encoders.text.dim,
        "text_length": text_length,
        "position_channels": position_channels,
        "clips": digest({split: read_index(clips / split) for split in SPLITS}),
    }


def encode(
    clips: str | Path,
    encoders_folder: str | Path,
    out: str | Path = "data/encoded",
    *,
    text_length: int,
    position_channels: bool = False,
    work: str | Path = ".work/encode",
    processes: Processes | None = None,
    wait: bool = False,
) -> None:
    """Write `out/{train,validation,test}`, `unconditional.safetensors`, `fingerprint.json` and `report.json`; every
    process calls it.

    Raises:
        HarnessError: missing or damaged clips or encoders, clips that do not fit the VAE, unusable latents, disk
            full, a part that does not hold exactly the clips it should, or another call at work on the same data
            (unless `wait`).
    """
    clips, out = Path(clips), Path(out)
    processes = processes or Processes()
    device = torch.device(f"cuda:{processes.local_rank}" if torch.cuda.is_available() else "cpu")
    encoders = Encoders.load(encoders_folder, text_length=text_length, device=device)
    fingerprint = fingerprint_of(encoders, clips, text_length, position_channels)
    folder = Path(work) / digest([fingerprint, code_digest(_CODE)])[:16]
    parts = parts_of(clips)
    advice = f"Free space and run it again: finished parts are kept in {folder}"
    with mds.disk_errors_named(out, advice), hold(folder, wait, processes):
        _make_parts(
            clips, encoders, [p for p in parts if p.number % processes.world_size == processes.rank], folder, processes
        )
        processes.barrier()
        if processes.rank == 0:
            with mds.new_folder(out) as new:
                report = assemble(folder, parts, new)
                empty = to_float16(encode_prompt(encoders.text, "").vectors, "text of the empty prompt", 65504.0)
                atomic_write_bytes(new / UNCONDITIONAL, save({"text": torch.from_numpy(empty)}))
                write_json(new / REPORT, report)
                write_json(new / FINGERPRINT, fingerprint)
            shutil.rmtree(folder)
        processes.barrier()


def _make_parts(clips: Path, encoders: Encoders, mine: list[Part], folder: Path, processes: Processes) -> None:
    encode_text = cache(partial(encode_prompt, encoders.text))  # captions repeat
    todo = [part for part in mine if not finished(folder, part)]
    progress = Progress("encode", sum(map(len, todo)), silent=processes.rank != 0)
    for part in todo:
        part.write(folder, ENCODED_COLUMNS, _rows(clips, part, encoders, encode_text, progress), encode_text)


def _rows(
    clips: Path, part: Part, encoders: Encoders, encode_text: Any, progress: Progress
) -> Iterator[dict[str, Any]]:
    for start in range(part.start, part.stop, BATCH):
        samples = list(iter_samples(clips / part.split, start, min(start + BATCH, part.stop)))
        yield from encode_clips(samples, encoders, encode_text)
        progress.advance(len(samples))


def main(argv: Sequence[str] | None = None) -> int:
    """`encode`: turn data/clips into data/encoded; the `composer` launcher splits the work over its processes."""
    parser = argparse.ArgumentParser(prog="python -m harness encode", description=main.__doc__)
    parser.add_argument("--params", default="params.yaml", help="file with the presets")
    parser.add_argument("--clips", default="data/clips")
    parser.add_argument("--encoders", default="checkpoints/encoders")
    parser.add_argument("--out", default="data/encoded")
    parser.add_argument("--wait", action="store_true", help="wait for another call that is at work on the same data")
    arguments = parser.parse_args(argv)
    config = load_params(arguments.params).preset.encoders
    torch.set_num_threads(1)  # the order of sums is part of the result
    with join_processes() as processes:
        encode(
            arguments.clips,
            arguments.encoders,
            arguments.out,
            text_length=config.text_length,
            position_channels=config.position_channels,
            processes=processes,
            wait=arguments.wait,
        )
        if processes.rank == 0:
            counts = ", ".join(f"{split} {mds.count_samples(Path(arguments.out) / split):,}" for split in SPLITS)
            print(f"{arguments.out}: {counts} clips", file=sys.stderr)
    return 0
