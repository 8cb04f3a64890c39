"""Their configuration as read: typed values by dotted key, and the words in which a rule answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from harness.config.documents import describe
from harness.config.foreign.dialects import Dialect
from harness.config.models import MODELS
from harness.config.schema import Preset
from harness.config.structure import suggest
from harness.errors import HarnessError


@frozen(kw_only=True)
class Outcome:
    """What becomes of one of their keys.

    settings   our dotted keys and their values; none: nothing has to be set
    why        why the value is converted, why nothing has to be set, or why there is no equivalent
    fits       False: it asks for something that is not here
    to_do      a command that the user has to run because of it
    """

    settings: Mapping[str, Any] = field(factory=dict)
    why: str = ""
    fits: bool = True
    to_do: str | None = None


Rule = Callable[["Theirs", str], Outcome]


def translated(why: str = "", to_do: str | None = None, /, **settings: Any) -> Outcome:
    """`translated("why", dmd__cfg_scale=4.0)`: two underscores stand for a dot."""
    return Outcome(settings={key.replace("__", "."): value for key, value in settings.items()}, why=why, to_do=to_do)


def as_here(why: str, to_do: str | None = None) -> Outcome:
    """It is so here without being said."""
    return Outcome(why=why, to_do=to_do)


def nothing(why: str, to_do: str | None = None) -> Outcome:
    """There is no equivalent."""
    return Outcome(why=why, fits=False, to_do=to_do)


@frozen(kw_only=True)
class Theirs:
    """One of their files over its defaults.

    file      for messages
    values    dotted key → value; a list is a value
    own       the keys that the file itself gives, or the defaults file that was given with it
    dialect   whose it is
    presets   the presets of params.yaml: name → (preset, the teacher's folder)
    """

    file: str
    values: Mapping[str, Any]
    own: frozenset[str]
    dialect: Dialect
    presets: Mapping[str, Preset]

    def has(self, key: str) -> bool:
        """Whether a key has a value; `null` is none."""
        return self.values.get(key) is not None

    def number(self, key: str) -> float:
        """A finite number. Raises HarnessError otherwise."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.wrong(key, "a number")
        return float(value)

    def whole(self, key: str, least: int = 0) -> int:
        """A whole number of at least `least`. Raises HarnessError otherwise."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(key, f"a whole number of at least {least}")
        return value

    def flag(self, key: str) -> bool:
        """True or false; a key that is missing is false. Raises HarnessError otherwise."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str) -> str:
        """A word. Raises HarnessError otherwise."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers. Raises HarnessError otherwise."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(type(item) is int for item in value) or not value:
            raise self.wrong(key, "a list of whole numbers")
        return value

    def wrong(self, key: str, expected: str) -> HarnessError:
        """The refusal of a value."""
        return HarnessError(f"{self.file}: {key}: expected {expected}, got {describe(self.values.get(key))}")

    @property
    def trains(self) -> bool:
        """Whether the file is of a training run; else it is for sampling."""
        return self.has("lr") or self.has("dfake_gen_update_ratio")

    @property
    def is_causal(self) -> bool:
        """Whether the generator works block by block."""
        if "generator_is_causal" in self.values:
            return self.flag("generator_is_causal")
        kind = self.text("generator_type")
        if kind not in ("causal", "bidirectional"):
            raise self.wrong("generator_type", "causal or bidirectional")
        return kind == "causal"

    @property
    def streams(self) -> bool:
        """Whether an update goes on with the sequence of the last one."""
        return self.has("streaming_training") and self.flag("streaming_training")

    @property
    def switches(self) -> bool:
        """Whether a sequence changes its prompt on the way."""
        return self.streams and self.values.get("distribution_loss") == "dmd_switch"

    @property
    def is_told_images(self) -> bool:
        """Whether the generator is given each clip's first frame, in their run or in ours."""
        ours = self.preset.run.get("rollout", {}).get("image_conditioning", "none")
        return ours != "none" or self.flag("i2v")

    @property
    def has_adapter(self) -> bool:
        """Whether low-rank adapters are trained instead of the weights."""
        return any(key.startswith("adapter.") for key in self.values)

    @property
    def ratio(self) -> int:
        """Iterations per generator update; each is a critic update."""
        return self.whole("dfake_gen_update_ratio", 1)

    def generator_updates(self, iterations: int) -> int:
        """Generator updates among the first `iterations` iterations, of which numbers 0, r, 2r … make one."""
        return -(-iterations // self.ratio)

    @property
    def generator_key(self) -> str:
        """The key that names the generator's network; the default network is Wan2.1-T2V-1.3B."""
        named = ("generator_name", "model_kwargs.model_name", "model_name")
        return next((key for key in named if self.has(key)), "")

    @property
    def model(self) -> str:
        """Our name of the generator's network. Raises HarnessError if there is none."""
        return self.model_of(self.generator_key) if self.generator_key else "wan2.1-t2v-1.3b"

    def model_of(self, key: str) -> str:
        """Our name of the network that a key names by its folder."""
        name = self.text(key).rstrip("/").rsplit("/", 1)[-1].lower().removesuffix("-diffusers")
        if name not in MODELS:
            raise HarnessError(f'{self.file}: {key}: "{self.text(key)}" has no counterpart here{suggest(name, MODELS)}')
        return name

    @property
    def preset_name(self) -> str:
        """The preset of the generator's network. Raises HarnessError if params.yaml has none."""
        for name, preset in self.presets.items():
            if preset.run.get("model") == self.model:
                return name
        raise HarnessError(
            f"{self.file}: the generator is {self.model}, and no preset of params.yaml has that model; add one there"
        )

    @property
    def preset(self) -> Preset:
        """The preset that the translation starts from."""
        return self.presets[self.preset_name]

    def weights_of(self, model: str) -> str | None:
        """The folder with the pretrained weights of a network, as a preset of it names them."""
        for preset in self.presets.values():
            if preset.run.get("model") == model:
                return preset.run.get("teacher")
        return None


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a nested mapping; an empty section is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
