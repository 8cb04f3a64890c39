"""Who asked for a run, and where its results go."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.config.load import split_target
from harness.config.runs import AD_HOC
from harness.config.schema import RunConfig
from harness.errors import HarnessError


@frozen(kw_only=True)
class Request:
    """A declared run (a target) or an ad hoc one. Paths are relative to the project's root."""

    target: str
    config: RunConfig
    command: str
    checkpoints: Path
    results: Path
    is_ad_hoc: bool
    group: str  # of runs that belong together, for trackers
    name: str

    @classmethod
    def declared(cls, target: str, config: RunConfig) -> Request:
        """The run behind a target."""
        group, arm, seed = split_target(target)
        return cls(
            target=target,
            config=config,
            command=f"python harness/train.py --target {target}",
            checkpoints=Path("checkpoints") / target,
            results=Path("results") / target,
            is_ad_hoc=False,
            group=group,
            name=f"{arm or group}-s{seed}",
        )

    @classmethod
    def ad_hoc(cls, name: str, config: RunConfig, words: Sequence[str]) -> Request:
        """A run from a file and overrides (`words`, as typed).

        Raises:
            HarnessError: the name could leave the folder `runs/`.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise HarnessError(f"--name {name}: expected letters, digits, '_', '-' and '.', such as `my-run`")
        return cls(
            target=name,
            config=config,
            command=shlex.join(["composer", "harness/train.py", *words]),
            checkpoints=AD_HOC / name / "checkpoints",
            results=AD_HOC / name,
            is_ad_hoc=True,
            group="ad_hoc",
            name=f"{name}-s{config.seed}",
        )

    def own_manifest(self) -> dict[str, Any]:
        """What the manifest says about this copy of the run."""
        return {"target": self.target, "ad_hoc": self.is_ad_hoc, "command": self.command}
