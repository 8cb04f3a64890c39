import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config.documents import dump_yaml
from harness.errors import HarnessError
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
