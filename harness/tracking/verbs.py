"""`python -m harness wandb …`: what was mirrored, uploading it, a comparison as a W&B Report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.tracking import sync
from harness.tracking.store import HOME, entries


def status(root: Path) -> int:
    """Print how far the mirror of every run got; 0 unless one failed."""
    failed = 0
    for entry in entries(root / HOME):
        request, found = entry.request(), entry.status()
        failed += found["state"] == "failed"
        note = found.get("error") or (f"{found['steps']} steps" if "steps" in found else "")
        print(f"{found['state']:<9} {request.kind:<9} {request.target}  {request.id}  {note}".rstrip())
    return 1 if failed else 0


def main(argv: Sequence[str]) -> int:
    """The verb `wandb`.

    Raises:
        HarnessError: see `sync` and `report`.
    """
    parser = argparse.ArgumentParser(prog="python -m harness wandb", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser(
        "sync", help="upload runs and check on the server that they arrived; status 1 if one did not"
    )
    one.add_argument("targets", nargs="*", metavar="TARGET", help="a target or an experiment; without one, everything")
    one.add_argument("--attempts", type=int, default=3, help="attempts for each run (default 3)")
    one.add_argument("--timeout", type=float, default=sync.TIMEOUT, help="seconds for an attempt (default %(default)g)")
    two = verbs.add_parser("report", help="write an experiment's comparison as a W&B Report (extra `wandb-report`)")
    two.add_argument("experiment", metavar="EXPERIMENT")
    two.add_argument("--entity", help="W&B user or team (default: WANDB_ENTITY, else the key's own)")
    two.add_argument("--out", type=Path, metavar="FILE", help="write the report's JSON there and send nothing")
    verbs.add_parser("status", help="how far the mirror of each run got; status 1 if one failed")
    given = parser.parse_args(argv)
    root = Path(".")
    match given.verb:
        case "sync":
            return sync.sync(given.targets, root, attempts=max(1, given.attempts), timeout=given.timeout)
        case "report":
            from harness.tracking import wandb_report

            return wandb_report.report(given.experiment, root, entity=given.entity, out=given.out)
        case _:
            return status(root)
