"""The fixed prompts and the fixed noise of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from harness.data.loader import condition_from_texts, load_unconditional, load_y
from harness.data.mds import load_split
from harness.data.shards import read_fingerprint
from harness.evaluation.stored import pooled_texts
from harness.io import digest
from harness.models.condition import Condition
from harness.seeding import generator_for

REPEATED = 4  # one clip in four repeats an earlier prompt with other noise: diversity is measured on these


@frozen(kw_only=True, eq=False)
class PromptSet:
    """What N clips are to show. `prompts [N]` numbers the captions; `text` are their embeddings `[L, D]`, unpadded."""

    prompts: np.ndarray
    captions: list[str]
    attributes: list[dict]
    text: list[np.ndarray]
    text_length: int
    unconditional: Tensor  # [1, text_length, D]
    y: Tensor | None = None  # [C_y, F, h, w], what every clip is conditioned on besides its text

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

    def condition(self, start: int, stop: int) -> Condition:
        """The condition of clips `start` … `stop`."""
        return condition_from_texts(self.text[start:stop], self.text_length, self.unconditional, self.y)


def prompt_numbers(clips: int) -> np.ndarray:
    """Which prompt each of `clips` clips shows: all different first, then the first ones again. `[clips]`."""
    different = clips - clips // REPEATED
    return np.arange(clips) % max(different, 1)


def fixed_prompts(data_folder: str | Path, split: str, clips: int, frames: int) -> PromptSet:
    """The first captions of an encoded split, in stored order, for clips of `frames` latent frames.

    Raises HarnessError when the split is missing or has too few clips.
    """
    folder = Path(data_folder)
    numbers = prompt_numbers(clips)
    stored = load_split(folder / split, limit=int(numbers.max()) + 1)
    text_length = text_length_of(folder)
    return PromptSet(
        prompts=numbers,
        captions=[stored["caption"][i] for i in numbers],
        attributes=[stored["attributes"][i] for i in numbers],
        text=[stored["text"][i] for i in numbers],
        text_length=text_length,
        unconditional=load_unconditional(folder, text_length),
        y=load_y(folder, frames),
    )


def text_length_of(data_folder: str | Path) -> int:
    """Positions to which text is zero-padded, as the encoded data's fingerprint states it."""
    return int(read_fingerprint(data_folder)["text_length"])


def latent_shape(data_folder: str | Path, frames: int) -> tuple[int, int, int, int]:
    """`(C, frames, h, w)` of one clip's latent, from the encoded data's fingerprint."""
    channels, _, height, width = read_fingerprint(data_folder)["latent_shape"]
    return int(channels), frames, int(height), int(width)


def fixed_noise(seed: int, clips: Sequence[int], shape: Sequence[int], repeat: int = 0) -> Tensor:
    """Starting noise `[B, *shape]` of the clips with these indices: a clip's noise depends on nothing but its index and
    the repeat.

    So every model, every batch size and every subset of prompts gets the same noise for the same clip.
    """
    return torch.stack([torch.randn(*shape, generator=generator_for(seed, "noise", repeat, int(i))) for i in clips])
