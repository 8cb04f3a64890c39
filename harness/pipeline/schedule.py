"""Prompts of one video by the frame from which each is wanted, and where a causal generator can change to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen

from harness.errors import HarnessError

_CUE = re.compile(r"\s*(\d+)\s*:\s*(.*)", re.DOTALL)
EXAMPLE = '--prompt "0: a red 3 moving left slowly" --prompt "40: a red 3 moving up slowly"'


@frozen
class Cue:
    """A prompt, and the frame of the video (0, 1, …) from which on it is wanted."""

    frame: int
    prompt: str


@frozen
class Switch:
    """A cue where it takes effect: at latent frame `latent`, which begins a block and the frame `frame` of the video.

    `asked` is the frame that was asked for.
    """

    latent: int
    frame: int
    asked: int
    prompt: str


def read_cues(prompts: Sequence[str]) -> tuple[Cue, ...] | None:
    """`["0: a", "40: b"]` → the cues of one video; None where no prompt begins with a frame: each is a video then.

    Raises HarnessError for prompts of which only some have a frame, and as `check_cues` does.
    """
    found = [_CUE.fullmatch(prompt) for prompt in prompts]
    if not any(found):
        return None
    plain = [prompt for prompt, match in zip(prompts, found, strict=True) if match is None]
    if plain:
        timed = next(prompt for prompt, match in zip(prompts, found, strict=True) if match is not None)
        raise HarnessError(
            f'prompt "{plain[0]}": others begin with a frame ("{timed}"). Expected a frame for every prompt of one '
            f"video, such as {EXAMPLE}; or none, for a video each"
        )
    return check_cues([Cue(int(match[1]), match[2].strip()) for match in found if match])


def check_cues(cues: Sequence[Cue]) -> tuple[Cue, ...]:
    """The cues as they are. Raises HarnessError unless the first is at frame 0 and each later one after the one before,
    and each says something.
    """
    if not cues or cues[0].frame != 0:
        first = f"{cues[0].frame}: {cues[0].prompt}" if cues else "none"
        raise HarnessError(f'prompt "{first}": the first prompt of a video is that of frame 0, such as {EXAMPLE}')
    for before, cue in pairwise(cues):
        if cue.frame <= before.frame:
            raise HarnessError(
                f'prompt "{cue.frame}: {cue.prompt}": comes after that of frame {before.frame}; expected growing frames'
            )
    for cue in cues:
        if not cue.prompt.strip():
            raise HarnessError(f'prompt "{cue.frame}:": an empty prompt; say what the video shows from there on')
    return tuple(cues)


def first_frame_of(latent: int, temporal: int) -> int:
    """The first frame of the video that latent frame `latent` is decoded to: 0, 1, 5, 9, … for `temporal` 4."""
    return 0 if latent == 0 else 1 + temporal * (latent - 1)


def latents_for(frames: int, temporal: int) -> int:
    """Latent frames that are needed for `frames` (≥ 1) frames of video."""
    return 1 + -(-(frames - 1) // temporal)


def place_switches(cues: Sequence[Cue], starts: Sequence[int], temporal: int) -> tuple[Switch, ...]:
    """Where the cues after the first take effect: each at the first block that begins at its frame or later.

    `starts` are the first latent frames of the generator's blocks.

    Raises HarnessError for a cue after which no block begins, or two with the same block.
    """
    switches: list[Switch] = []
    for cue in cues[1:]:
        later = [start for start in starts if start and first_frame_of(start, temporal) >= cue.frame]
        if not later:
            last = first_frame_of(starts[-1], temporal)
            raise HarnessError(
                f'prompt "{cue.frame}: {cue.prompt}": the last block of the video begins at frame {last}, so it would '
                f"never be seen. Ask for more frames, or name a frame up to {last}"
            )
        switch = Switch(later[0], first_frame_of(later[0], temporal), cue.frame, cue.prompt)
        if switches and switches[-1].latent == switch.latent:
            raise HarnessError(
                f"the prompts of frames {switches[-1].asked} and {cue.frame} both take effect at frame {switch.frame}, "
                "where the next block begins: the first would never be seen. Leave one out, or set them further apart"
            )
        switches.append(switch)
    return tuple(switches)
