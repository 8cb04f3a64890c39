import json
import os
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.io import (
    atomic_write_bytes,
    atomic_write_text,
    code_digest,
    digest,
    directory_digest,
    read_json,
    sha256_file,
    write_json,
)


def test_json_comes_back_and_has_one_form(tmp_path):
    path = tmp_path / "new/folder/a.json"
    write_json(path, {"b": (1, 2.5), "a": "é"})
    assert read_json(path) == {"a": "é", "b": [1, 2.5]}
    assert path.read_text() == '{\n "a": "é",\n "b": [\n  1,\n  2.5\n ]\n}\n'


def test_nan_is_refused_with_its_place_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(HarnessError, match=r"a\.json: models\.student\.1 \(nan\)"):
        write_json(path, {"models": {"student": [0.0, float("nan")]}})
    assert read_json(path) == {"x": 1}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(HarnessError, match=r"a\.json"):
        read_json(path)


def test_missing_json_says_what_to_do(tmp_path):
    with pytest.raises(HarnessError, match="missing; run the stage"):
        read_json(tmp_path / "a.json")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarnessError, match=r"a\.txt.*No space left"):
        atomic_write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_digest_ignores_key_order_but_not_values():
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert len(digest(None)) == 64


def test_directory_digest_sees_names_and_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("1")
    first = directory_digest(tmp_path)
    assert directory_digest(tmp_path) == first
    (tmp_path / "a/x").write_text("2")
    second = directory_digest(tmp_path)
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    assert len({first, second, directory_digest(tmp_path)}) == 3
    with pytest.raises(HarnessError, match="no such folder"):
        directory_digest(tmp_path / "b")


def test_sha256_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")
    with pytest.raises(HarnessError, match="cannot be read"):
        sha256_file(tmp_path / "b")


def code(tmp_path: Path, text: str) -> str:
    (tmp_path / "m.py").write_text(text)
    return code_digest([tmp_path / "m.py"])


def test_code_digest_counts_code_only(tmp_path):
    plain = code(tmp_path, "def f(x):\n    return x + 1\n")
    assert code(tmp_path, '"""Doc."""\ndef f(x):\n    """Doc."""\n    # why\n    return (x + 1)\n') == plain
    assert code(tmp_path, "def f(x):\n    return x + 2\n") != plain
    assert code(tmp_path, "def f(x):\n    return 'text'\n") != code(tmp_path, "def f(x):\n    return 'other'\n")


def test_code_digest_reads_folders_and_names_bad_files(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.py").write_text("x = 1\n")
    assert code_digest([tmp_path / "p"]) == code_digest([tmp_path / "p/a.py"])
    (tmp_path / "p/b.py").write_text("x = \n")
    with pytest.raises(HarnessError, match=r"b\.py: not valid Python"):
        code_digest([tmp_path / "p"])


def test_json_is_plain_json(tmp_path):
    write_json(tmp_path / "a", {"x": True})
    assert json.loads((tmp_path / "a").read_bytes()) == {"x": True}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[1]", r"holds \[1\], expected an object; delete it and run the stage"),
        ("null", "holds None, expected an object"),
        ('{"a": 1}', "has no b; delete it"),
    ],
)
def test_json_of_another_shape_is_told(tmp_path, content, what):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(HarnessError, match=r"f\.json: " + what):
        read_json(tmp_path / "f.json", keys=("a", "b"))


def test_json_of_the_wanted_kind_is_given(tmp_path):
    (tmp_path / "f.json").write_text("[1]")
    assert read_json(tmp_path / "f.json", kind=list) == [1]
