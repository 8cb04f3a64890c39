import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.config.documents import dump_yaml
from harness.errors import HarnessError
from harness.io import directory_digest
from harness.repro import check_declarations, clock, main, repro, short

WRITE = (
    'python -c "import pathlib, time; time.sleep({sleep}); '
    "pathlib.Path('{out}').write_text(open('{dep}').read() + '{out}')\""
)


def stage(out: str, *deps: str, sleep: float = 0.0, cmd: str | None = None) -> dict[str, object]:
    return {"cmd": cmd or WRITE.format(out=out, dep=deps[0], sleep=sleep), "deps": list(deps), "outs": [out]}


def write_pipeline(folder: Path, **stages: object) -> None:
    (folder / "dvc.yaml").write_text(dump_yaml({"stages": stages}))


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    (tmp_path / "source").write_text("s")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_brings_everything_up_to_date_in_order_and_then_does_nothing(project, capfd):
    write_pipeline(project, d=stage("d", "b", "c"), c=stage("c", "a"), b=stage("b", "a"), a=stage("a", "source"))
    assert repro((), jobs=2) == 4
    text = capfd.readouterr().out
    assert "4 of 4 stages to run" in text
    assert text.index("done   a") < text.index("start  b") < text.index("start  d")
    assert text.index("start  c") < text.index("done   b") or text.index("start  b") < text.index("done   c")
    assert (project / "d").read_text() == "sabd"
    assert (project / ".work/logs/a.log").is_file()
    assert main([]) == 0
    assert "nothing to run" in capfd.readouterr().out
    status = subprocess.run([sys.executable, "-m", "dvc", "status"], capture_output=True, text=True)
    assert "up to date" in status.stdout


def test_some_experiments_and_the_report(project, capfd):
    """The report shows the others as they were compared last."""
    for name in ("one", "two"):
        folder = project / "experiments" / name
        folder.mkdir(parents=True)
        (folder / "experiment.yaml").write_text("")
        compare = {**stage(f"comparisons/{name}", "a"), "wdir": "../.."}
        write_pipeline(folder, compare=compare)
    report = {"cmd": "cat comparisons/* > page", "deps": ["comparisons"], "outs": ["page"]}
    write_pipeline(project, a=stage("a", "source"), report=report)
    (project / "comparisons").mkdir()
    (project / "comparisons/two").write_text("older")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.repro.check_declarations", lambda: None)
        patch.setattr("harness.repro.print_verdicts", lambda: None)
        with pytest.raises(HarnessError, match="three: no such experiment; there are one, two"):
            main(["--experiments", "one", "three"])
        assert main(["--experiments", "one"]) == 0
        assert "3 of 3 stages to run" in capfd.readouterr().out
        assert (project / "page").read_text() == "sacomparisons/oneolder"
        assert main(["--experiments", "one"]) == 0
        assert "nothing to run" in capfd.readouterr().out
        assert main([]) == 0
        assert "sacomparisons/two" in (project / "page").read_text()


def test_a_failing_stage_stops_what_follows_and_shows_its_log(project, capfd):
    write_pipeline(
        project,
        a=stage("a", "source", cmd="echo 'a: the reason' >&2; exit 3"),
        b=stage("b", "a"),
        c=stage("c", "source", sleep=2.0),
    )
    with pytest.raises(HarnessError, match=r"failed: a; .*run the same command again"):
        repro((), jobs=2)
    text = capfd.readouterr().out
    assert "FAILED a" in text
    assert "| a: the reason" in text
    assert "done   c" in text
    assert not (project / "b").exists()


def test_a_signal_ends_the_stages_too_and_the_next_run_finishes(project):
    slow = "python -c \"import pathlib, time; pathlib.Path('begun').touch(); time.sleep(100)\""
    write_pipeline(project, a=stage("a", "source", cmd=slow))
    command = [sys.executable, "-c", "import sys; from harness.repro import main; sys.exit(main([]))"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not (project / "begun").exists():
        assert time.monotonic() < deadline
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    _, errors = launcher.communicate(timeout=40)
    assert launcher.returncode == 128 + signal.SIGTERM
    assert "stopped (SIGTERM)" in errors
    assert not [pid for pid in Path("/proc").iterdir() if pid.name.isdigit() and runs_in(pid, project)]
    write_pipeline(project, a=stage("a", "source"))
    assert repro((), jobs=1) == 1
    assert (project / "a").read_text() == "sa"


def runs_in(process: Path, folder: Path) -> bool:
    try:
        return process.name != str(os.getpid()) and (process / "cwd").resolve() == folder
    except OSError:
        return False


def test_a_broken_pipeline_and_a_bad_argument_are_explained(project):
    with pytest.raises(HarnessError, match="--jobs: expected at least 1"):
        main(["--jobs", "0"])
    write_pipeline(project, a=stage("a", "source"))
    with pytest.raises(HarnessError, match="DVC cannot read the pipeline"):
        main(["nowhere"])
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(HarnessError, match="DVC cannot read the pipeline"):
        main([])


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3725, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_short():
    assert short("experiments/x/dvc.yaml:train@a-0") == "x train@a-0"
    assert short("teacher") == "teacher"


def test_a_hidden_difference_between_arms_is_refused_before_anything_runs(tmp_path):
    root = Path(__file__).resolve().parents[1]
    for name in ("params.yaml", "experiments/two_stage_vs_one_stage/experiment.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((root / name).read_text())
    check_declarations(tmp_path)
    declaration = tmp_path / "experiments/two_stage_vs_one_stage/experiment.yaml"
    changed = declaration.read_text().replace("{init.kind: teacher}", "{init.kind: teacher, dmd.cfg_scale: 9}")
    declaration.write_text(changed)
    with pytest.raises(HarnessError, match="cfg_scale"):
        check_declarations(tmp_path)


ROOT = Path(__file__).resolve().parents[1]
CLOCKS = ("seconds", "device_seconds", "monitor_seconds")  # columns that say how long something took
KILLS = 6


def smoke_repro(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "harness", "repro", "--jobs", "2"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_all(folder: Path) -> None:
    """As when the machine loses power: everything that works in the folder is gone at once."""
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(folder):
            process.kill()


def timeless(path: Path) -> object:
    """A result file without what a clock says."""
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        return {key: manifest[key] for key in ("fingerprint", "target", "config", "inputs", "updates", "best")}
    return path.read_bytes()


def made(folder: Path) -> dict[str, object]:
    """All that a finished pipeline leaves, without clocks and without what is made of them."""
    results = {
        file.relative_to(folder).as_posix(): timeless(file)
        for file in sorted((folder / "results").rglob("*"))
        if file.is_file() and file.name != "timing.json"
    }
    comparisons = {}
    for file in sorted((folder / "comparisons").glob("*/comparison.json")):
        for h in json.loads(file.read_text())["hypotheses"]:
            comparisons[file.parent.name, h["name"]] = h["on"]["updates"]
    folders = [folder / "data", *(path for path in (folder / "checkpoints").rglob("model") if path.is_dir())]
    return {
        "results": results,
        "comparisons": comparisons,
        "weights": {path.relative_to(folder).as_posix(): directory_digest(path) for path in folders},
    }


@pytest.mark.slow
def test_the_pipeline_killed_anywhere_goes_on_and_ends_in_the_same_files(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        subprocess.run([ROOT / "scripts/smoke_copy.sh", folder], check=True)
    begun = time.monotonic()
    whole = smoke_repro(straight)
    text = whole.communicate()[0].decode()
    assert whole.returncode == 0, text
    took = time.monotonic() - begun
    moments = random.Random(0)
    kills = 0
    for _ in range(KILLS):
        process = smoke_repro(killed)
        time.sleep(moments.uniform(0.05, 0.3) * took)
        if process.poll() is not None:  # finished: the machine was busier when the other one was timed
            break
        kill_all(killed)
        process.wait()
        kills += 1
    assert kills >= KILLS // 2
    last = smoke_repro(killed)
    text = last.communicate()[0].decode()
    assert last.returncode == 0, text
    if not text.startswith("up to date"):
        stages = int(text.split(" stages to run")[0].rsplit(" of ", 1)[1])
        left = int(text.split(" of ")[0].rsplit(" ", 1)[1])
        assert left < stages, "it started over"
    expected, found = made(straight), made(killed)
    for kind in expected:
        assert found[kind].keys() == expected[kind].keys()
        assert [name for name in expected[kind] if found[kind][name] != expected[kind][name]] == []
    assert len(expected["weights"]) > 8
    assert expected["comparisons"]
