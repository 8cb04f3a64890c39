from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config.foreign.dialects import dialect_called
from harness.config.foreign.theirs import Theirs, as_here, dotted, nothing, translated
from harness.config.load import load_params
from harness.errors import HarnessError

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"
PRESETS = {name: load_params(PARAMS, name).preset for name in ("tiny", "wan2_1-t2v-1_3b", "wan2_1-t2v-14b")}


def theirs(**values: Any) -> Theirs:
    return Theirs(
        file="f.yaml",
        values=values,
        own=frozenset(values),
        dialect=dialect_called("self-forcing"),
        presets=PRESETS,
    )


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (Theirs.number, "2e-6", 'expected a number, got "2e-6" (text)'),
        (Theirs.number, True, "expected a number, got true"),
        (Theirs.number, float("inf"), "expected a number, got inf"),
        (Theirs.whole, 1.5, "expected a whole number of at least 0, got 1.5"),
        (Theirs.whole, -1, "expected a whole number of at least 0, got -1"),
        (Theirs.flag, "yes", 'expected true or false, got "yes" (text)'),
        (Theirs.text, 3, "expected text, got 3"),
        (Theirs.numbers, [1, 2.5], "expected a list of whole numbers"),
        (Theirs.numbers, [], "expected a list of whole numbers"),
        (Theirs.numbers, 4, "expected a list of whole numbers, got 4"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(read: Callable[[Theirs, str], object], value, expected):
    with pytest.raises(HarnessError) as caught:
        read(theirs(key=value), "key")
    assert str(caught.value).startswith(f"f.yaml: key: {expected}")


def test_generator_updates_are_counted_as_the_reference_makes_them():
    # It updates the generator in iterations 0, r, 2r, …
    for ratio in (1, 4, 5):
        for iterations in (1, 4, 5, 6, 200, 600):
            made = sum(step % ratio == 0 for step in range(iterations))
            assert theirs(dfake_gen_update_ratio=ratio).generator_updates(iterations) == made


@pytest.mark.parametrize(
    ("values", "model", "preset"),
    [
        ({}, "wan2.1-t2v-1.3b", "wan2_1-t2v-1_3b"),
        ({"generator_name": "/far/away/Wan2.1-T2V-14B/"}, "wan2.1-t2v-14b", "wan2_1-t2v-14b"),
        ({"model_name": "Wan2.1-T2V-1.3B-Diffusers"}, "wan2.1-t2v-1.3b", "wan2_1-t2v-1_3b"),
    ],
)
def test_the_preset_is_the_one_of_the_generator(values, model, preset):
    assert (theirs(**values).model, theirs(**values).preset_name) == (model, preset)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Wan2.2-T2V-A14B/high_noise_model", 'generator_name: "Wan2.2-T2V-A14B/high_noise_model" has no counterpart'),
        ("Wan2.1-I2V-14B-720P", "no preset of params.yaml has that model"),
    ],
)
def test_a_network_that_is_not_here(name, expected):
    with pytest.raises(HarnessError, match=expected):
        assert theirs(generator_name=name).preset_name


def test_outcomes_and_leaves():
    assert translated("why", a__b=1).settings == {"a.b": 1}
    assert as_here("so").fits
    assert not nothing("no").fits
    assert dict(dotted({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}
