"""Moving digits: real handwritten digits under exactly known motion.

The pixels are scikit-learn's bundled 8×8 handwritten digits (Alpaydin and Kaynak, UCI optdigits), upsampled to half the
canvas and colored. A digit starts at the center and moves in one direction at constant speed on a torus, so that the
captioned motion stays true at any length. The sub-pixel shift is exact for band-limited images (Fourier shift theorem).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np
from attrs import asdict, frozen
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from harness.config.schema import DataConfig
from harness.errors import HarnessError

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.15, 0.15),
    "green": (0.15, 1.0, 0.15),
    "blue": (0.25, 0.35, 1.0),
    "yellow": (1.0, 0.95, 0.15),
}
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (dy, dx)
ANY_DIRECTION = "somewhere"  # a caption that leaves the direction open; the clip moves in one of the four
SPEEDS: dict[str, float] = {"slowly": 0.5, "quickly": 1.0}  # pixels per frame
DIGITS = tuple(range(10))

HELD_OUT_COMBINATIONS = 48  # of 320: in no training caption
TRAIN_IMAGES = 1500  # of 1,797; the rest is split between validation and test


@frozen(kw_only=True)
class Attributes:
    """What a caption says, which handwritten image it is, and whether its caption was kept out of training."""

    digit: int
    color: str
    direction: str  # as the caption has it: one of DIRECTIONS, or ANY_DIRECTION
    moves: str  # the direction in which the clip moves
    speed: str
    image: int
    held_out: bool

    @property
    def caption(self) -> str:
        """For example "a red 7 moving left slowly" or "a red 7 moving somewhere slowly"."""
        return f"a {self.color} {self.digit} moving {self.direction} {self.speed}"


@frozen(kw_only=True)
class Clip:
    """A source clip; `video` is uint8 `[F, H, W, 3]`."""

    key: str
    video: np.ndarray
    caption: str
    attributes: dict


@cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return np.asarray(pixels, np.float32).reshape(-1, 8, 8) / 16.0, np.asarray(labels)  # [1797, 8, 8] in 0…1, [1797]


def render(attributes: Attributes, *, frames: int, height: int, width: int, start: int = 0) -> np.ndarray:
    """Draw a clip as uint8 `[F, H, W, 3]`: the digit is centered in frame 0 and keeps its captioned velocity.

    With `start` the frames from there on, of a clip that goes on as long as one likes.
    """
    images, _ = _handwriting()
    size = min(height, width) // 2
    upsampled = zoom(images[attributes.image], size / 8, order=1, mode="nearest", grid_mode=True)
    glyph = np.clip(np.asarray(upsampled), 0, 1)
    canvas = np.zeros((height, width), np.float32)
    top, left = (height - size) // 2, (width - size) // 2
    canvas[top : top + size, left : left + size] = glyph
    dy, dx = DIRECTIONS[attributes.moves]
    distance = SPEEDS[attributes.speed] * np.arange(start, start + frames)  # pixels
    phase = np.exp(
        -2j
        * np.pi
        * (
            np.fft.fftfreq(height)[None, :, None] * (dy * distance)[:, None, None]
            + np.fft.rfftfreq(width)[None, None, :] * (dx * distance)[:, None, None]
        )
    )
    gray = np.fft.irfft2(np.fft.rfft2(canvas)[None] * phase, s=(height, width))  # [F, H, W]
    video = gray[..., None] * np.asarray(COLORS[attributes.color], np.float32)
    return np.round(np.clip(video, 0, 1) * 255).astype(np.uint8)


def _combinations(seed: int) -> tuple[list[tuple], list[tuple]]:
    """Every (digit, color, direction, speed), cut into those seen in training and those held out."""
    every = list(itertools.product(DIGITS, COLORS, DIRECTIONS, SPEEDS))
    order = np.random.default_rng([seed, 1]).permutation(len(every))
    shuffled = [every[i] for i in order]
    return shuffled[HELD_OUT_COMBINATIONS:], shuffled[:HELD_OUT_COMBINATIONS]


def _image_pool(split: str, seed: int) -> np.ndarray:
    """Image indices of a split; no handwriting is in two splits."""
    order = np.random.default_rng([seed, 2]).permutation(len(_handwriting()[1]))
    rest = order[TRAIN_IMAGES:]
    return {"train": order[:TRAIN_IMAGES], "validation": rest[::2], "test": rest[1::2]}[split]


def draw_attributes(split: str, count: int, seed: int, open_directions: float = 0.0) -> list[Attributes]:
    """The conditions of a split's clips, balanced over captions.

    `train` and `validation` use the training captions; `test` uses all of them. Handwriting is split by image. A
    share `open_directions` of the captions does not say the direction (never one held out): what follows such a
    caption has four modes, which a model cannot average without showing ghosts.
    """
    if split not in ("train", "validation", "test"):
        raise HarnessError(f"split {split!r}: expected train, validation or test")
    seen, unseen = _combinations(seed)
    pool = [(c, False) for c in seen] + ([(c, True) for c in unseen] if split == "test" else [])
    rng = np.random.default_rng([seed, 3, ("train", "validation", "test").index(split)])
    labels = _handwriting()[1]
    images = _image_pool(split, seed)
    by_digit = {d: images[labels[images] == d] for d in DIGITS}
    drawn: list[Attributes] = []
    while len(drawn) < count:
        for i in rng.permutation(len(pool)):
            (digit, color, moves, speed), held_out = pool[i]
            image = int(rng.choice(by_digit[digit]))
            said = moves if held_out or rng.random() >= open_directions else ANY_DIRECTION
            drawn.append(
                Attributes(
                    digit=digit, color=color, direction=said, moves=moves, speed=speed, image=image, held_out=held_out
                )
            )
    return drawn[:count]


def iter_clips(config: DataConfig, split: str) -> Iterator[Clip]:
    """The clips of a split, in a fixed order. The same config gives the same bytes."""
    count = asdict(config.clips)[split]
    for i, attributes in enumerate(draw_attributes(split, count, config.seed, config.open_directions)):
        video = render(attributes, frames=config.frames, height=config.height, width=config.width)
        yield Clip(key=f"{split}-{i:06d}", video=video, caption=attributes.caption, attributes=asdict(attributes))
