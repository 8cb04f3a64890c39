"""Sample clips during training: kept beside the tables as raw pixels, which costs the trainer nothing; the mirror makes
videos of them.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.io import atomic_write_bytes, write_json

FOLDER = "samples"
KEPT = 4  # clips of each measurement
LARGEST = 240  # pixels; of larger clips only every n-th row and column is kept
CAPTIONS = "captions.json"


def preview(clips: np.ndarray) -> np.ndarray:
    """The first clips of uint8 `[N, F, H, W, 3]`, thinned so that no side is above `LARGEST`."""
    stride = -(-max(clips.shape[2:4]) // LARGEST)
    return clips[:KEPT, :, ::stride, ::stride]


def rows_so_far(table: Path) -> int:
    """Whole rows of a table below its header."""
    return max(0, table.read_bytes().count(b"\n") - 1) if table.is_file() else 0


def clip_file(folder: Path, row: int) -> Path:
    """Where the clips of a row of `quality.csv` lie."""
    return folder / FOLDER / f"{row}.npy"


def keep(folder: Path, clips: np.ndarray, captions: Sequence[str]) -> None:
    """Keep clips, uint8 `[N, F, H, W, 3]`, as those of the next row of `quality.csv` in `folder`.

    A resumed run cuts its table and writes the same clips again under the same names. A failure is told, no more.
    """
    shown = preview(clips)
    buffer = io.BytesIO()
    np.save(buffer, shown, allow_pickle=False)
    try:
        write_json(folder / FOLDER / CAPTIONS, list(captions[: len(shown)]))
        atomic_write_bytes(clip_file(folder, rows_so_far(folder / "quality.csv")), buffer.getvalue())
    except HarnessError as error:
        print(f"sample clips are not kept: {error}", file=sys.stderr)
