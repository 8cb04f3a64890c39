"""Does the clip show what its caption says: digit, color, direction, speed. Per clip, 0 or 1."""

from __future__ import annotations

import numpy as np

from harness.data.digits import ANY_DIRECTION, COLORS, DIGITS, DIRECTIONS, SPEEDS

CAPTIONED = {
    "digit": DIGITS,
    "color": tuple(COLORS),
    "direction": (*DIRECTIONS, ANY_DIRECTION),
    "speed": tuple(SPEEDS),
}
SHOWN = {"digit": DIGITS, "color": tuple(COLORS), "moves": tuple(DIRECTIONS), "speed": tuple(SPEEDS)}
SLOWEST, FASTEST = 0.25, 1.5  # pixels per frame; outside it is neither speed
MOST_GRAY = 0.15  # a purity below this is no color
SMALLEST_LEAD = 1e-6  # pixels per frame; a direction that leads by less is tied with the next
LARGEST_STRAY = 1.0  # pixels; root mean square departure from uniform motion that still counts as motion


def hue(color: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in degrees `[B]` and purity (max − min)/max `[B]` of colors `[B, 3]`."""
    top, bottom = color.max(1), color.min(1)
    spread = np.maximum(top - bottom, 1e-9)
    r, g, b = color.T
    sector = np.where(top == r, (g - b) / spread % 6, np.where(top == g, (b - r) / spread + 2, (r - g) / spread + 4))
    return 60.0 * sector, (top - bottom) / np.maximum(top, 1e-9)


def color_right(color: np.ndarray, wanted: list[str]) -> np.ndarray:
    """Whether the object's mean color `[B, 3]` has the hue nearest to the captioned one, and has a hue at all."""
    degrees, purity = hue(color)
    names = list(COLORS)
    hues, _ = hue(np.array(list(COLORS.values())))
    away = np.abs((degrees[:, None] - hues[None] + 180) % 360 - 180)
    nearest = np.array(names)[away.argmin(1)]
    return (nearest == np.array(wanted)) & (purity > MOST_GRAY)


def digit_right(probabilities: np.ndarray, wanted: list[int]) -> np.ndarray:
    """Whether the digit read over all frames `[B, F, 10]` is the captioned one."""
    return probabilities.mean(1).argmax(1) == np.array(wanted)


def tracked_velocity(displacements: np.ndarray) -> np.ndarray:
    """Least-squares velocity `[B, 2]` (y, x; pixels per frame) of tracked `displacements [B, F − 1, 2]`."""
    path = np.concatenate([np.zeros_like(displacements[:, :1]), displacements.cumsum(1)], axis=1)
    time = np.arange(path.shape[1]) - (path.shape[1] - 1) / 2
    return np.einsum("t,btc->bc", time, path) / np.square(time).sum()


def motion_error(displacements: np.ndarray) -> np.ndarray:
    """Departure from uniform motion: root mean square of displacement minus its mean over frames, pixels, `[B]`."""
    stray = displacements - displacements.mean(1, keepdims=True)
    return np.sqrt(np.square(stray).sum(-1).mean(1))


def moves(displacements: np.ndarray) -> np.ndarray:
    """Whether the object moves at all, `[B]`."""
    return np.linalg.norm(tracked_velocity(displacements), axis=1) > SLOWEST


def direction_shown(displacements: np.ndarray) -> np.ndarray:
    """The direction `[B]` nearest to each clip's motion; "" where the object does not move, or two are as near."""
    along = tracked_velocity(displacements) @ np.array(list(DIRECTIONS.values()), float).T  # [B, 4]
    nearest = np.array(list(DIRECTIONS))[along.argmax(1)]
    second, first = np.sort(along, axis=1)[:, -2:].T
    return np.where(moves(displacements) & (first - second > SMALLEST_LEAD), nearest, "")


def direction_right(displacements: np.ndarray, wanted: list[str]) -> np.ndarray:
    """Whether the object moves at all, and in the captioned direction (any, where that is left open)."""
    shown, stated = direction_shown(displacements), np.array(wanted)
    return (shown == stated) | (moves(displacements) & (stated == ANY_DIRECTION))


def speed_right(displacements: np.ndarray, wanted: list[str]) -> np.ndarray:
    """Whether the object's speed is nearest to the captioned one, and its motion is steady enough to have a speed."""
    speed = np.linalg.norm(tracked_velocity(displacements), axis=1)
    boundary = sum(SPEEDS.values()) / 2
    nearest = np.where(speed < boundary, *sorted(SPEEDS, key=lambda name: SPEEDS[name]))
    sound = (speed > SLOWEST) & (speed < FASTEST) & (motion_error(displacements) < LARGEST_STRAY)
    return (nearest == np.array(wanted)) & sound
