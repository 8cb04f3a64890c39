"""`python -m harness compare RUN --to REFERENCE`: why is my run different?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

from harness.config.metrics import METRICS
from harness.config.runs import AD_HOC
from harness.errors import HarnessError
from harness.reference.band import LEVEL, Band, bands
from harness.reference.differences import Fact, differences
from harness.reference.evaluated import LEVEL as CARD_LEVEL
from harness.reference.evaluated import Evaluated, evaluated
from harness.reference.leaving import Comparison, Leaving, compare_to_bands
from harness.reference.pairs import LEAP, VISIBLE, Difference, Pair, compare_runs
from harness.reference.places import reference_folders, run_folder
from harness.reference.signals import Run, read_run, role_of

SHOWN = 12  # lines of a list
NETWORKS = ("generator", "critic")


@frozen(kw_only=True)
class Finding:
    """Everything that is known about a run beside its reference."""

    run: Run
    reference: tuple[Run, ...]
    bands: dict[str, Band]
    comparison: Comparison | None  # None beside a single run: there is no band
    twin: Run | None  # the reference run with the same seed and number of processes
    pair: Pair | None
    facts: tuple[Fact, ...]
    evaluated: Evaluated | None  # None where the reference has no card, or the run is not finished

    @property
    def differs(self) -> bool:
        """Whether the run is not what the reference is, beyond chance and rounding."""
        left = self.comparison is not None and bool(self.comparison.left)
        parted = self.pair is not None and self.pair.leaps
        return left or parted or not self.compared or bool(self.untrained)

    @property
    def compared(self) -> bool:
        """Whether the two sides have any row in common."""
        beside = self.comparison is not None and bool(self.comparison.left or self.comparison.stayed)
        return beside or (self.pair is not None and self.pair.rows > 0)

    @property
    def untrained(self) -> dict[str, int]:
        """The networks without a row in the run, though each run of the reference has one at a batch that the run has
        passed; with the first such batch.
        """
        last = max((int(series.batch.max()) for series in self.run.signals.values()), default=0)
        begins = {role: max(_begins(other, role) for other in self.reference) for role in NETWORKS}
        return {
            role: int(batch)
            for role, batch in begins.items()
            if batch <= last and not any(role_of(name) == role for name in self.run.signals)
        }


def compare_to(run_word: str, reference_word: str, root: Path = Path(".")) -> Finding:
    """Compare a run with an arm's seeds, or with one other run. A run of the reference itself is left out of it.

    Raises:
        HarnessError: a run is missing or damaged, or the two have no signal in common.
    """
    folder = run_folder(run_word, root)
    run = read_run(folder, run_word)
    folders = [path for path in reference_folders(reference_word, root) if path.resolve() != folder.resolve()]
    if not folders:
        raise HarnessError(f"{run_word} and {reference_word} are the same folder; name another reference with --to")
    reference = [read_run(path, _named(path, root)) for path in folders]
    limits = bands([other.signals for other in reference]) if len(reference) > 1 else {}
    if not any(name in run.signals for name in (limits or reference[0].signals)):
        raise HarnessError(f"{run_word} has no signal in common with {reference_word}: they are of different methods")
    other = twin(run, reference)
    return Finding(
        run=run,
        reference=tuple(reference),
        bands=limits,
        comparison=compare_to_bands(run.signals, limits) if limits else None,
        twin=other,
        pair=compare_runs(other.signals, run.signals) if other is not None else None,
        facts=differences(run.manifest, [other.manifest for other in reference], root),
        evaluated=evaluated(run, reference),
    )


def _begins(run: Run, role: str) -> float:
    """The first batch of a network's rows; infinite for a run without any."""
    return min((float(s.batch.min()) for name, s in run.signals.items() if role_of(name) == role), default=math.inf)


def _named(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else folder.as_posix()


def twin(run: Run, reference: Sequence[Run]) -> Run | None:
    """The run that this one repeats: one with the same seed and number of processes, hence the same draws; or the only
    one there is.
    """
    if len(reference) == 1:
        return reference[0]

    def draws(of: Run) -> tuple[object, object]:
        return of.seed, of.manifest.get("world_size")

    return next((other for other in reference if run.seed is not None and draws(other) == draws(run)), None)


def report(finding: Finding) -> str:
    """The answer in words: the verdict, where it left, the same-seed run, the evaluation cards, then what the two sides
    say differently.
    """
    sections = [_verdict(finding), _band(finding), _twin(finding), _cards(finding), _facts(finding)]
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def _verdict(finding: Finding) -> Iterator[str]:
    first, *more = [run.name for run in finding.reference]
    yield f"{finding.run.folder} against {', '.join([first, *(Path(name).name for name in more)])}"
    comparison, pair = finding.comparison, finding.pair
    if finding.untrained:
        lacks = " and ".join(f"no {role} rows (the reference: from batch {n})" for role, n in finding.untrained.items())
        yield f"DIFFERENT: the run has {lacks}"
    elif not finding.compared:
        yield "DIFFERENT: nothing could be compared: no row of the run is of an update that the reference has"
    elif comparison is not None and comparison.left:
        first = comparison.left[0]
        yield (
            f"DIFFERENT: {len(comparison.left)} of {len(comparison.left) + len(comparison.stayed)} signals leave the "
            f"band, {first.signal} first, at {_step(first)}"
        )
    elif pair is not None and pair.leaps and pair.visible is not None:
        yield f"DIFFERENT: parts from {_twin_name(finding)} at batch {pair.visible.batch}, in {pair.visible.signal}"
    elif pair is not None and pair.identical:
        yield f"THE SAME: every bit of {pair.rows:,} values is that of {_twin_name(finding)}"
    elif comparison is None:
        if pair is not None and pair.visible is None:
            yield "THE SAME up to rounding"
        else:
            yield "A REPLAY: the two part slowly, as rounding alone parts them; nothing says that anything else differs"
    else:
        yield f"LIKE THE REFERENCE: all {len(comparison.stayed)} signals stay in their bands"


def _band(finding: Finding) -> Iterator[str]:
    if finding.comparison is None:
        return
    yield f"Band: where one more run of these would be, all signals together, with a probability of {1 - LEVEL:.0%}"
    rows = [("signal", "leaves at", "value", "band", "windows out")]
    for left in finding.comparison.left:
        band = f"{left.low:.4g} … {left.high:.4g}"
        rows.append((left.signal, _step(left), f"{left.value:.4g}", band, f"{left.windows} of {left.of}"))
    yield from _table(rows if len(rows) > 1 else [])
    if finding.comparison.stayed:
        yield f"  in their bands: {', '.join(finding.comparison.stayed)}"
    if finding.comparison.missing:
        yield f"  not in this run, so not compared: {', '.join(finding.comparison.missing)}"
    known = {name for run in finding.reference for name in run.signals}
    if new := [name for name in finding.run.signals if name not in known]:
        yield f"  not in the reference, so not compared: {', '.join(new)}"
    yield from _short_run(finding)


def _short_run(finding: Finding) -> Iterator[str]:
    for role in NETWORKS:
        name = next((name for name in finding.bands if name.startswith(role) and name in finding.run.signals), None)
        if name is not None:
            last, whole = finding.run.signals[name].clock[-1], finding.bands[name].clock[-1]
            if last < whole:
                yield f"  compared up to {role} update {last} of the reference's {whole}"


def _twin(finding: Finding) -> Iterator[str]:
    pair = finding.pair
    if pair is None:
        if finding.run.manifest:
            yield f"No run of the reference has seed {finding.run.seed} and as many processes: no row by row comparison"
        return
    yield f"Row by row against {_twin_name(finding)}:"
    if pair.begins is None:
        yield "  identical, bit by bit"
        return
    yield f"  first other bit: {_difference(pair.begins)}; identical before"
    if pair.visible is None:
        yield f"  never further apart than {VISIBLE:.0%} of a signal's size: rounding"
        return
    yield f"  first difference above {VISIBLE:.0%} of a signal's size: {_difference(pair.visible)}"
    if pair.leaps:
        yield (
            f"  before that at most {pair.before:.1e}: rounding does not grow {LEAP:g} times from row to row. "
            "A setting, data or code differs there"
        )
    else:
        yield f"  it grew to that from {pair.before:.1e}, as rounding does on another machine"
    yield from _table(
        [
            ("signal", "largest difference", "at batch"),
            *((d.signal, f"{d.relative:.2g}", str(d.batch)) for d in pair.largest),
        ]
    )


def _cards(finding: Finding) -> Iterator[str]:
    found = finding.evaluated
    if found is None:
        return
    if found.absent:
        evaluate = f"`python -m harness evaluate {_evaluated_as(finding.run)}`"
        yield f"The reference was evaluated, this run was not: {evaluate}, then compare again"
        return
    if found.unlike:
        yield f"The evaluation cards do not compare: their protocols differ in {', '.join(found.unlike)}"
        return
    yield f"Evaluation cards (band: where one more run of these would be, metric by metric, {CARD_LEVEL:.0%})"
    rows = [("metric", "this run", "reference", "band", "")]
    for score in found.scores:
        each = ", ".join(f"{value:.4g}" for value in score.reference)
        band = "" if score.band is None else f"{score.band[0]:.4g} … {score.band[1]:.4g}"
        rows.append((METRICS[score.metric].label, f"{score.run:.4g}", each, band, "outside" if score.outside else ""))
    yield from _table(rows, whole=True)
    if found.alone:
        yield f"  on one side only, so not compared: {', '.join(METRICS[name].label for name in found.alone)}"
    if found.without:
        yield f"  of the reference, not evaluated: {', '.join(found.without)}"


def _evaluated_as(run: Run) -> str:
    """The name by which the verb `evaluate` knows a finished run."""
    target = run.manifest.get("target", run.name)
    return f"{AD_HOC}/{target}" if run.manifest.get("ad_hoc") else target


def _facts(finding: Finding) -> Iterator[str]:
    if not finding.run.manifest:
        yield "No manifest yet (the run is not finished), so nothing is known of its settings, data and code"
        return
    if not finding.facts:
        yield "Settings, data, code, packages and machine are the same"
        return
    yield "What the manifests say differently:"
    rows = [("", "key", "this run", "reference"), *((f.kind, f.key, f.run, f.reference) for f in finding.facts)]
    yield from _table(rows)


def _step(left: Leaving) -> str:
    role = left.signal.partition("/")[0]
    network = "generator" if role == "quality" else role
    span = f"{left.update}" if left.update == left.last_update else f"{left.update}–{left.last_update}"
    return f"{network} update {span} (batch {left.batch})"


def _difference(difference: Difference) -> str:
    return (
        f"batch {difference.batch}, {difference.signal}: {difference.second:.9g} here, {difference.first:.9g} there "
        f"({difference.relative:.1e} of its size)"
    )


def _twin_name(finding: Finding) -> str:
    return finding.twin.name if finding.twin is not None else "no run"


def _table(rows: Sequence[tuple[str, ...]], whole: bool = False) -> Iterator[str]:
    """Rows under a head, in columns; a long table is cut unless asked for whole, and says so."""
    shown = rows if whole else rows[: SHOWN + 1]
    widths = [max(map(len, column)) for column in zip(*shown)]
    for row in shown:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths))).rstrip()
    if len(rows) > len(shown):
        yield f"  … and {len(rows) - len(shown)} more"


def main(argv: Sequence[str]) -> int:
    """`compare EXPERIMENT`: verdicts of an experiment → comparisons/EXPERIMENT. `compare RUN --to REFERENCE`: where a
    run leaves the band of the reference's seeds, or parts from one other run; what differs in settings, data, code; and
    the evaluation cards of both, on which the status does not depend.
    """
    parser = argparse.ArgumentParser(prog="python -m harness compare", description=main.__doc__)
    parser.add_argument(
        "run", metavar="EXPERIMENT|RUN", help="an experiment; or a run: a folder, a target, a name in runs/"
    )
    parser.add_argument(
        "--to", metavar="REFERENCE", help="an arm (experiments/x/arm, causal_sft) or another run; status 1 if different"
    )
    arguments = parser.parse_args(argv)
    if arguments.to is None:
        from harness.comparison.compare import main as compare_experiment

        compare_experiment(arguments.run)
        return 0
    finding = compare_to(arguments.run, arguments.to)
    print(report(finding), end="")
    return int(finding.differs)
