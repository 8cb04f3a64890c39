"""The command line of training: what it says and costs. Training itself is tested in tests/training."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config.load import resolve_file
from harness.io import read_json
from harness.train import main, parse
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.run_store import held, run_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose only run is finished already; the folder is the working directory."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data/encoded").mkdir(parents=True)
    (tmp_path / "run.yaml").write_text("preset: smoke\nmethod: sft\nseed: 0\ninit: {kind: random}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish(project):
    config = resolve_file("run.yaml")
    folder = run_folder(project, fingerprint(config, input_digests(config, project)))
    (folder.output / "checkpoints/model").mkdir(parents=True)
    (folder.output / "history.csv").write_text("batch\n")
    folder.finish({"fingerprint": "f"})
    return folder


def test_a_finished_run_is_given_out_without_torch(project):
    finish(project)
    script = (
        "import sys; sys.argv = ['train.py', 'run.yaml'];"
        f"sys.path[0] = {str(ROOT)!r}; from harness.train import main; code = main();"
        "heavy = {'torch', 'composer', 'numpy', 'diffusers', 'streaming'} & set(sys.modules);"
        "print(heavy); sys.exit(code or bool(heavy))"
    )
    begin = time.process_time(), os.times().children_user
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.times().children_user - begin[1] < 1.5
    manifest = read_json("runs/run/manifest.json")
    assert (manifest["target"], manifest["ad_hoc"]) == ("run", True)
    assert manifest["command"] == "composer harness/train.py run.yaml"


def test_started_as_a_script_from_anywhere(project):
    finish(project)
    done = subprocess.run(
        [sys.executable, ROOT / "harness/train.py", "run.yaml", "--name", "other"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path("runs/other/history.csv").is_file()
    assert Path("runs/other/checkpoints/model").is_dir()


def test_a_second_process_exits_with_2_and_the_name_of_the_first(project, capsys):
    folder = finish(project)
    with held(folder, wait=False, what="run"):
        assert main(["run.yaml"]) == 2
    message = capsys.readouterr().err
    assert f"being trained by process {os.getpid()}" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "techer"], '"techer" names no run'),
        (["run.yaml", "sft.updates=0"], "sft.updates"),
        (["run.yaml", "sft.updaets=3"], "did you mean"),
        (["missing.yaml"], "missing.yaml"),
        (["run.yaml", "init.kind=teacher"], "run `dvc repro teacher`"),
    ],
)
def test_mistakes_are_told_without_a_traceback(project, capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["run.yaml", "--target", "teacher"]])
def test_one_run_at_a_time(project, capsys, words):
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2
    assert "either --target or a configuration file" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(project, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.train.run", interrupt)
    assert main(["run.yaml"]) == 130
    assert "goes on from the last saved state" in capsys.readouterr().err


def test_options_may_stand_between_the_file_and_the_settings():
    arguments = parse(["run.yaml", "--name", "other", "dmd.cfg_scale=2", "seed=1"])
    assert (arguments.config, arguments.name) == ("run.yaml", "other")
    assert arguments.overrides == ["dmd.cfg_scale=2", "seed=1"]
