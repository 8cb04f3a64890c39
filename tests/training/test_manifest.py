import subprocess

import pytest

from harness.training.manifest import build_manifest, code_diff, git_state, package_versions, surroundings


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness/a.py").write_text("a = 1\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/x").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    return tmp_path


def test_commit_and_what_differs_from_it_in_the_code(repository):
    clean = git_state(repository)
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], clean["diff_sha256"]) == (False, None)
    (repository / "results/x").write_text("2")  # results change while the pipeline runs
    assert git_state(repository) == clean
    (repository / "harness/a.py").write_text("a = 2\n")
    assert git_state(repository)["dirty"] is True
    assert len(git_state(repository)["diff_sha256"]) == 64


def test_the_saved_difference_rebuilds_what_ran(repository, tmp_path_factory):
    (repository / "harness/a.py").write_text("a = 2\n")
    (repository / "harness/new.py").write_text("b = 3\n")
    (repository / "experiments/x").mkdir(parents=True)
    (repository / "experiments/x/experiment.yaml").write_text("name: x\n")
    (repository / "results/x").write_text("2")
    patch = code_diff(repository)
    other = tmp_path_factory.mktemp("other")
    subprocess.run(["git", "clone", "-q", repository, other], check=True)
    subprocess.run(["git", "-C", other, "apply"], input=patch, check=True)
    for name in ("harness/a.py", "harness/new.py", "experiments/x/experiment.yaml"):
        assert (other / name).read_text() == (repository / name).read_text()
    assert (other / "results/x").read_text() == "1"


def test_without_a_repository(tmp_path):
    assert code_diff(tmp_path) == b""
    assert git_state(tmp_path) == {"commit": None, "dirty": None, "diff_sha256": None}
    assert surroundings(tmp_path)["lock_sha256"] is None


def test_holds_what_it_is_given():
    manifest = build_manifest(
        fingerprint="f", config={"a": 1}, inputs={}, parents=[], surroundings={"git": {}}, measured={"device": "d"}
    )
    assert manifest["schema"] == 1
    assert manifest.keys() == {"schema", "fingerprint", "config", "inputs", "parents", "git", "device"}
    assert package_versions()["torch"].startswith("2.")
