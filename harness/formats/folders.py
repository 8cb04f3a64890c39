"""Where a network lies under a folder that is named for it."""

from __future__ import annotations

from pathlib import Path

PARTS = ("transformer", "model")  # of a diffusers pipeline; of a trained run


def model_folder(path: Path) -> Path | None:
    """The folder of the network's config and weights: `path`, or its `transformer/` or `model/`; None if none has a
    `config.json`.
    """
    for folder in (path, *(path / part for part in PARTS)):
        if (folder / "config.json").is_file():
            return folder
    return None
