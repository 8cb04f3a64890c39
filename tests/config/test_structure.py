from typing import Any, Literal

import pytest
from attrs import field, frozen
from attrs.validators import gt
from hypothesis import given
from hypothesis import strategies as st

from harness.config.schema import RunConfig
from harness.config.structure import leaves, structure, to_dict, unknown_key
from harness.errors import HarnessError


@frozen(kw_only=True)
class Inner:
    number: float = field(default=1.0, validator=gt(0))
    pair: tuple[int, int] = (1, 2)


@frozen(kw_only=True)
class Outer:
    count: int = field(validator=gt(0))
    flag: bool = False
    kind: Literal["red", "green"] = "red"
    name: str | None = None
    steps: tuple[int, ...] = ()
    inner: Inner = field(factory=Inner)
    table: dict[str, Inner] = field(factory=dict)
    anything: Any = None


def refused(mapping: object) -> str:
    with pytest.raises(HarnessError) as caught:
        structure(Outer, mapping, "f.yaml", "presets.x")
    return str(caught.value)


def test_good_values_are_taken_as_they_are():
    value = structure(
        Outer,
        {"count": 3, "inner": {"number": 2, "pair": [3, 4]}, "steps": [5], "table": {"a": {}}, "anything": [1, "x"]},
        "f",
    )
    assert value == Outer(
        count=3, inner=Inner(number=2.0, pair=(3, 4)), steps=(5,), table={"a": Inner()}, anything=[1, "x"]
    )
    assert type(value.inner.number) is float


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", 2.7, "expected a whole number, got 2.7"),
        ("count", 3.0, "expected a whole number"),
        ("count", True, "expected a whole number, got true"),
        ("count", "3", "expected a whole number"),
        ("count", -1, "must be > 0: -1"),
        ("flag", 1, "expected true or false"),
        ("flag", "yes", "expected true or false"),
        ("kind", "gren", "did you mean `green`?"),
        ("kind", 1, "expected one of red, green"),
        ("name", 3, "expected text, got 3"),
        ("steps", "abc", "expected a list"),
        ("steps", [1, 2.5], "2.5"),
        ("inner", 3, "expected a mapping with number, pair"),
        ("inner", {"number": "1e-3"}, "write 1e-3 without quotes"),
        ("inner", {"number": float("nan")}, "finite"),
        ("inner", {"number": True}, "expected a number"),
        ("inner", {"pair": [1]}, "expected a list of 2"),
        ("table", {"a": {"number": 0}}, "must be > 0: 0.0"),
        ("cuont", 3, "unknown key; did you mean `count`?"),
    ],
)
def test_bad_values_are_refused_with_file_path_and_reason(key, value, message):
    text = refused({"count": 1} | {key: value})
    assert message in text
    assert text.startswith(f"f.yaml: presets.x.{key}")


def test_all_problems_come_at_once():
    text = refused({"flag": 3, "inner": {"number": -1, "pair": [1, "b"], "x": 1}, "table": {"a": 3}})
    assert text.startswith("f.yaml: 6 problems\n")
    for path in (
        "count: is missing",
        "flag:",
        "inner.number: must be > 0",
        "inner.pair.1:",
        "inner.x: unknown",
        "table.a:",
    ):
        assert f"\n  presets.x.{path}" in text


def test_a_validator_that_reads_a_missing_sibling_adds_no_noise():
    @frozen
    class Two:
        a: int
        b: int = field(default=3)

        @b.validator
        def _above(self, attribute: Any, value: int) -> None:
            if value <= self.a:
                raise ValueError("must be above a")

    with pytest.raises(HarnessError, match=r"^f: a: is missing$"):
        structure(Two, {}, "f")
    with pytest.raises(HarnessError, match=r"^f: b: must be above a$"):
        structure(Two, {"a": 5}, "f")  # a default can be wrong together with what was given


@given(
    st.builds(
        Outer,
        count=st.integers(1),
        flag=st.booleans(),
        name=st.none() | st.text(),
        steps=st.lists(st.integers()).map(tuple),
        inner=st.builds(Inner, number=st.floats(1e-3, 1e9), pair=st.tuples(st.integers(), st.integers())),
    )
)
def test_plain_values_come_back(value):
    assert structure(Outer, to_dict(value), "f") == value


def test_unknown_keys_are_explained():
    assert unknown_key(RunConfig, "dmd.generator_optimizer.lr") is None
    assert unknown_key(RunConfig, "dmd.cfg_scal") == "unknown key `dmd.cfg_scal`; did you mean `dmd.cfg_scale`?"
    assert "did you mean `dmd.cfg_scale`" in str(unknown_key(RunConfig, "cfg_scale"))
    assert "no keys below" in str(unknown_key(RunConfig, "seed.x"))
    assert all(unknown_key(RunConfig, leaf) is None for leaf in leaves(RunConfig))
