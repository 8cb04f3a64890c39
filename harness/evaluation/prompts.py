"""The fixed prompts and the fixed noise of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from harness.data.loader import condition_from_texts, load_positions, stacked
from harness.data.mds import load_split
from harness.data.shards import read_fingerprint, require_image
from harness.data.texts import load_negative
from harness.errors import HarnessError
from harness.evaluation.stored import pooled_texts
from harness.io import digest
from harness.models.condition import Condition
from harness.seeding import generator_for

GIVEN = ("image_tokens", "y", "first_latents", "first_frames")  # fields of a PromptSet that come from first frames
REPEATED = 4  # one clip in four repeats an earlier prompt with other noise: diversity is measured on these


@frozen(kw_only=True, eq=False)
class PromptSet:
    """What N clips are to show. `prompts [N]` numbers the captions; `text` are their embeddings `[L, D]`, unpadded.

    Where clips are given an image, there is one for each: `image_tokens` float16 `[T, D]`, `y` float16
    `[4 + C, F, h, w]`, `first_latents` float16 `[C, 1, h, w]`, and the picture itself, `first_frames` uint8
    `[H, W, 3]`; else these are None.
    """

    prompts: np.ndarray
    captions: list[str]
    attributes: list[dict]
    text: list[np.ndarray]
    text_length: int
    unconditional: Tensor  # [1, text_length, D], what guidance leads away from
    positions: Tensor | None = None  # [5, F, h, w], where a latent pixel is: the same for every clip
    image_tokens: list[np.ndarray] | None = None
    y: list[np.ndarray] | None = None
    first_latents: list[np.ndarray] | None = None
    first_frames: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def pooled_text(self) -> np.ndarray:
        """Mean embedding of each caption, float64 `[N, D]`."""
        return pooled_texts(self.text)

    @property
    def sha256(self) -> str:
        """Identity of the prompts, their order included."""
        return digest(self.captions)

    def select(self, index: Sequence[int]) -> PromptSet:
        """The clips with these numbers."""
        lists = {name: getattr(self, name) for name in ("captions", "attributes", "text", *GIVEN)}
        chosen = {name: None if part is None else [part[i] for i in index] for name, part in lists.items()}
        return evolve(self, prompts=self.prompts[list(index)], **chosen)

    def condition(self, start: int, stop: int) -> Condition:
        """The condition of clips `start` … `stop`."""
        return condition_from_texts(
            self.text[start:stop],
            self.text_length,
            self.unconditional,
            self.positions,
            image_tokens=_rows(self.image_tokens, start, stop),
            y=_rows(self.y, start, stop),
            first_latent=_rows(self.first_latents, start, stop),
        )


def _rows(values: list[np.ndarray] | None, start: int, stop: int) -> Tensor | None:
    return None if values is None else stacked(values[start:stop])


def prompt_numbers(clips: int) -> np.ndarray:
    """Which prompt each of `clips` clips shows: all different first, then the first ones again. `[clips]`."""
    different = clips - clips // REPEATED
    return np.arange(clips) % max(different, 1)


def fixed_prompts(data_folder: str | Path, split: str, clips: int, frames: int, image: bool = False) -> PromptSet:
    """The first captions of an encoded split, in stored order, for clips of `frames` latent frames; with `image` also
    the first frames that belong to them.

    Raises HarnessError when the split is missing, has too few clips, or no image conditions (or too short ones) though
    they are wanted.
    """
    folder = Path(data_folder)
    if image:
        require_image(folder)
    numbers = prompt_numbers(clips)
    limit = int(numbers.max()) + 1
    stored = load_split(folder / split, limit, lambda sample: _told(sample) | (_given(sample, frames) if image else {}))
    text_length = text_length_of(folder)
    return PromptSet(
        prompts=numbers,
        captions=[stored["caption"][i] for i in numbers],
        attributes=[stored["attributes"][i] for i in numbers],
        text=[stored["text"][i] for i in numbers],
        text_length=text_length,
        unconditional=load_negative(folder, text_length),
        positions=load_positions(folder, frames),
        **{name: [stored[name][i] for i in numbers] for name in GIVEN if image},
    )


def _told(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: sample[name] for name in ("caption", "attributes", "text")}


def _given(sample: dict[str, Any], frames: int) -> dict[str, Any]:
    """What a clip's first frame gives a clip of `frames` latent frames; copies, so that the whole latent can go."""
    y, latent = sample["y"], sample["latent"]
    if y.shape[1] < frames:
        raise HarnessError(
            f"frames: image conditions of {frames} latent frames wanted, those of the data have {y.shape[1]}; "
            "encode longer clips, or lower it"
        )
    parts = (sample["image_tokens"], y[:, :frames].copy(), latent[:, :1].copy(), sample["first_frame"])
    return dict(zip(GIVEN, parts, strict=True))


def text_length_of(data_folder: str | Path) -> int:
    """Positions to which text is zero-padded, as the encoded data's fingerprint states it."""
    return int(read_fingerprint(data_folder)["text_length"])


def latent_shape(data_folder: str | Path, frames: int) -> tuple[int, int, int, int]:
    """`(C, frames, h, w)` of one clip's latent, from the encoded data's fingerprint."""
    channels, _, height, width = read_fingerprint(data_folder)["latent_shape"]
    return int(channels), frames, int(height), int(width)


def fixed_noise(seed: int, clips: Sequence[int], shape: Sequence[int], repeat: int = 0, part: int = 0) -> Tensor:
    """Starting noise `[B, *shape]` of the clips with these indices: a clip's noise depends on nothing but its index,
    the repeat and, in a clip that goes on, which `part` of this shape it is.

    So every model, every batch size and every subset of prompts gets the same noise for the same clip.
    """
    place = (part,) if part else ()
    draws = (generator_for(seed, "noise", repeat, int(i), *place) for i in clips)
    return torch.stack([torch.randn(*shape, generator=rng) for rng in draws])


def long_noise(seed: int, clips: Sequence[int], shape: Sequence[int], start: int, end: int) -> Tensor:
    """Latent frames `start … end − 1` of the noise of clips that go on: `[B, C, end − start, h, w]`.

    The first `shape[1]` frames are those of the clips of this shape.
    """
    length = shape[1]
    parts = range(start // length, (end - 1) // length + 1)
    noise = torch.cat([fixed_noise(seed, clips, shape, part=part) for part in parts], dim=2)
    first = start - parts[0] * length
    return noise[:, :, first : first + end - start]
