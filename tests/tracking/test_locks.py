import hashlib

import pytest

from harness.errors import HarnessError
from harness.tracking.locks import (
    dvc_md5,
    ignored_names,
    lock_files,
    locked_params,
    locked_paths,
    lookup,
    read_lock,
)


def test_a_folder_has_the_md5_that_dvc_gives_it(tmp_path):
    folder = tmp_path / "out"
    for name in ("b.txt", "a/z.txt", "a.txt", "a/b/c.txt", "a-b/c.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/x.pyc").write_text("x")
    (tmp_path / ".dvcignore").write_text("# left out\n__pycache__\n*.pyc\n")
    by_dvc = "cc50f8a6504e644dbe6d5baf496112e7.dir"  # what `dvc commit` wrote down for this folder
    assert dvc_md5(folder, ignored_names(tmp_path)) == by_dvc
    assert dvc_md5(folder) != by_dvc
    assert dvc_md5(folder / "b.txt") == hashlib.md5(b"b.txt").hexdigest()


def test_what_a_lock_says(tmp_path):
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  s:\n    cmd: c\n    deps:\n    - {path: data, md5: aa.dir}\n"
        "    params:\n      params.yaml: {preset: tiny, presets.tiny.run: {frames: 3}}\n"
        "    outs:\n    - {path: results/x, md5: bb}\n"
    )
    stages = read_lock(tmp_path / "dvc.lock")
    assert [(item.stage, item.path, item.md5) for item in locked_paths(stages)] == [
        ("s", "data", "aa.dir"),
        ("s", "results/x", "bb"),
    ]
    assert [(param.file, param.key, param.value) for param in locked_params(stages)] == [
        ("params.yaml", "preset", "tiny"),
        ("params.yaml", "presets.tiny.run", {"frames": 3}),
    ]


def test_locks_of_the_pipeline_and_of_experiments(tmp_path):
    for name in ("dvc.lock", "experiments/b/dvc.lock", "experiments/a/dvc.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("stages: 3\n")
    assert [path.relative_to(tmp_path).as_posix() for path in lock_files(tmp_path)] == [
        "dvc.lock",
        "experiments/a/dvc.lock",
        "experiments/b/dvc.lock",
    ]
    with pytest.raises(HarnessError, match="no `stages`"):
        read_lock(tmp_path / "dvc.lock")


def test_dotted_keys():
    values = {"a": {"b": 1, "c.d": {"e": 2}}, "f.g": 3, "no": None}
    assert [lookup(values, key) for key in ("a.b", "a.c.d.e", "f.g", "a.x", "x", "no", "a")] == [
        *(1, 2, 3, None, None, None),
        values["a"],
    ]


@pytest.mark.parametrize(
    "stages",
    [
        "[]",
        "{s: 3}",
        "{s: {outs: 3}}",
        "{s: {outs: null}}",
        "{s: {outs: [x]}}",
        "{s: {deps: [{md5: aa}]}}",
        "{s: {outs: [{path: x, md5: 3}]}}",
        "{s: {params: [x]}}",
        "{s: {params: {params.yaml: 3}}}",
    ],
)
def test_a_damaged_lock_is_named(tmp_path, stages):
    (tmp_path / "dvc.lock").write_text(f"stages: {stages}\n")
    with pytest.raises(HarnessError, match=r"dvc\.lock: (no `stages`|stage s is damaged)"):
        read_lock(tmp_path / "dvc.lock")


def test_only_what_was_written(tmp_path):
    (tmp_path / "dvc.lock").write_text(
        "stages: {s: {deps: [{path: a, md5: aa}], outs: [{path: b, md5: bb}, {path: c}]}}\n"
    )
    stages = read_lock(tmp_path / "dvc.lock")
    assert [item.path for item in locked_paths(stages, ("outs",))] == ["b"]
    assert [item.path for item in locked_paths(stages)] == ["a", "b"]
