"""Strict structuring: plain mappings → attrs classes, nothing coerced, every problem reported at once.

cattrs dispatches on types; the hooks here are our own, because its defaults turn 2.7 into 2 and true into 1 and lose
the validators' texts.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import attrs
import cattrs

from harness.config.documents import describe
from harness.errors import HarnessError

T = TypeVar("T")
Problem = tuple[str, str]  # dotted path, what is wrong there


class Problems(Exception):
    """All that is wrong with a value; an inner level's paths are extended by the outer one."""

    def __init__(self, items: Iterable[Problem]):
        """Keep the problems in the order found."""
        self.items = list(items)
        super().__init__("; ".join(f"{path}: {text}" for path, text in self.items))


def structure(cls: type[T], mapping: Any, where: str, at: str = "") -> T:
    """Build `cls` from plain values read from the file `where`, under the dotted path `at` in it.

    Raises:
        HarnessError: listing every problem with its dotted path.
    """
    try:
        return CONVERTER.structure(mapping, cls)
    except Problems as problems:
        raise refusal(problems.items, where, at) from None


def refusal(problems: Iterable[Problem], where: str, at: str = "") -> HarnessError:
    """One error that lists all problems: `FILE: PATH: text`, or a headed list when there are several."""
    lines = [f"{_join(at, path)}: {text}" if _join(at, path) else text for path, text in problems]
    if len(lines) == 1:
        return HarnessError(f"{where}: {lines[0]}")
    return HarnessError(f"{where}: {len(lines)} problems\n" + "\n".join(f"  {line}" for line in lines))


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of an attrs object (tuples become lists), fit for YAML and JSON."""
    return CONVERTER.unstructure(config)


def suggest(key: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean …?`, or the known keys when none is close. `prefix` is put before the suggested key."""
    known = list(known)
    begins = [name for name in known if key and name.startswith(key)]
    close = begins if len(begins) == 1 else difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{prefix}{close[0]}`?"
    return f"; known: {', '.join(known)}" if known else ""


def unknown_key(cls: type[Any], dotted: str) -> str | None:
    """What is wrong with a dotted key of an attrs class (nested classes are followed), or None if it exists."""
    place: Any = cls
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        path = "".join(f"{parent}." for parent in parts[:depth])
        if not attrs.has(place):
            return f"`{path[:-1]}` has no keys below it"
        fields = attrs.fields_dict(attrs.resolve_types(place))
        if part not in fields:
            elsewhere = [f"`{leaf}`" for leaf in leaves(cls) if leaf.rsplit(".", 1)[-1] == parts[-1]]
            close = f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else suggest(part, fields, path)
            return f"unknown key `{path}{part}`{close}"
        place = fields[part].type or Any
    return None


def leaves(cls: type, prefix: str = "") -> list[str]:
    """All dotted keys of an attrs class that hold values rather than sections."""
    result = []
    for name, field in attrs.fields_dict(attrs.resolve_types(cls)).items():
        kind: Any = field.type
        result += leaves(kind, f"{prefix}{name}.") if attrs.has(kind) else [f"{prefix}{name}"]
    return result


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _refuse(expected: str, value: Any) -> typing.NoReturn:
    raise Problems([("", f"expected {expected}, got {describe(value)}")])


def _integer(value: Any, _: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else _refuse("a whole number", value)


def _number(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = " (write 1e-3 without quotes)" if isinstance(value, str) else ""
        _refuse(f"a number{hint}", value)
    if value != value or value in (float("inf"), float("-inf")):
        _refuse("a finite number", value)
    return float(value)


def _boolean(value: Any, _: Any) -> bool:
    return value if isinstance(value, bool) else _refuse("true or false", value)


def _text(value: Any, _: Any) -> str:
    return value if isinstance(value, str) else _refuse("text", value)


def _literal(value: Any, cls: Any) -> Any:
    options = typing.get_args(cls)
    if not any(value == option and type(value) is type(option) for option in options):
        hint = suggest(value, options) if isinstance(value, str) else ""
        hint = hint if "did you mean" in hint else ""
        raise Problems([("", f"expected one of {', '.join(map(str, options))}, got {describe(value)}{hint}")])
    return value


def _optional(value: Any, cls: Any) -> Any:
    inner = [option for option in typing.get_args(cls) if option is not type(None)]
    return None if value is None else CONVERTER.structure(value, inner[0])


def _is_optional(cls: Any) -> bool:
    args = typing.get_args(cls)
    union = typing.get_origin(cls) in (typing.Union, types.UnionType)
    return union and len(args) == 2 and type(None) in args


def _tuple(value: Any, cls: Any) -> tuple[Any, ...]:
    args = typing.get_args(cls)
    if not isinstance(value, (list, tuple)):
        _refuse("a list", value)
    if args[-1] is not Ellipsis and len(value) != len(args):
        _refuse(f"a list of {len(args)}", value)
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
    return tuple(_each((str(i), item, kind) for i, (item, kind) in enumerate(zip(value, kinds))))


def _list(value: Any, cls: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        _refuse("a list", value)
    return _each((str(i), item, typing.get_args(cls)[0]) for i, item in enumerate(value))


def _dict(value: Any, cls: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        _refuse("a mapping", value)
    kind = (typing.get_args(cls) or (str, Any))[1]
    return dict(zip(value, _each((str(key), item, kind) for key, item in value.items())))


def _each(items: Iterable[tuple[str, Any, Any]]) -> list[Any]:
    """Structure all items, collecting the problems of every one of them."""
    result, problems = [], []
    for path, value, kind in items:
        try:
            result.append(CONVERTER.structure(value, kind))
        except Problems as inner:
            problems += [(_join(path, below), text) for below, text in inner.items]
    if problems:
        raise Problems(problems)
    return result


def _attrs_hook(cls: type) -> Callable[[Any, Any], Any]:
    fields = attrs.fields_dict(attrs.resolve_types(cls))

    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            _refuse(f"a mapping with {', '.join(fields)}", value)
        problems: list[Problem] = [
            (str(key), f"unknown key{suggest(str(key), fields)}") for key in value if key not in fields
        ]
        values: dict[str, Any] = {}
        for name, field in fields.items():
            if name not in value:
                if field.default is attrs.NOTHING:
                    problems.append((name, "is missing"))
                continue
            try:
                values[name] = CONVERTER.structure(value[name], cast(Any, field.type))
            except Problems as inner:
                problems += [(_join(name, path), text) for path, text in inner.items]
        problems += _invalid(cls, fields, values)
        if problems:
            raise Problems(problems)
        return cls(**values)

    return hook


def _invalid(cls: type, fields: Mapping[str, attrs.Attribute], values: Mapping[str, Any]) -> list[Problem]:
    """Run every validator, where `cls(**values)` would stop at the first that refuses."""
    probe = object.__new__(cls)
    present = dict(values)
    for name, field in fields.items():
        if name not in values and isinstance(field.default, (str, int, float, tuple, type(None))):
            present[name] = field.default
    for name, value in present.items():
        object.__setattr__(probe, name, value)
    problems: list[Problem] = []
    for name, value in present.items():
        validator = fields[name].validator
        if validator is None:
            continue
        try:
            validator(probe, fields[name], value)
        except AttributeError:
            continue  # it reads a sibling that is itself missing or wrong, which is reported already
        except (ValueError, TypeError) as error:
            problems.append((name, str(error.args[0]).removeprefix(f"'{name}' ")))
    return problems


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    hooks = ((int, _integer), (float, _number), (bool, _boolean), (str, _text))
    for kind, hook in hooks:
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_func(lambda cls: cls is Any, lambda value, _: value)
    converter.register_structure_hook_func(_is_optional, _optional)
    converter.register_structure_hook_func(lambda cls: typing.get_origin(cls) is typing.Literal, _literal)
    converter.register_structure_hook_func(lambda cls: typing.get_origin(cls) is tuple, _tuple)
    converter.register_structure_hook_func(lambda cls: typing.get_origin(cls) is list, _list)
    converter.register_structure_hook_func(lambda cls: cls is dict or typing.get_origin(cls) is dict, _dict)
    converter.register_structure_hook_factory(attrs.has, _attrs_hook)
    converter.register_unstructure_hook_func(lambda cls: typing.get_origin(cls) is tuple, list)
    return converter


CONVERTER = _make_converter()
