"""A new prompt in the middle of a clip: the object is to turn by a quarter. When does it, and is it still the same one.

The motion around each frame is seen in the `AROUND` displacements about it. So an object that turns at once shows the
new direction from the first new frame on, one that turns n frames late from the n-th.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from harness.evaluation.captions import direction_shown
from harness.evaluation.evaluators import DigitMeasurements
from harness.evaluation.identity import identity_by_frame

TURNED = {"left": "up", "up": "right", "right": "down", "down": "left"}  # clockwise
AROUND = 8  # displacements in which the direction at a frame is seen, half of them before it
HELD = 8  # frames for which a new direction is to be shown, so that it is not a passing one


def turned(attributes: dict) -> dict:
    """The attributes of a clip after its prompt switch: the same object at the same speed in another direction."""
    direction = TURNED[attributes["moves"]]
    return attributes | {"direction": direction, "moves": direction}


@frozen(kw_only=True, eq=False)
class Switched:
    """Clips over their prompt switch: `digits` of the frames from `before` frames before it to the end, and the new
    directions `wanted`.
    """

    digits: DigitMeasurements
    before: int
    wanted: list[str]

    @property
    def after(self) -> int:
        """Frames under the new prompt."""
        return self.digits.handwriting.shape[1] - self.before

    def obeyed(self) -> np.ndarray:
        """Whether a clip moves in the new direction at each frame after the switch, `[N, after]`."""
        found = []
        for frame in range(self.before, self.before + self.after):
            around = slice(max(frame - AROUND // 2, 0), frame + AROUND // 2)
            found.append(direction_shown(self.digits.displacements[:, around]) == np.array(self.wanted))
        return np.stack(found, axis=1)

    def per_clip(self, length: int) -> dict[str, np.ndarray]:
        """The metrics, one number per clip `[N]`; what holds in the end is seen in the last `length` frames, at most
        those after the switch.
        """
        end = min(length, self.after)
        in_the_end = direction_shown(self.digits.displacements[:, -(end - 1) :]) == np.array(self.wanted)
        written = self.digits.handwriting
        before = written[:, : self.before].mean(1)
        before = before / np.maximum(np.linalg.norm(before, axis=-1, keepdims=True), 1e-9)
        return {
            "switch_delay": delays(self.obeyed()),
            "switch_obeyed": in_the_end.astype(float),
            "switch_identity": identity_by_frame(written[:, -end:], before).mean(1),
        }


def delays(obeyed: np.ndarray) -> np.ndarray:
    """First frame `[N]` from which on the new direction is shown for `HELD` frames, or to the end; the number of frames
    where there is none. `obeyed` is bool `[N, n]`.
    """
    count = obeyed.shape[1]
    held = np.stack([obeyed[:, frame : frame + HELD].all(1) for frame in range(count)], axis=1)
    return np.where(held.any(1), held.argmax(1), count).astype(float)
