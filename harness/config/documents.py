"""YAML 1.2 documents as plain dictionaries: reading, writing, nesting dotted keys, merging.

`1e-3` is a number, `yes` is a word, and a key given twice is an error.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from harness.errors import HarnessError
from harness.io import refuse_conflict


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML 1.2 document; `where` names it in messages.

    Raises:
        HarnessError: on a syntax error or a duplicate key, with its line.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        what = (error.problem or "").removeprefix("found duplicate key ")
        raise HarnessError(f"{where}, line {line}: the same key is given twice: {what}; keep one") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise HarnessError(f"{where}{place}: not valid YAML: {error.problem or error.context}") from error
    except (YAMLError, ValueError) as error:
        raise HarnessError(f"{where}: not valid YAML: {error}") from error


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        HarnessError: if the file is missing, unreadable, not YAML, or not a mapping of words.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({error})") from error
    refuse_conflict(text, str(path))
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise HarnessError(f"{path}: must be a mapping (`key: value` lines), found {describe(document)}")
    return document


def dump_yaml(obj: Any) -> str:
    """YAML text of plain values: block style (flow style cannot hold every string), keys in the given order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(obj, stream)
    return stream.getvalue()


def describe(value: Any) -> str:
    """A value and its kind, for messages: `2.7 (a number)`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"{str(value).lower()} (true/false)"
        case int():
            return f"{value} (a whole number)"
        case float():
            return f"{value} (a number)"
        case str():
            return f'"{value}" (text)'
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return f"{list(value)} (a list)"
    return f"{value!r} ({type(value).__name__})"


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1, "a.c": 2}` → `{"a": {"b": 1, "c": 2}}`; a value that is a mapping may hold dotted keys again.

    Raises:
        ValueError: if one key gives a value where another needs a mapping (`a` and `a.b`), or a key is given twice.
    """
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, last = str(key).split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"`{key}`: `{parent}` already has a value")
        if isinstance(value, Mapping):
            value = nest(value)
            if isinstance(place.get(last), dict):
                value = merge(place[last], value)
        elif last in place:
            raise ValueError(f"`{key}` is given twice")
        place[last] = value
    return result


def merge(base: Mapping[str, Any], *over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of mappings; later ones win, lists and scalars are replaced whole."""
    result = dict(base)
    for mapping in over:
        for key, value in mapping.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merge(result[key], value) if both else value
    return result
