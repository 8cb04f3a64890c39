"""A translation as text: for each of their keys ours, or why there is none; and the configuration file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.config.documents import dump_yaml
from harness.config.foreign.machine import SECRETS
from harness.config.foreign.translate import Entry, Translation

LONGEST = 48  # characters of a value that are shown


def page(translation: Translation, where: str) -> str:
    """The whole translation for reading."""
    shown = [e for e in translation.entries if not e.is_default or e.outcome.settings or not e.outcome.fits]
    known = [e for e in shown if e.outcome.settings]
    sections = {
        "translated": [_line(e, f"→ {_ours(e)}") for e in known],
        "no equivalent here": [_line(e) for e in shown if not e.outcome.fits],
        "so here without being said": [_line(e) for e in shown if e.outcome.fits and not e.outcome.settings],
        "unknown": [(key, hint.removeprefix("; ")) for key, hint in translation.unknown.items()],
    }
    lines = [f"{where}: {translation.dialect.name} ({translation.dialect.source})", ""]
    for title, rows in sections.items():
        if rows:
            lines += [f"{title} ({len(rows)})", *_table(rows), ""]
    if translation.notes:
        lines += ["what no key says", *(f"  {note}" for note in translation.notes), ""]
    if translation.to_do:
        lines += ["first", *(f"  {command}" for command in translation.to_do), ""]
    return "\n".join(lines)


def configuration(translation: Translation, where: str) -> str:
    """The text of the configuration file."""
    source = f"{Path(where).name} ({translation.dialect.name})"
    return (
        f"# From {source}, by `python -m harness translate`. Keys not given are the preset's.\n"
        f"{dump_yaml(translation.document)}"
    )


def _ours(entry: Entry) -> str:
    return ", ".join(f"{key}: {_value(value)}" for key, value in entry.outcome.settings.items())


def _line(entry: Entry, ours: str = "") -> tuple[str, str]:
    value = "(not shown)" if entry.key in SECRETS else _value(entry.value)
    default = " (their default)" if entry.is_default else ""
    why = f"  [{entry.outcome.why}]" if entry.outcome.why else ""
    return f"{entry.key}: {value}{default}", f"{ours}{why}".strip()


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case None:
            return "null"
        case float():
            return f"{value:g}"
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = min(max(len(left) for left, _ in rows), LONGEST)
    return [f"  {left:<{width}}  {right}".rstrip() for left, right in rows]
