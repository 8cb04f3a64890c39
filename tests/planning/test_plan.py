import os
import shutil
from pathlib import Path

import pytest

from harness.config.load import load_params
from harness.errors import HarnessError
from harness.planning import plan
from harness.planning.plan import duration, main, parse_device, parse_memory, size, teraflops

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
ROOT = PARAMS.parent
SHIPPED = list(load_params(PARAMS).raw["presets"])


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def arms():
    from harness.config.documents import read_yaml

    for file in sorted(ROOT.glob("experiments/*/experiment.yaml")):
        yield from (f"{file.parent.name}/{arm}/seed0" for arm in read_yaml(file)["arms"])


def test_units():
    assert (parse_memory("80GB"), parse_memory("1.5 GiB"), parse_memory("512MB")) == (80 * 2**30, 3 * 2**29, 2**29)
    assert (parse_device("H100"), parse_device("1.5")) == (989.0, 1.5)
    assert (size(3 * 2**30), size(2**20)) == ("3.0 GiB", "1.0 MiB")
    assert (duration(90), duration(7200), duration(3 * 86400)) == ("90.0 seconds", "2.0 hours", "3.0 days")
    assert (teraflops(2e15), teraflops(3e9)) == ("2.0 PFLOP", "3.00 GFLOP")
    for wrong in ("80 apples", "80", "-1GB", "0GB", ""):
        with pytest.raises(HarnessError, match="--memory"):
            parse_memory(wrong)
    for wrong in ("h1000", "-2", "nan"):
        with pytest.raises(HarnessError, match="--device"):
            parse_device(wrong)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name in ("tiny", "wan2_1-t2v-14b")])
def test_a_page(capsys, name):
    assert main([name, "--method", "sft", "--gpus", "8"]) == 0
    text = capsys.readouterr().out
    for part in ("generator: weights", "Adam moments", "EMA", "activations", "in all", "forwards a device", "time"):
        assert part in text
    assert "Verdict" not in text


def test_what_does_not_fit_and_what_would(capsys):
    assert main(["tiny", "--method", "sft", "--memory", "64MB"]) == 1
    text = capsys.readouterr().out
    assert "does not fit" in text
    assert "cheapest change  " in text
    change = next(line.split()[2] for line in text.splitlines() if line.startswith("  cheapest change"))
    assert main(["tiny", change, "--method", "sft", "--memory", "64MB"]) == 0
    assert "fits" in capsys.readouterr().out


def test_files_and_refusals(capsys):
    assert main(["configs/causal_sft.yaml", "causal_sft.updates=7", "--preset", "smoke"]) == 0
    assert "7 of the generator" in capsys.readouterr().out
    with pytest.raises(HarnessError, match="--gpus"):
        main(["tiny", "--gpus", "0"])
    with pytest.raises(HarnessError, match="does not divide"):
        main(["tiny", "--gpus", "7"])
    with pytest.raises(HarnessError, match="no meaning"):
        main(["tiny", "parallelism.shard_degree=1"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "causal_sft", "dmd"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_preset(capsys, name, method):
    gpus = "1" if name in ("tiny", "smoke") else "8"
    assert main([name, "--method", method, "--gpus", gpus]) == 0
    assert "in all" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("target", ["teacher", "causal_sft/seed0", *arms()])
def test_every_declared_target(capsys, target):
    assert main([target]) == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_every_preset_makes_a_scene(name):
    gpus = 1 if name in ("tiny", "smoke") else 8
    scene = plan.plan_scene(name, [], "dmd", world_size=gpus, teacher=None)
    assert scene.share > 0


def test_a_folder_without_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS, tmp_path)
    assert main(["smoke", "--method", "sft"]) == 0
    assert os.listdir(tmp_path) == [Path(PARAMS).name]
