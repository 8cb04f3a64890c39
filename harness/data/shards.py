"""Trusting data on disk: every shard against the sum in its index, and the encoders that made it against those in use.

MDS itself checks sums only of what it downloads: a flipped byte in a local shard is read without complaint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data.mds import HASH, INDEX, SPLITS, UNCONDITIONAL, count_samples, read_index
from harness.errors import HarnessError
from harness.io import directory_digest, read_json, sha256_file

FINGERPRINT = "fingerprint.json"
ENCODERS = ("vae", "text_encoder", "tokenizer")  # entries of a fingerprint that are digests of folders
IMAGE_ENCODERS = ("image_encoder", "image_processor")  # further ones, of data for image to video
PROMPTS = "prompts"
FOLDERS = (*SPLITS, PROMPTS)  # clips and encoded clips have splits, a list of prompts has one folder
SCHEMA = 1


def verify_shards(folder: str | Path) -> int:
    """Hash every shard of an MDS folder and compare size and sum with its index. Returns the number of samples.

    Raises:
        HarnessError: names the first shard that is missing, truncated, changed, or listed without a sum.
    """
    folder = Path(folder)
    remedy = f"Delete {folder.parent} and run `dvc checkout` (or `dvc repro`) to get it back"
    for shard in read_index(folder):
        info = shard["raw_data"]
        path = folder / info["basename"]
        if not path.is_file():
            raise HarnessError(f"{path}: shard is missing. {remedy}")
        if (size := path.stat().st_size) != info["bytes"]:
            raise HarnessError(f"{path}: has {size:,} bytes, {folder / INDEX} says {info['bytes']:,}. {remedy}")
        expected = info.get("hashes", {}).get(HASH)
        if expected is None:
            raise HarnessError(
                f"{folder / INDEX}: no {HASH} sum for {info['basename']}. Write the data again with this version"
            )
        if (found := sha256_file(path)) != expected:
            raise HarnessError(
                f"{path}: damaged, its {HASH} is {found[:16]}…, {folder / INDEX} says {expected[:16]}…. {remedy}"
            )
    return count_samples(folder)


def read_fingerprint(folder: str | Path) -> dict[str, Any]:
    """What encoded `folder` (`data/encoded`): see `harness.data.encode.fingerprint_of`.

    Raises:
        HarnessError: missing, damaged, or of another schema version.
    """
    path = Path(folder) / FINGERPRINT
    if not path.is_file():
        raise HarnessError(
            f"{path}: no such file, so it is unknown what encoded these latents. Expected a folder that `encode` or "
            "`prompts` wrote, such as data/encoded; `dvc repro encode` makes that"
        )
    fingerprint = read_json(path)
    if not isinstance(fingerprint, dict) or fingerprint.get("schema") != SCHEMA:
        found = fingerprint.get("schema") if isinstance(fingerprint, dict) else fingerprint
        raise HarnessError(f"{path}: schema is {found!r}, this version reads {SCHEMA}. Run `dvc repro encode`")
    return fingerprint


def require_fingerprint(
    folder: str | Path, expected: Mapping[str, Any], remake: str = "`dvc repro encode`"
) -> dict[str, Any]:
    """Refuse latents that other encoders, frames or sizes made: a model trained on them learns noise. Returns the
    fingerprint; `remake` is the command that makes the folder.

    `expected` names the entries that matter, for example `{"vae": digest, "frames": 33}`; entries it does not name
    are not compared.

    Raises:
        HarnessError: shows every differing entry, both sides.
    """
    found = read_fingerprint(folder)
    lines = [
        f"  {key}: {found.get(key)!r} here, {value!r} wanted"
        for key, value in expected.items()
        if found.get(key) != value
    ]
    if lines:
        raise HarnessError(
            f"{Path(folder) / FINGERPRINT}: this data was encoded by something else:\n" + "\n".join(lines) + "\n"
            f"Run {remake}, or use the encoders and the size that made it"
        )
    return found


def require_image(folder: str | Path) -> None:
    """Refuse data without the columns `image_tokens` and `y`, for who wants to condition on first frames.

    Raises:
        HarnessError: the fingerprint of `folder` (`data/encoded`) has no image tokens.
    """
    if "image_tokens" not in read_fingerprint(folder):
        raise HarnessError(
            f"{Path(folder) / FINGERPRINT}: this data has no image tokens, which image to video needs. Set "
            "encoders.image_encoder in the preset (`random_clip`, or a folder) and run `dvc repro encode`"
        )


def verify_data(folder: str | Path) -> dict[str, int]:
    """Verify every split that `folder` has (or its `prompts`); samples per split.

    Raises:
        HarnessError: no such folder, a damaged shard, or no split at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HarnessError(
            f"{folder}: no such folder. Expected data with the splits {', '.join(SPLITS)}, such as data/encoded; "
            "`dvc repro encode` makes it"
        )
    counts = {split: verify_shards(folder / split) for split in FOLDERS if (folder / split).is_dir()}
    if not counts:
        raise HarnessError(f"{folder}: has none of the splits {', '.join(SPLITS)}. Run `dvc repro encode`")
    return counts


def verify_encoders(folder: str | Path, encoders: str | Path) -> tuple[str, ...]:
    """Compare the encoders in `encoders` with those that made `folder`, by the digests of their folders.

    Returns the parts that were compared: those that the fingerprint names; none for source clips, which have none.

    Raises:
        HarnessError: an encoder is missing or is another one (both digests are shown), or the fingerprint is damaged.
    """
    folder, encoders = Path(folder), Path(encoders)
    if not (folder / FINGERPRINT).is_file() and not (folder / UNCONDITIONAL).is_file():
        return ()
    parts = tuple(part for part in (*ENCODERS, *IMAGE_ENCODERS) if part in read_fingerprint(folder))
    for part in parts:
        if not (encoders / part).is_dir():
            raise HarnessError(
                f"{encoders / part}: no such folder, so it cannot be checked what encoded {folder}. Run `dvc checkout` "
                "(or `dvc repro encoders`), or name the folder with --encoders"
            )
    require_fingerprint(folder, {part: directory_digest(encoders / part) for part in parts})
    return parts


def main(argv: Sequence[str] | None = None) -> int:
    """`verify-data [FOLDER …]`: check every shard of the clips and the encoded data, and what encoded them."""
    parser = argparse.ArgumentParser(prog="python -m harness verify-data", description=main.__doc__)
    parser.add_argument("folders", nargs="*", default=["data/clips", "data/encoded"])
    parser.add_argument("--encoders", default="checkpoints/encoders", help="the encoders in use; default: %(default)s")
    arguments = parser.parse_args(argv)
    for folder in arguments.folders:
        counts = ", ".join(f"{split} {count:,}" for split, count in verify_data(folder).items())
        print(f"{folder}: every shard is as written ({counts} samples)", file=sys.stderr)
        if parts := verify_encoders(folder, arguments.encoders):
            print(f"{folder}: encoded by {arguments.encoders} ({', '.join(parts)})", file=sys.stderr)
    return 0
