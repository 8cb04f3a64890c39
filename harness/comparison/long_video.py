"""The long evaluation of all arms as plain data: quality by segment and by frame, prompt switch, size of the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.comparison.cards import REQUIRED_MODELS
from harness.comparison.results import Result, Results

Block = Mapping[str, Any]  # the long part of a model's card
TEMPORAL = 4  # pixel frames that each latent frame after the first stands for


def long_video(results: Results) -> dict[str, Any] | None:
    """All that the report shows of long clips, or None where no arm has them; arms without them are left out.

    Lists are kept for every seed: `student` and `init` hold arm → seed → metric → value per segment. `common_init` says
    that the init goes on alike in all arms.
    """
    blocks = {model: _blocks(results.arms, model) for model in REQUIRED_MODELS["run"]}
    students, inits = blocks["student"], list(blocks["init"].values())
    if not students:
        return None
    first = next(iter(next(iter(students.values())).values()))
    segments = first["segments"]
    switch = _switch(first, students)
    return {
        **{key: first[key] for key in ("frames", "clips", "segment_frames")},
        "common_init": len(inits) > 1 and all(block == inits[0] for block in inits),
        "segments": {
            "start": [segment["start"] for segment in segments],
            "real": by_segment([segment.get("real", {}) for segment in segments]),
            **{model: _each(of, _segment_metrics) for model, of in blocks.items()},
        },
        "by_frame": {"frame": first["by_frame"]["frame"], **_by_frame(students)},
        **({"switch": switch} if switch else {}),
        "cache": {
            arm: {
                "frame": block_ends(first["frames"], len(of[min(of)]["cache_mib"]), *_blocks_of(results, arm)),
                "mib": {seed: block["cache_mib"] for seed, block in of.items()},
            }
            for arm, of in students.items()
            if all("cache_mib" in block for block in of.values())
        },
    }


def by_segment(segments: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Metrics that all segments have, as a list over the segments."""
    return {name: [segment[name] for segment in segments] for name in segments[0] if all(name in s for s in segments)}


def block_ends(frames: int, blocks: int, frames_per_block: int, given: int = 0) -> list[int]:
    """Pixel frames that a video has after each block that was made, behind `given` latent frames; only the last block
    may be shorter.
    """
    latent = 1 + (frames - 1) // TEMPORAL
    return [1 + TEMPORAL * (min(given + (i + 1) * frames_per_block, latent) - 1) for i in range(blocks)]


def _blocks(arms: Mapping[str, Mapping[int, Result]], model: str) -> dict[str, dict[str, Block]]:
    """Per arm and seed the long evaluation of a model, of arms that have one for every seed."""
    found = {arm: {str(seed): result.long(model) for seed, result in seeds.items()} for arm, seeds in arms.items()}
    return {
        arm: {seed: block for seed, block in of.items() if block is not None}
        for arm, of in found.items()
        if all(block is not None for block in of.values())
    }


def _each(blocks: Mapping[str, Mapping[str, Block]], of: Callable[[Block], Any]) -> dict[str, dict[str, Any]]:
    return {arm: {seed: of(block) for seed, block in seeds.items()} for arm, seeds in blocks.items()}


def _segment_metrics(block: Block) -> dict[str, list[float]]:
    return by_segment([segment["metrics"] for segment in block["segments"]])


def _by_frame(students: Mapping[str, Mapping[str, Block]]) -> dict[str, dict[str, list[list[float]]]]:
    """Per metric and arm one list per seed; metrics that every student has."""
    every = [block["by_frame"] for seeds in students.values() for block in seeds.values()]
    names = [name for name in every[0] if name != "frame" and all(name in frames for frames in every)]
    return {
        name: {arm: [block["by_frame"][name] for block in seeds.values()] for arm, seeds in students.items()}
        for name in names
    }


def _switch(first: Block, students: Mapping[str, Mapping[str, Block]]) -> dict[str, Any] | None:
    """The prompt switch, with the share of clips that obey per arm and seed; arms whose every seed was switched.

    Its place is the same in all of them: `read_results` refuses others, whose delays do not compare.
    """
    obeyed = {
        arm: {seed: block["switch"]["obeyed"] for seed, block in seeds.items()}
        for arm, seeds in students.items()
        if all("switch" in block for block in seeds.values())
    }
    if not obeyed:
        return None
    return {**{key: first["switch"][key] for key in ("at", "frame", "delay_cap")}, "obeyed": obeyed}


def _blocks_of(results: Results, arm: str) -> tuple[int, int]:
    """Latent frames of a block, and given ones before the first."""
    rollout = next(iter(results.arms[arm].values())).manifest["config"]["rollout"]
    return rollout["frames_per_block"], int(rollout["image_conditioning"] in ("first_latent", "both"))
