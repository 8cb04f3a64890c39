import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.documents import dump_yaml, merge, nest, parse_yaml, read_yaml
from harness.errors import HarnessError


def test_numbers_and_words_are_those_of_yaml_1_2():
    assert parse_yaml("{a: 1e-3, b: yes, c: 2e5, d: 0x10, e: no, f: 012}", "t") == {
        "a": 0.001,
        "b": "yes",
        "c": 2e5,
        "d": 16,
        "e": "no",
        "f": 12,
    }


def test_merge_keys_work_and_are_overridden():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "t")["b"] == {"x": 1, "y": 3}


def test_a_key_given_twice_is_refused_with_its_line():
    with pytest.raises(HarnessError, match=r'f\.yaml, line 3: .*twice: "a"'):
        parse_yaml("a: 1\nb: 2\na: 3\n", "f.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "!!python/object:os.system {}"])
def test_what_is_not_yaml_is_named(text):
    with pytest.raises(HarnessError, match=r"f\.yaml.*not valid YAML"):
        parse_yaml(text, "f.yaml")


@pytest.mark.parametrize(("text", "message"), [("", "found nothing"), ("- 1", "a list"), ("word", '"word"')])
def test_a_file_must_hold_a_mapping(tmp_path, text, message):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(HarnessError, match=message):
        read_yaml(tmp_path / "f.yaml")
    with pytest.raises(HarnessError, match="no such file"):
        read_yaml(tmp_path / "g.yaml")


def test_nest():
    assert nest({"a.b": 1, "a": {"c.d": 2}, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    with pytest.raises(ValueError, match="already has a value"):
        nest({"a": 1, "a.b": 2})
    with pytest.raises(ValueError, match="given twice"):
        nest({"a": {"b": {}}, "a.b": 1})


def test_merge_is_deep_and_replaces_lists():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}}, {"b": {"z": 1}}) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="ascii"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), plain, max_size=4))
def test_dumped_values_come_back(value):
    assert parse_yaml(dump_yaml(value), "t") == value


def test_a_string_that_flow_style_cannot_hold_comes_back():
    value = {"a": {"a": ":0"}}
    assert parse_yaml(dump_yaml(value), "t") == value


def test_a_merge_conflict_is_named(tmp_path):
    (tmp_path / "params.yaml").write_text("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> theirs\n")
    with pytest.raises(HarnessError, match=r"params\.yaml, line 2: a merge conflict\. Keep one side"):
        read_yaml(tmp_path / "params.yaml")
