"""What went wrong with single items of a source: named, counted, printed; never dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from attrs import asdict, field, frozen, mutable

KINDS = {
    "broken": "cannot be decoded",
    "too_few_frames": "too short",
    "no_caption": "without a caption",
    "empty_caption": "with an empty caption",
    "two_captions": "with two different captions",
    "missing_video": "named in the caption table, but not there",
    "duplicate": "with the same bytes as another",
    "empty_prompt": "empty prompts",
    "too_long": "longer than the text encoder takes",
}
SHOWN = 10


@frozen
class Problem:
    """One item left out: `kind` is a key of `KINDS`."""

    kind: str
    item: str
    detail: str


@mutable
class Report:
    """What a source held and what became of it."""

    written: dict[str, int] = field(factory=dict)  # by split
    problems: list[Problem] = field(factory=list)
    surplus: list[str] = field(factory=list)  # good, but more than was asked for
    ignored: list[str] = field(factory=list)  # neither video nor caption
    unknown_words: int = 0

    def add(self, kind: str, item: str, detail: str) -> None:
        """Name one item that is left out."""
        if kind not in KINDS:
            raise KeyError(kind)
        self.problems.append(Problem(kind, item, detail))

    def counts(self) -> dict[str, int]:
        """Problems by kind."""
        return dict(sorted(Counter(problem.kind for problem in self.problems).items()))

    def to_json(self) -> dict:
        """For `report.json`."""
        return {
            "schema": 1,
            "written": self.written,
            "counts": self.counts(),
            "problems": [asdict(problem) for problem in sorted(self.problems, key=lambda p: (p.item, p.kind))],
            "surplus": sorted(self.surplus),
            "ignored": sorted(self.ignored),
            "unknown_words": self.unknown_words,
        }

    def summary(self) -> str:
        """A few lines for a person: what was written, then every kind of problem with the first items by name."""
        lines = ["written: " + (", ".join(f"{split} {count:,}" for split, count in self.written.items()) or "nothing")]
        for kind, count in self.counts().items():
            lines.append(f"{count:,} {KINDS[kind]}:")
            lines += _listed(f"{p.item}: {p.detail}" for p in self.problems if p.kind == kind)
        for title, items in (
            ("not needed (more than data.clips asks for)", self.surplus),
            ("ignored files", self.ignored),
        ):
            if items:
                lines.append(f"{len(items):,} {title}:")
                lines += _listed(sorted(items))
        return "\n".join(lines)


def _listed(items: Iterable[str]) -> list[str]:
    rows = list(items)
    more = [f"  … and {len(rows) - SHOWN:,} more in report.json"] if len(rows) > SHOWN else []
    return [f"  {row}" for row in rows[:SHOWN]] + more
