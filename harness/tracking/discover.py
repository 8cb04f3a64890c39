"""Everything of a project that can be uploaded: what its results and comparisons hold, and runs that are noted only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.config.runs import AD_HOC, EVALUATION
from harness.errors import HarnessError
from harness.tracking.requests import Request, compare_request, evaluate_request, finished_train_request
from harness.tracking.store import HOME, entries


def from_results(root: Path) -> Iterator[Request]:
    """Requests of finished runs, evaluations and comparisons; a damaged one is told and left out."""
    results = root / "results"
    for manifest in sorted(results.rglob("manifest.json")):
        target = manifest.parent.relative_to(results).as_posix()
        yield from _readable(lambda target=target: finished_train_request(target, root))
        if (manifest.parent / "cards.json").is_file():
            yield from _readable(lambda target=target: evaluate_request(target, root))
    for card in sorted((root / AD_HOC).glob(f"*/{EVALUATION}/cards.json")):
        yield from _readable(lambda name=f"{AD_HOC}/{card.parent.parent.name}": evaluate_request(name, root))
    for comparison in sorted((root / "comparisons").glob("*/comparison.json")):
        yield from _readable(lambda name=comparison.parent.name: compare_request(name, root))


def _readable(make: Callable[[], Request]) -> Iterator[Request]:
    try:
        yield make()
    except HarnessError as error:
        print(f"W&B: left out: {error}", file=sys.stderr)
    except KeyError as error:
        print(f"W&B: left out: a file without {error}; run the stage that writes it again", file=sys.stderr)


def from_store(root: Path) -> Iterator[Request]:
    """Requests of training runs that were noted when they began and whose files are still there.

    Unfinished and ad hoc runs are found here only. Cards and comparisons are found by what they are now.
    """
    for entry in entries(root / HOME):
        for request in _readable(entry.request):
            if request.kind == "train" and Path(request.folder).is_dir():
                yield request


def everything(root: Path) -> list[Request]:
    """One request for each W&B run. Where a training run's own folder is left, it is taken: it has sample clips."""
    found = {request.id: request for request in from_results(root)}
    for request in from_store(root):
        found[request.id] = request
    return [found[id] for id in sorted(found, key=lambda id: (found[id].target, found[id].kind, id))]


def chosen(requests: Sequence[Request], targets: Sequence[str]) -> list[Request]:
    """Requests of the targets and ad hoc runs named (or of everything below them); all if none is named.

    Raises:
        HarnessError: a target has nothing to upload.
    """
    for target in targets:
        if not any(_below(request.target, target) for request in requests):
            known = ", ".join(sorted({request.target for request in requests})) or "nothing yet"
            raise HarnessError(f"{target}: there is nothing of it to upload; there is: {known}")
    return [r for r in requests if not targets or any(_below(r.target, target) for target in targets)]


def _below(target: str, parent: str) -> bool:
    return target in (parent, f"{AD_HOC}/{parent}") or target.startswith(parent.rstrip("/") + "/")
