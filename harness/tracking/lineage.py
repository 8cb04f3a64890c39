"""What went into a run and what came out of it, by the hashes that DVC recorded in its lock files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from attrs import frozen

from harness.io import read_json
from harness.tracking.locks import dvc_md5, lock_files, locked_paths, read_lock
from harness.tracking.requests import Request

TYPES = {"checkpoints": "model", "data": "dataset", "results": "evaluation", "comparisons": "comparison"}


@frozen(order=True)
class Reference:
    """Something that DVC knows: where it lies and its MD5 (of a folder: DVC's, ending in `.dir`)."""

    path: str
    md5: str

    @property
    def name(self) -> str:
        """Name as an artifact."""
        return self.path.replace("/", "-")

    @property
    def type(self) -> str:
        """Type as an artifact."""
        return TYPES.get(PurePosixPath(self.path).parts[0], "file")

    @property
    def uri(self) -> str:
        """Points to DVC's cache, whichever remote that has."""
        return f"dvc://{self.path}?md5={self.md5}"


def locked_outputs(root: Path) -> dict[str, str]:
    """Path → MD5 of every output in the lock files of a project.

    Raises:
        HarnessError: one of them is damaged.
    """
    return {out.path: out.md5 for lock in lock_files(root) for out in locked_paths(read_lock(lock), ("outs",))}


def known(path: str, outputs: Mapping[str, str]) -> Reference | None:
    """The output that a path is, or lies in."""
    for place in (PurePosixPath(path), *PurePosixPath(path).parents):
        if place.as_posix() in outputs:
            return Reference(place.as_posix(), outputs[place.as_posix()])
    return None


def lineage(request: Request) -> tuple[list[Reference], Reference | None]:
    """What a run used, and what it made.

    The latter is known only once DVC has recorded it, which is after the stage: until then the lock file speaks of an
    earlier run, and nothing is claimed. The file that DVC recorded beside it must be the one on disk.

    Raises:
        HarnessError: a lock file is damaged.
    """
    root = Path(request.root)
    outputs = locked_outputs(root)
    uses = {reference for path in request.uses if (reference := known(path, outputs)) is not None}
    made = None
    if request.makes is not None and request.proof is not None:
        proof = root / request.proof
        if proof.is_file() and outputs.get(request.proof) == dvc_md5(proof) and is_of(request, proof):
            made = known(request.makes, outputs)
    return sorted(uses), made


def is_of(request: Request, proof: Path) -> bool:
    """Whether a proof speaks of this very run: a manifest may be that of a later one."""
    return request.kind != "train" or read_json(proof)["fingerprint"] == request.settings["config"]["fingerprint"]
