"""Real clips from disk: measured as the reference, or chosen as samples for the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from harness.data.mds import count_samples, iter_samples
from harness.data.progress import Progress
from harness.evaluation.evaluators import Evaluators, Measurements
from harness.evaluation.panel import GROUPINGS

BUFFER = 64 * 33 * 24 * 24 * 3  # bytes of pixels measured at a time


@frozen(kw_only=True, eq=False)
class Stored:
    """Measured clips with what is known of them, in the order asked for; `shown` are the first clips, uint8 `[F, H, W,
    3]`.
    """

    measured: Measurements
    attributes: list[dict]
    captions: list[str]
    shown: list[np.ndarray]


def measure_stored(
    evaluators: Evaluators,
    folder: str | Path,
    numbers: Sequence[int],
    *,
    change: Callable[[np.ndarray], np.ndarray] = lambda video: video,
    show: int = 0,
    title: str = "real clips",
    silent: bool = True,
) -> Stored:
    """Measure the clips with these numbers in `folder` (`data/clips/test`), a few at a time, so that any size fits in
    memory.

    `change` maps each clip, uint8 `[F, H, W, 3]`, before it is measured. Raises HarnessError when the folder is
    missing or damaged.
    """
    order = [int(i) for i in numbers]
    wanted, first = set(order), set(order[:show])
    index: list[int] = []
    known: dict[int, tuple[dict, str]] = {}
    pictures: dict[int, np.ndarray] = {}
    parts: list[Measurements] = []
    buffer: list[np.ndarray] = []
    progress = Progress(title, len(wanted), silent=silent)

    def flush() -> None:
        if buffer:
            parts.append(evaluators.measure(np.stack(buffer)))
            progress.advance(len(buffer))
            buffer.clear()

    for i, sample in enumerate(iter_samples(folder, stop=max(order) + 1)):
        if i not in wanted:
            continue
        video = change(np.asarray(sample["video"]))
        buffer.append(video)
        index.append(i)
        known[i] = (sample["attributes"], sample["caption"])
        if i in first:
            pictures[i] = video
        if video.nbytes * len(buffer) >= BUFFER:
            flush()
    flush()
    place = {clip: row for row, clip in enumerate(index)}
    return Stored(
        measured=Measurements.cat(parts).select(np.array([place[i] for i in order])),
        attributes=[known[i][0] for i in order],
        captions=[known[i][1] for i in order],
        shown=[pictures[i] for i in order[:show]],
    )


def beginning(frames: int) -> Callable[[np.ndarray], np.ndarray]:
    """Cuts a clip `[F, H, W, 3]` to its first frames: a run may make shorter clips than there are on disk, and only
    clips of one length compare.
    """
    return lambda video: video[:frames]


def stored_attributes(folder: str | Path, limit: int) -> list[dict]:
    """Attributes of the first `limit` clips (all, when there are fewer)."""
    stop = min(limit, count_samples(folder))
    return [sample["attributes"] for sample in iter_samples(folder, stop=stop)]


def matching_clips(wanted: list[dict], available: list[dict]) -> list[int]:
    """For each wanted set of attributes the number of a different available clip that shares the most of them.

    The digit counts most, since it decides what the handwriting can be. Ties go to the lowest number. Without
    attributes: the first clips. Every clip is taken at most once while there are enough.
    """
    if not wanted or "digit" not in wanted[0]:
        return [i % len(available) for i in range(len(wanted))]
    weight = np.array([8.0, 1.0, 1.0, 1.0])  # in the order of GROUPINGS
    free = np.ones(len(available), dtype=bool)
    table = np.array([[str(a[name]) for name in GROUPINGS] for a in available])
    chosen = []
    for attributes in wanted:
        score = (table == np.array([str(attributes[name]) for name in GROUPINGS])) @ weight
        best = int(np.where(free, score, -1.0).argmax())
        chosen.append(best)
        free[best] = False
        if not free.any():
            free[:] = True
    return chosen


def pooled_texts(texts: Sequence[np.ndarray]) -> np.ndarray:
    """Mean embedding of each text `[L, D]`, float64 `[N, D]`."""
    return np.stack([np.asarray(text, dtype=np.float64).mean(0) for text in texts])
