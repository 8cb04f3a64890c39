from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.training.request import Request


@pytest.mark.parametrize(
    ("target", "group", "name"),
    [
        ("teacher", "teacher", "teacher-s0"),
        ("causal_sft/seed2", "causal_sft", "causal_sft-s2"),
        ("e/a/seed1", "e", "a-s1"),
    ],
)
def test_declared(target, group, name):
    request = Request.declared(target, None)
    assert (request.group, request.name) == (group, name)
    assert request.checkpoints == Path("checkpoints") / target
    assert request.results == Path("results") / target
    assert request.own_manifest() == {
        "target": target,
        "ad_hoc": False,
        "command": f"python harness/train.py --target {target}",
    }


def test_ad_hoc(project, small_run):
    request = Request.ad_hoc("mine", small_run(project, "sft"), ["my file.yaml", "sft.updates=3"])
    assert request.results == Path("runs/mine")
    assert request.own_manifest()["ad_hoc"] is True
    assert request.command == "composer harness/train.py 'my file.yaml' sft.updates=3"


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden"])
def test_a_name_stays_in_its_folder(name):
    with pytest.raises(HarnessError, match="--name"):
        Request.ad_hoc(name, None, [])  # type: ignore[arg-type]
