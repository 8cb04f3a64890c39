"""How runs are filed at W&B: mode, project, and ids that follow from what a run is, so that the same run made again, or
continued after a kill, is the same run there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.io import digest

PROJECT = "causal-video-harness"


def mode(environment: Mapping[str, str]) -> str:
    """W&B's mode: as asked for, else online where there is a key, else offline."""
    return environment.get("WANDB_MODE") or ("online" if environment.get("WANDB_API_KEY") else "offline")


def project(environment: Mapping[str, str]) -> str:
    """W&B's project: `WANDB_PROJECT`, else this project's own."""
    return environment.get("WANDB_PROJECT") or PROJECT


def train_id(fingerprint: str) -> str:
    """Id of a training run: equal fingerprints are equal runs, whoever asked for them."""
    return f"{fingerprint[:16]}-train"


def evaluate_id(card: Mapping[str, Any], fingerprint: str) -> str:
    """Id of an evaluation: the same card of the same weights is the same run."""
    return f"{digest({'card': card, 'fingerprint': fingerprint})[:16]}-evaluate"


def compare_id(comparison: Mapping[str, Any]) -> str:
    """Id of a comparison: the same findings are the same run."""
    return f"{digest(comparison)[:16]}-compare"
