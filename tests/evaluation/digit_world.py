"""A small world of moving digits: clips without fault, the faults planted in them, and the evaluators' view of both."""

from __future__ import annotations

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from harness.config.schema import DataConfig, Splits
from harness.data.digits import ANY_DIRECTION, Attributes, Clip, render
from harness.evaluation import tracking
from harness.evaluation.corruptions import blur
from harness.evaluation.evaluators import Evaluators, unit_range
from harness.evaluation.panel import ClipSet, measure_values

FRAMES, SIZE, COUNT = 17, 24, 160
STEPS, BATCH = 90, 32
DATA = DataConfig(
    source="moving_digits",
    height=SIZE,
    width=SIZE,
    frames=FRAMES,
    clips=Splits(train=640, validation=8, test=2 * COUNT),
    open_directions=0.3,
)


@frozen(eq=False)
class World:
    """Evaluators, samples without fault `[N, 3, F, H, W]` in [0, 1] with their attributes, and the reference."""

    evaluators: Evaluators
    good: Tensor
    attributes: list[dict]
    prompts: np.ndarray
    reference: ClipSet

    @property
    def images(self) -> np.ndarray:
        """The first frames of the samples without fault, uint8 `[N, H, W, 3]`."""
        return (self.good[:, :, 0] * 255).round().byte().permute(0, 2, 3, 1).numpy()

    def clip_set(self, video: Tensor, attributes: list[dict] | None = None, given: bool = False) -> ClipSet:
        """Clips that were to show `attributes` (the right ones unless given), measured; with `given` they were to start
        at `images`.
        """
        return ClipSet(
            measured=self.evaluators.measure(video * 2 - 1, self.images if given else None),
            prompts=self.prompts,
            attributes=self.attributes if attributes is None else attributes,
        )

    def values(self, video: Tensor, attributes: list[dict] | None = None) -> dict[str, float]:
        """Every metric of these clips."""
        return measure_values(self.clip_set(video, attributes), self.reference)


def stacked(clips: list[Clip]) -> np.ndarray:
    return np.stack([clip.video for clip in clips])


def morphed(video: Tensor) -> Tensor:
    """Every clip's digit turns into its neighbor's during the middle third, in its own color on its own path."""
    places = tracking.positions(video)
    shape = tracking.centered(video, places).mean(1, keepdim=True).roll(1, 0)
    color = video.mean((2, 3, 4))
    color = color / color.amax(1, keepdim=True)
    shape = shape / shape.amax((2, 3, 4), keepdim=True) * color[:, :, None, None, None]
    other = tracking.centered(shape, video.shape[-1] - places)
    weight = torch.linspace(-1, 2, video.shape[2]).clamp(0, 1)[None, None, :, None, None]
    return torch.lerp(video, other, weight).clamp(0, 1)


def redrawn(attributes: list[dict]) -> Tensor:
    """Clips of these attributes."""
    drawn = [render(Attributes(**a), frames=FRAMES, height=SIZE, width=SIZE) for a in attributes]
    return unit_range(np.stack(drawn))


def one_handwriting(attributes: list[dict]) -> list[dict]:
    """Every digit always in the handwriting of its first clip."""
    first = {a["digit"]: a["image"] for a in reversed(attributes)}
    return [a | {"image": first[a["digit"]]} for a in attributes]


def one_direction(attributes: list[dict]) -> list[dict]:
    """Every caption that leaves the direction open is answered by a move to the left."""
    return [a | ({"moves": "left"} if a["direction"] == ANY_DIRECTION else {}) for a in attributes]


def planted(world: World) -> dict[str, tuple[Tensor, list[dict] | None]]:
    """Every fault: damaged clips, and the captions they go with where these are the fault."""
    rng = torch.Generator().manual_seed(7)
    video, attributes = world.good, world.attributes
    order = torch.randperm(FRAMES, generator=rng)
    noise = torch.randn(video.shape, generator=rng)
    swapped = [attributes[i - 7] for i in range(len(attributes))]
    fading = torch.linspace(1, 0.25, FRAMES)[None, None, :, None, None]
    return {
        "wrong captions": (video, swapped),
        "ignored prompt": (video[torch.randperm(len(video), generator=rng)], None),
        "shuffled frames": (video[:, :, order], None),
        "frozen frames": (video[:, :, :1].expand_as(video).contiguous(), None),
        "collapsed copies": (video[:8].repeat(len(video) // 8, 1, 1, 1, 1), None),
        "noise": ((video + 0.1 * noise).clamp(0, 1), None),
        "fading": (video * fading, None),
        "blur": (blur(video, 3), None),
        "over-bright": ((video * 1.6).clamp(0, 1), None),
        "morphing": (morphed(video), None),
        "one mode of four": (redrawn(one_direction(attributes)), None),
        "one handwriting per digit": (redrawn(one_handwriting(attributes)), None),
    }


def other_handwriting(attributes: list[dict]) -> list[dict]:
    """The same captions, every digit in the handwriting of another clip."""
    known = {(a["digit"], a["image"]) for a in attributes}
    other = {digit: sorted(image for d, image in known if d == digit) for digit, _ in known}
    return [a | {"image": other[a["digit"]][other[a["digit"]].index(a["image"]) - 1]} for a in attributes]


def softened(video: Tensor) -> Tensor:
    """Sound clips that a model made: a little soft."""
    return torch.lerp(video, blur(video), 0.5)


def planted_with_image(world: World) -> dict[str, Tensor]:
    """Every fault of clips that were to start at `world.images`."""
    video, first = world.good, world.good[:, :, :1]
    others = redrawn(other_handwriting(world.attributes))
    rest = (-1, -1, FRAMES - 1, -1, -1)
    return {
        "frozen clip": first.expand_as(video).contiguous(),
        "a jump, then frozen": torch.cat([first, others[:, :, 4:5].expand(rest)], 2),
        "a loop of four frames": torch.cat([first, video[:, :, 1:5].repeat(1, 1, (FRAMES - 1) // 4, 1, 1)], 2),
        "ignored image": others,
        "image left after the first frame": torch.cat([first, others[:, :, 1:]], 2),
        "wrong image": video.roll(1, 0),
        "black frames": torch.zeros_like(video),
        "black after the image": torch.cat([first, torch.zeros_like(first).expand(rest)], 2),
        "a flash": torch.cat([(3 * first).clamp(0, 1), video[:, :, 1:]], 2),
    }
