"""The shape of an evaluation card, as far as a comparison reads it: what is not as expected is named by its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

REQUIRED_MODELS = {
    "run": ("student", "init"),
    "causal_sft": ("causal_sft", "causal_sft_euler", "causal_sft_cfg"),
    "teacher": ("real", "codec", "teacher", "teacher_cut", "teacher_cut_cfg"),
}
REAL = ("real", "codec")  # models that are no networks

WORDS = {str: "text", int: "a whole number", float: "a number", list: "a list", type(None): "null"}
OBJECT: dict[str, Any] = {}  # with any keys
NUMBER = (int, float)
MODEL = {"label": str, "sampler": OBJECT, "metrics": OBJECT}
SAMPLED = {"forwards": NUMBER}  # the sampler of a network
ESTIMATE = {"value": (*NUMBER, type(None))}
LONG = {"frames": int, "clips": int, "segment_frames": int, "segments": list, "by_frame": {"frame": list}}
SEGMENT = {"start": int, "metrics": OBJECT}
SWITCH = {"at": int, "frame": list, "obeyed": list, "delay_cap": int}


def card_problems(card: Any, kind: str) -> Iterator[str]:
    """What is wrong with the card of a target of some kind (a key of `REQUIRED_MODELS`); nothing where it can be
    compared.
    """
    if not isinstance(card, dict) or not all(isinstance(card.get(key), dict) for key in ("models", "protocol")):
        yield "no `models` and `protocol`"
        return
    wanted, models = REQUIRED_MODELS[kind], card["models"]
    missing = [name for name in wanted if name not in models]
    if missing:
        yield f"models: {', '.join(missing)} missing"
    for name in wanted:
        if name in models:
            yield from _model(models[name], f"models.{name}", name)


def _model(model: Any, place: str, name: str) -> Iterator[str]:
    wrong = list(misshapen(model, MODEL, place))
    yield from wrong
    if wrong:
        return
    if name not in REAL:
        yield from misshapen(model["sampler"], SAMPLED, f"{place}.sampler")
    for metric, estimate in model["metrics"].items():
        yield from misshapen(estimate, ESTIMATE, f"{place}.metrics.{metric}")
    if model.get("long") is not None:
        yield from _long(model["long"], f"{place}.long")


def _long(block: Any, place: str) -> Iterator[str]:
    wrong = list(misshapen(block, LONG, place))
    yield from wrong
    if wrong:
        return
    if not block["segments"]:
        yield f"{place}.segments: empty"
    for i, segment in enumerate(block["segments"]):
        yield from misshapen(segment, SEGMENT, f"{place}.segments.{i}")
    if "switch" in block:
        yield from misshapen(block["switch"], SWITCH, f"{place}.switch")


def misshapen(content: Any, shape: Any, place: str) -> Iterator[str]:
    """Where content is not of a shape: a type, several, or the shapes of an object's keys, which must be there."""
    if not isinstance(shape, Mapping):
        if not isinstance(content, shape):
            kinds = shape if isinstance(shape, tuple) else (shape,)
            yield f"{place}: {content!r:.40}, expected {' or '.join(WORDS[kind] for kind in kinds)}"
    elif not isinstance(content, dict):
        yield f"{place}: {content!r:.40}, expected an object"
    else:
        for key, of in shape.items():
            if key in content:
                yield from misshapen(content[key], of, f"{place}.{key}")
            else:
                yield f"{place}.{key}: missing"
