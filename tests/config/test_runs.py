import shutil

import pytest

from harness.config.load import resolve_file, resolve_target, to_dict
from harness.config.runs import evaluation_folder, find_run, is_card_of, places, run_name, run_of_weights
from harness.errors import HarnessError
from harness.io import write_json


@pytest.fixture
def mine(project):
    """A finished ad hoc run with settings of its own."""
    config = resolve_file(project / "dmd.yaml", ["dmd.cfg_scale=7"], project / "params.yaml")
    write_json(project / "runs/mine/manifest.json", {"config": to_dict(config), "fingerprint": "f" * 64})
    return config


def test_a_target_is_configured_as_declared(project, mine):
    found = find_run("trial/two/seed0", project)
    assert found.config == resolve_target("trial/two/seed0", project)
    assert (str(found.checkpoints), str(found.results)) == ("checkpoints/trial/two/seed0", "results/trial/two/seed0")
    assert (found.evaluation, found.is_ad_hoc, found.fingerprint) == (found.results, False, None)


@pytest.mark.parametrize("word", ["mine", "runs/mine", "runs/mine/", "./runs/mine"])
def test_an_ad_hoc_run_is_configured_as_its_manifest_says(project, mine, word):
    found = find_run(word, project)
    assert (found.name, found.config, found.config.dmd.cfg_scale) == ("runs/mine", mine, 7)
    assert (str(found.checkpoints), str(found.results)) == ("runs/mine/checkpoints", "runs/mine")
    assert (str(found.evaluation), found.is_ad_hoc, found.fingerprint) == ("runs/mine/evaluation", True, "f" * 64)
    shutil.copytree(project / "runs/mine", project / "runs/other")
    (project / "params.yaml").unlink()  # it needs no declaration
    assert find_run("other", project).config == mine


def test_a_target_comes_before_a_run_of_its_name(project, mine):
    shutil.copytree(project / "runs/mine", project / "runs/teacher")
    assert find_run("teacher", project).config == resolve_target("teacher", project)
    assert find_run("runs/teacher", project).config == mine


def test_no_such_run(project, mine):
    with pytest.raises(HarnessError, match=r"runs/min: no finished run there .*There are: runs/mine"):
        find_run("runs/min", project)
    with pytest.raises(HarnessError, match=r'"min" names no run: .*or an ad hoc run: runs/mine'):
        find_run("min", project)
    shutil.rmtree(project / "runs")
    with pytest.raises(HarnessError, match=r"none yet; `composer .* --name NAME` makes one"):
        find_run("mine", project)
    with pytest.raises(HarnessError, match="nowhere") as refused:
        find_run("nowhere/two/seed0", project)
    assert "ad hoc" not in str(refused.value)
    (project / "params.yaml").unlink()
    with pytest.raises(HarnessError, match=r"params\.yaml") as refused:
        find_run("teacher", project)
    assert "ad hoc" not in str(refused.value)
    with pytest.raises(HarnessError, match=r"^\"/elsewhere/run\" names no run"):
        find_run("/elsewhere/run", project)


def test_settings_of_another_version_are_named(project, mine):
    write_json(project / "runs/mine/manifest.json", {"config": to_dict(mine) | {"gone": 1}, "fingerprint": "f"})
    with pytest.raises(HarnessError, match=r"runs/mine/manifest\.json: config\.gone: (?s:.*)train it again"):
        find_run("mine", project)
    write_json(project / "runs/mine/manifest.json", {})
    with pytest.raises(HarnessError, match=r"runs/mine/manifest\.json: has no config, fingerprint"):
        find_run("mine", project)


def test_where_the_files_of_a_run_are(project, mine):
    for name in ("teacher", "trial/two/seed0", "runs/mine"):
        assert run_of_weights(project / places(name)[0] / "last", project) == name
        assert run_name(name, project) == name
    assert run_of_weights(project / "runs/mine/evaluation/model", project) is None
    assert run_of_weights(project / "elsewhere/runs/mine/checkpoints/model", project) is None
    assert evaluation_folder("runs/mine") != evaluation_folder("mine")


def test_whose_card_it_is():
    assert is_card_of({"run": "f"}, {"fingerprint": "f"})
    assert not is_card_of({"run": "of an earlier one"}, {"fingerprint": "f"})
    assert is_card_of({}, {"fingerprint": "f"})  # DVC keeps a declared run's card beside its manifest
