"""The translation itself: every one of their keys gets an outcome, and the outcomes' settings make a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from harness.config.documents import merge, nest
from harness.config.foreign import machine, objective, rollout, second_stage
from harness.config.foreign.dialects import Dialect, detect
from harness.config.foreign.theirs import Outcome, Rule, Theirs, dotted
from harness.config.schema import Preset, RunConfig
from harness.config.structure import leaves, suggest
from harness.errors import HarnessError

_OF_SAMPLING = {  # defaults that a file for sampling needs
    "generator_type",
    "warp_denoising_step",
    "model_kwargs.timestep_shift",
    "context_noise",
    "generator_ckpt",
}
_FIRST = ("in params.yaml", "python -m harness import", "python -m harness prompts")  # how a `to_do` begins, in order
RULES: dict[str, Rule] = {**objective.RULES, **rollout.RULES, **second_stage.RULES, **machine.RULES}


@frozen(kw_only=True)
class Entry:
    """One of their keys with its value, and what becomes of it. `is_default`: the file itself does not give it."""

    key: str
    value: Any
    outcome: Outcome
    is_default: bool


@frozen(kw_only=True)
class Translation:
    """A whole file's translation.

    settings   our dotted keys: what the configuration file gets
    entries    their known keys, in the file's order, then their defaults
    unknown    keys that no rule knows → a hint
    notes      what differs though no key says so
    """

    dialect: Dialect
    settings: dict[str, Any]
    entries: tuple[Entry, ...]
    unknown: dict[str, str]
    notes: tuple[str, ...]

    @property
    def to_do(self) -> list[str]:
        """What the user has to do first, in order: commands, and changes of the preset."""
        wanted = dict.fromkeys(e.outcome.to_do for e in self.entries if e.outcome.to_do)
        return sorted(wanted, key=lambda words: [not words.startswith(start) for start in _FIRST])

    @property
    def document(self) -> dict[str, Any]:
        """The nested configuration."""
        return nest(self.settings)


def translate(
    document: Mapping[str, Any],
    presets: Mapping[str, Preset],
    *,
    where: str,
    dialect: Dialect | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Translation:
    """Translate a file of theirs.

    document   what the file holds
    presets    those of params.yaml: the first whose model is the file's generator is the base
    where      names the file in messages
    dialect    whose it is; found out if not given
    defaults   what their `default_config.yaml` holds; those values that matter are known without it

    Raises:
        HarnessError: whose it is cannot be told, a value has the wrong kind, or it asks for another method.
    """
    own = dict(dotted(merge(defaults or {}, document)))
    _refuse_references(own, where)
    dialect = dialect or detect(own, where)
    values = dict(dotted(merge(dialect.defaults_for(own), defaults or {}, document)))
    theirs = Theirs(file=where, values=values, own=frozenset(own), dialect=dialect, presets=presets)
    entries = [
        Entry(key=key, value=values[key], outcome=RULES[key](theirs, key), is_default=key not in own)
        for key in (*own, *(key for key in values if key not in own))
        if key in RULES and _matters(theirs, key)
    ]
    settings = {"preset": theirs.preset_name, "method": "dmd", "seed": 0, **_joined(entries)}
    order = {key: place for place, key in enumerate(leaves(RunConfig))}
    return Translation(
        dialect=dialect,
        settings=dict(sorted(settings.items(), key=lambda item: order[item[0]])),
        entries=tuple(entries),
        unknown={key: suggest(key, _close(key)) for key in own if key not in RULES},
        notes=tuple(_notes(theirs)),
    )


def _refuse_references(values: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if isinstance(value, str) and "${" in value:
            raise HarnessError(f"{where}: {key}: {value} refers to another value; write the value itself there")


def _matters(theirs: Theirs, key: str) -> bool:
    """A key that is `null` or only a default says something only where a rule reads it so."""
    if key in theirs.own:
        return theirs.has(key) or key in ("generator_ckpt", "ema_weight")
    if not theirs.trains and key not in _OF_SAMPLING:
        return False
    return not (key == "max_iters" and not theirs.has(key))


def _joined(entries: list[Entry]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for entry in entries:
        for key, value in entry.outcome.settings.items():
            if settings.setdefault(key, value) != value:
                raise HarnessError(f"{entry.key} and another key give two values of {key}: {settings[key]} and {value}")
    return settings


def _close(key: str) -> list[str]:
    """Known keys one of which may have been meant; none when the key resembles none."""
    hint = suggest(key, RULES)
    return [hint.split("`")[1]] if "did you mean" in hint else []


def _notes(theirs: Theirs) -> list[str]:
    if not theirs.trains:
        return ["This file is for sampling: what it says of the rollout is translated, the training is the preset's."]
    notes = []
    if not theirs.has("max_iters"):
        updates = theirs.preset.run["dmd"]["generator_updates"]
        notes.append(
            f"Their training has no end: it goes on until it is stopped. Preset {theirs.preset_name} makes {updates} "
            f"generator updates, which is {updates * theirs.ratio:,} of their iterations."
        )
    if theirs.is_causal:
        notes.append(
            "Their code lets gradient flow through the K/V cache into earlier blocks, against the paper. Here it does "
            "not (rollout.kv_grad: detach); straight_through does as they do."
        )
    if theirs.streams:
        notes.append(
            "Their critic learns from a clip's new frames, and the generator's gradient is divided by a mean over the "
            "whole clip. Here the critic learns from the whole clip, and the mean is over the new frames."
        )
    if theirs.has_adapter and theirs.has("generator_ckpt"):
        notes.append(
            "Where generator_ckpt holds a critic and a step, their trainer goes on with both: max_iters then counts "
            "the iterations before, too. Here the critic starts from `critic`, or the teacher, and counting at 0."
        )
    return notes
