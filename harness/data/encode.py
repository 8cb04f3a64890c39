"""`data/clips` → `data/encoded`: latents, text vectors and first frames (for image to video also what a network is told
of them), with the fingerprint of what encoded them.

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

from harness.config.load import load_params
from harness.data import conditions, mds
from harness.data.conditions import image_condition
from harness.data.mds import ENCODED_COLUMNS, IMAGE_COLUMNS, SPLITS, iter_samples, read_index
from harness.data.parts import Part, assemble, finished, parts_of
from harness.data.prepare import REPORT
from harness.data.processes import Processes, hold, join_processes
from harness.data.progress import Progress
from harness.data.shards import ENCODERS, FINGERPRINT, IMAGE_ENCODERS, SCHEMA
from harness.data.texts import write_empty_texts
from harness.errors import HarnessError
from harness.io import code_digest, digest, directory_digest, write_json
from harness.models import codec, reference_latent, text
from harness.models import image as image_tower
from harness.models.codec import VAE, check_geometry, encode_video, from_pixels, latent_scale, load_vae
from harness.models.image import ImageEncoder, load_image_encoder
from harness.models.reference_latent import factors
from harness.models.text import EncodedText, TextEncoder, encode_prompt, load_text_encoder

BATCH = 16  # clips that are encoded together, if they are small
BATCH_PIXELS = 1 << 25  # of all their frames: one clip of 81 frames of 480×832
LARGEST_LATENT = 1000.0  # normalised latents have about unit variance
LARGEST_FLOAT16 = 65504.0
_MODULES = (mds, conditions, codec, image_tower, reference_latent, text)
_CODE = [*(Path(str(module.__file__)) for module in _MODULES), Path(__file__)]


@frozen
class Encoders:
    """The frozen networks, and where they came from."""

    vae: VAE
    text: TextEncoder
    image: ImageEncoder | None  # of first frames; None where the data is for text to video alone
    folder: Path

    @classmethod
    def load(
        cls, folder: str | Path, *, text_length: int, image: bool = False, device: torch.device | str = "cpu"
    ) -> Encoders:
        """Read `folder/{vae,text_encoder,tokenizer}`, with `image` also `folder/{image_encoder,image_processor}`.

        Raises:
            HarnessError: one of them is missing or damaged.
        """
        folder = Path(folder)
        encoder = load_text_encoder(folder / "text_encoder", folder / "tokenizer", max_length=text_length)
        encoder.model.to(device)  # type: ignore[arg-type]
        vae = load_vae(folder / "vae")
        vae.to(device)  # type: ignore[arg-type]
        images = load_image_encoder(folder / "image_encoder", folder / "image_processor") if image else None
        if images is not None:
            images.model.to(device)  # type: ignore[arg-type]
        return cls(vae, encoder, images, folder)

    @property
    def columns(self) -> dict[str, str]:
        """What a row of encoded data has."""
        return ENCODED_COLUMNS if self.image is None else ENCODED_COLUMNS | IMAGE_COLUMNS

    def digests(self) -> dict[str, str]:
        """SHA-256 of each folder."""
        parts = ENCODERS if self.image is None else (*ENCODERS, *IMAGE_ENCODERS)
        return {part: directory_digest(self.folder / part) for part in parts}


def batch_of(frames: int, height: int, width: int) -> int:
    """How many clips of this size are encoded together: fewer of large ones, so that they fit in memory."""
    return max(1, min(BATCH, BATCH_PIXELS // (frames * height * width)))


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
    """Clips with `video` uint8 `[F, H, W, 3]` and `caption` → rows of `encoders.columns`, in the same order.

    Raises:
        HarnessError: a clip's size does not fit the VAE, or what was made of it is not finite or out of range; the clip
            is named.
    """
    device = next(encoders.vae.parameters()).device
    videos = np.stack([sample["video"] for sample in samples])
    latents = encode_video(encoders.vae, from_pixels(videos).to(device))
    keys = [sample["key"] for sample in samples]
    of_images = _image_columns(keys, torch.from_numpy(videos[:, 0]), latents.shape[2], encoders)
    for sample, latent, of_image in zip(samples, latents, of_images, strict=True):
        words: EncodedText = encode_text(sample["caption"])
        yield {
            "key": sample["key"],
            "latent": to_float16(latent, f"latent of clip {sample['key']}", LARGEST_LATENT),
            "text": to_float16(words.vectors, f"text of clip {sample['key']}", LARGEST_FLOAT16),
            "first_frame": np.ascontiguousarray(sample["video"][0]),
            "caption": sample["caption"],
            "attributes": sample["attributes"],
            **of_image,
        }


def _image_columns(
    keys: Sequence[str], images: torch.Tensor, latent_frames: int, encoders: Encoders
) -> list[dict[str, np.ndarray]]:
    """`IMAGE_COLUMNS` of each clip from first frames uint8 `[B, H, W, 3]`; nothing without an image encoder."""
    if encoders.image is None:
        return [{} for _ in keys]
    made = image_condition(encoders.vae, encoders.image, images, latent_frames)
    return [
        {
            "image_tokens": to_float16(tokens, f"image tokens of clip {key}", LARGEST_FLOAT16),
            "y": to_float16(y, f"y of clip {key}", LARGEST_LATENT),
        }
        for key, tokens, y in zip(keys, made.image_tokens, made.y, strict=True)
    ]


def fingerprint_of(
    encoders: Encoders,
    clips: Path,
    text_length: int,
    position_channels: bool = False,
    negative_prompt: str | None = None,
) -> dict[str, Any]:
    """What the encoded data depends on, for `fingerprint.json`.

    Entries: `schema`; `vae`, `text_encoder`, `tokenizer` (digests); `vae_class`; `latents_mean`, `latents_std`;
    `latent_shape` `[C, F, h, w]`; `frames`, `height`, `width`; `text_dim`, `text_length`; `position_channels`;
    `clips` (digest of the shards' sums). With an image encoder also `image_encoder`, `image_processor` (digests) and
    `image_tokens` `[T, D]`; `negative_prompt`, where there is one.

    Raises:
        HarnessError: the clips do not fit the VAE.
    """
    video = next(iter_samples(clips / "train", stop=1))["video"]
    frames, height, width = video.shape[:3]
    spatial, temporal = factors(encoders.vae)
    check_geometry(frames, height, width, spatial, temporal)
    told = {} if encoders.image is None else {"image_tokens": [encoders.image.num_tokens, encoders.image.dim]}
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
        **told,
        **({} if negative_prompt is None else {"negative_prompt": negative_prompt}),
        "clips": digest({split: read_index(clips / split) for split in SPLITS}),
    }


def encode(
    clips: str | Path,
    encoders_folder: str | Path,
    out: str | Path = "data/encoded",
    *,
    text_length: int,
    position_channels: bool = False,
    image: bool = False,
    negative_prompt: str | None = None,
    work: str | Path = ".work/encode",
    processes: Processes | None = None,
    wait: bool = False,
) -> None:
    """Write `out/{train,validation,test}`, `unconditional.safetensors`, `fingerprint.json` and `report.json`; every
    process calls it. With `image` every clip has `image_tokens` and `y` too. A `negative_prompt` is written beside
    them.

    Raises:
        HarnessError: missing or damaged clips or encoders, clips that do not fit the VAE, unusable latents, disk
            full, a part that does not hold exactly the clips it should, or another call at work on the same data
            (unless `wait`).
    """
    clips, out = Path(clips), Path(out)
    processes = processes or Processes()
    device = torch.device(f"cuda:{processes.local_rank}" if torch.cuda.is_available() else "cpu")
    encoders = Encoders.load(encoders_folder, text_length=text_length, image=image, device=device)
    fingerprint = fingerprint_of(encoders, clips, text_length, position_channels, negative_prompt)
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
                write_empty_texts(new, partial(encode_prompt, encoders.text), negative_prompt)
                write_json(new / REPORT, report)
                write_json(new / FINGERPRINT, fingerprint)
            shutil.rmtree(folder)
        processes.barrier()


def _make_parts(clips: Path, encoders: Encoders, mine: list[Part], folder: Path, processes: Processes) -> None:
    encode_text = cache(partial(encode_prompt, encoders.text))  # captions repeat
    todo = [part for part in mine if not finished(folder, part)]
    progress = Progress("encode", sum(map(len, todo)), silent=processes.rank != 0)
    for part in todo:
        part.write(folder, encoders.columns, _rows(clips, part, encoders, encode_text, progress), encode_text)


def _rows(
    clips: Path, part: Part, encoders: Encoders, encode_text: Any, progress: Progress
) -> Iterator[dict[str, Any]]:
    batch = batch_of(*next(iter_samples(clips / part.split, stop=1))["video"].shape[:3])
    for start in range(part.start, part.stop, batch):
        samples = list(iter_samples(clips / part.split, start, min(start + batch, part.stop)))
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
            image=config.image_encoder is not None,
            negative_prompt=config.negative_prompt,
            processes=processes,
            wait=arguments.wait,
        )
        if processes.rank == 0:
            counts = ", ".join(f"{split} {mds.count_samples(Path(arguments.out) / split):,}" for split in SPLITS)
            print(f"{arguments.out}: {counts} clips", file=sys.stderr)
    return 0
