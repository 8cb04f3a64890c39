"""`python -m harness verify [TARGET|EXPERIMENT …]`: do results come from what they claim to come from?

Everything is hashed again: the data and weights on disk against the manifests and DVC's locks, the code against the
fingerprints of the runs, recorded settings against the declarations, the shards against their indices, the encoders
against what encoded the shards. A fresh clone has no data; what could not be checked is said, the rest is checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.comparison.declaration import flatten
from harness.config.documents import read_yaml
from harness.errors import HarnessError
from harness.io import directory_digest, read_json
from harness.reference.claims import Check, Digests, Problems, check_result
from harness.reference.places import run_folder, target_of
from harness.reference.signals import MANIFEST
from harness.tracking.locks import (
    Locked,
    LockedParam,
    dvc_md5,
    ignored_names,
    lock_files,
    locked_params,
    locked_paths,
    lookup,
    read_lock,
)

CLIPS, ENCODED, ENCODERS = Path("data/clips"), Path("data/encoded"), Path("checkpoints/encoders")


def targets(words: Sequence[str], root: Path) -> dict[str, Path]:
    """Target → folder of every result that the words name; of all results without words.

    Raises:
        HarnessError: a word names no result.
    """
    known = {path.parent.relative_to(root / "results").as_posix(): path.parent for path in _manifests(root)}
    chosen: dict[str, Path] = {} if words else known
    for word in words:
        wanted = target_of(word)
        found = {t: folder for t, folder in known.items() if t == wanted or t.startswith(f"{wanted}/")}
        chosen |= found or {word: run_folder(word, root)}
    if not chosen:
        raise HarnessError(f"{root / 'results'}: no results to verify; run `make repro`")
    return chosen


def _manifests(root: Path) -> list[Path]:
    return sorted((root / "results").glob(f"**/{MANIFEST}"))


def verify(words: Sequence[str] = (), root: Path = Path(".")) -> list[Check]:
    """All checks of the named results (default: all), of the locks' stages behind them, and of the shards.

    Raises:
        HarnessError: a word names no result, or a lock cannot be read.
    """
    chosen, digests = targets(words, root), Digests()
    checks = [check for target, folder in chosen.items() for check in check_result(target, folder, root, digests)]
    checks += check_locks(root, digests, None if not words else set(chosen))
    return [*checks, *check_encoders(root, digests), *check_shards(root)]


def check_locks(root: Path, digests: Digests, chosen: set[str] | None = None) -> Iterator[Check]:
    """Every path and setting of the locks against the tree. `chosen` limits them to the stages of some targets."""
    md5 = partial(dvc_md5, ignored=ignored_names(root))
    for lock in lock_files(root):
        name, stages = lock.relative_to(root).as_posix(), read_lock(lock)
        behind = _stages_behind(locked_paths(stages), chosen)
        paths: dict[tuple[str, str], str] = {}
        for item in locked_paths(stages):
            if item.stage in behind:
                paths.setdefault((item.path, item.md5), item.stage)
        for claim, problems in (
            ("files", _files(root, paths, md5, digests)),
            ("settings", _settings(root, [param for param in locked_params(stages) if param.stage in behind])),
        ):
            found = [Check(subject=name, claim=claim, outcome=outcome, detail=text) for outcome, text in problems]
            yield from found or [Check(subject=name, claim=claim, outcome="ok")]


def _stages_behind(items: Iterable[Locked], chosen: set[str] | None) -> set[str]:
    """The stages that read or write something of the chosen targets; all without a choice."""
    items = list(items)
    if chosen is None:
        return {item.stage for item in items}
    own = [f"{top}/{target}" for target in chosen for top in ("results", "checkpoints")]
    return {item.stage for item in items if any(f"{item.path}/".startswith(f"{folder}/") for folder in own)}


def _files(root: Path, paths: Mapping[tuple[str, str], str], md5: Callable[[Path], str], digests: Digests) -> Problems:
    for (path, was), stage in paths.items():
        if not (root / path).exists():
            yield "missing", f"{path} is not here"
        elif (found := digests(md5, root / path)) != was:
            yield "mismatch", f"{path}: md5 {found[:12]}, recorded {was[:12]} by stage {stage.partition('@')[0]}"


def _settings(root: Path, params: Iterable[LockedParam]) -> Problems:
    documents: dict[str, Any] = {}
    said: set[str] = set()
    for param in params:
        if param.file not in documents:
            documents[param.file] = read_yaml(root / param.file)
        now = flatten({param.key: lookup(documents[param.file], param.key)})
        was = flatten({param.key: param.value})
        for key in sorted(now.keys() | was.keys()):
            if now.get(key) != was.get(key) and key not in said:
                said.add(key)
                yield "mismatch", f"{param.file}: {key} is {now.get(key)!r}, recorded {was.get(key)!r}"


def check_encoders(root: Path, digests: Digests) -> Iterator[Check]:
    """The encoded data against the encoders and clips that are here: stale shards train to noise."""
    path = root / ENCODED / "fingerprint.json"
    subject = ENCODED.as_posix()
    if not path.is_file():
        yield Check(subject=subject, claim="encoders", outcome="missing", detail=f"{path} is not here")
        return
    recorded = read_json(path)
    image = [part for part in ("image_encoder", "image_processor") if part in recorded]
    for part in ("vae", "text_encoder", "tokenizer", *image):
        folder = root / ENCODERS / part
        if not folder.is_dir():
            yield Check(subject=subject, claim="encoders", outcome="missing", detail=f"{folder} is not here")
        elif (found := digests(directory_digest, folder)) != recorded.get(part):
            text = (
                f"{part}: encoded by {str(recorded.get(part))[:12]}, {folder} is {found[:12]}; run `dvc repro encode`"
            )
            yield Check(subject=subject, claim="encoders", outcome="mismatch", detail=text)
        else:
            yield Check(subject=subject, claim="encoders", outcome="ok", detail=part)


def check_shards(root: Path) -> Iterator[Check]:
    """Every shard against the sum in its index."""
    for folder in (root / CLIPS, root / ENCODED):
        subject = folder.relative_to(root).as_posix()
        if not folder.is_dir():
            yield Check(subject=subject, claim="shards", outcome="missing", detail=f"{folder} is not here")
            continue
        from harness.data.shards import verify_data  # reads shards with streaming, which takes seconds to import

        try:
            counts = verify_data(folder)
        except HarnessError as error:
            yield Check(subject=subject, claim="shards", outcome="mismatch", detail=str(error))
        else:
            yield Check(subject=subject, claim="shards", outcome="ok", detail=f"{sum(counts.values()):,} samples")


def report(checks: Sequence[Check]) -> str:
    """All that does not hold or could not be checked, then the counts. What several subjects share is said once."""
    lines: list[str] = []
    for outcome, title in (
        ("mismatch", "Does not hold:"),
        ("missing", "Could not be checked (a fresh clone has no data; `make repro` makes it):"),
        ("note", "Good to know:"),
    ):
        subjects: dict[str, list[str]] = {}
        for check in checks:
            if check.outcome == outcome:
                said = check.detail if outcome == "missing" else f"{check.claim}: {check.detail}"
                subjects.setdefault(said, []).append(check.subject)
        if subjects:
            lines += [title, *(f"  {_several(by)}: {said}" for said, by in subjects.items()), ""]
    count = {outcome: sum(check.outcome == outcome for check in checks) for outcome in ("ok", "mismatch", "missing")}
    lines.append(f"{count['ok']} claims hold, {count['mismatch']} do not, {count['missing']} could not be checked")
    return "\n".join(lines) + "\n"


def _several(subjects: Sequence[str]) -> str:
    first, *more = dict.fromkeys(subjects)
    return f"{first} and {len(more)} more" if more else first


def main(argv: Sequence[str]) -> int:
    """`verify`: hash again what results claim to come from (data, weights, code, settings, packages) and list every
    mismatch. Status 1 if there is one; what is not here, as in a fresh clone, is said and is no mismatch.
    """
    parser = argparse.ArgumentParser(prog="python -m harness verify", description=main.__doc__)
    parser.add_argument("results", nargs="*", help="targets, arms, experiments or runs/NAME (default: all results)")
    checks = verify(parser.parse_args(argv).results)
    print(report(checks), end="")
    return int(any(check.outcome == "mismatch" for check in checks))
