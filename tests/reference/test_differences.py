import subprocess

import pytest
from made_up_runs import manifest_of

from harness.reference.differences import Fact, changed_files, differences


def found(run, *reference):
    return [(fact.kind, fact.key, fact.run, fact.reference) for fact in differences(run, reference)]


def test_nothing_differs():
    assert found(manifest_of(0), manifest_of(0), manifest_of(1)) == []
    assert found(manifest_of(3), manifest_of(0), manifest_of(1)) == []
    assert found({}, manifest_of(0)) == []


def test_a_setting_of_the_method_and_none_of_others():
    run = manifest_of(0, dmd={"shift": 5.0, "cfg_scale": 2.0}, sft={"updates": 9}, save_every_batches=3)
    assert found(run, manifest_of(0), manifest_of(1)) == [("config", "dmd.shift", "5.0", "3.0")]


def test_the_seed_counts_beside_one_run_only():
    assert found(manifest_of(1), manifest_of(0)) == [("config", "seed", "1", "0")]


def test_data_packages_and_machine():
    run = manifest_of(0) | {"inputs": {"data": "e" * 64}, "packages": {"torch": "2.8.0"}, "device": "another"}
    assert found(run, manifest_of(0)) == [
        ("data", "data", "e" * 12, "d" * 12),
        ("package", "torch", "2.8.0", "2.7.0"),
        ("machine", "device", "another", "a processor"),
    ]


def test_weights_of_another_seed_are_no_difference_and_other_weights_of_the_same_seed_are():
    def manifest(seed, init):
        return manifest_of(seed) | {"inputs": {"data": "d" * 64, "init": init}}

    reference = [manifest(0, "0" * 64), manifest(1, "1" * 64)]
    assert found(manifest(7, "7" * 64), *reference) == []
    assert found(manifest(1, "7" * 64), *reference) == [("data", "init", "7" * 12, "1" * 12)]
    shared = [manifest(0, "0" * 64), manifest(1, "0" * 64)]
    assert found(manifest(7, "7" * 64), *shared) == [("data", "init", "7" * 12, "0" * 12)]


@pytest.fixture
def repository(tmp_path):
    """Two commits that differ in one file of the code and one outside."""

    def git(*words):
        done = subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    git("init")
    commits = []
    (tmp_path / "harness").mkdir()
    for text in ("1", "2"):
        for file in ("harness/method.py", "README.md"):
            (tmp_path / file).write_text(text)
        (tmp_path / "harness/other.py").write_text("")
        git("add", ".")
        git("commit", "-m", text)
        commits.append(git("rev-parse", "HEAD"))
    return tmp_path, commits


def test_commits_are_compared_by_their_code(repository):
    root, (old, new) = repository

    def manifest(commit, patch=None):
        return manifest_of(0) | {"git": {"commit": commit, "dirty": patch is not None, "diff_sha256": patch}}

    assert changed_files(root, old, new) == ["harness/method.py"]
    assert changed_files(root, old, None) is changed_files(root, old, "0" * 40) is None
    facts = differences(manifest(new), [manifest(old)], root)
    assert facts == (
        Fact("code", "commit", new[:12], old[:12]),
        Fact("code", "harness/method.py", "differs between the commits", ""),
    )
    unknown = differences(manifest("0" * 40), [manifest(old)], root)
    assert [fact.key for fact in unknown] == ["commit"]
    (edits,) = differences(manifest(old, "p" * 64), [manifest(old)], root)
    assert (edits.key, edits.run, edits.reference) == (
        "edits after the commit",
        "some (patch pppppppppppp, see diff.patch)",
        "none",
    )
