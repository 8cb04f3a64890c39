import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.planning import doctor
from harness.planning.doctor import (
    CHECKS,
    Aside,
    Finding,
    check_disk,
    check_git,
    check_launcher,
    check_packages,
    check_parameters,
    check_python,
    check_shared_memory,
    check_wandb,
    devices,
    examine,
    page,
    pipeline,
    run_check,
)

ROOT = Path(__file__).resolve().parents[2]
PROJECT = '[project]\nrequires-python = ">=3.11"\ndependencies = ["attrs>=20", "numpy"]\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "requirements.lock").write_text("no-such-package==1.0 \\\n    --hash=sha256:0\n")
    return tmp_path


def only(findings):
    (found,) = list(findings)
    return found


def test_versions(folder):
    assert only(check_python(folder)).status == "ok"
    assert [found.status for found in check_packages(folder)] == ["ok", "ok"]
    (folder / "pyproject.toml").write_text(PROJECT.replace(">=3.11", "<3.0").replace(">=20", ">=9999"))
    assert only(check_python(folder)).status == "problem"
    (folder / "requirements.lock").write_text("attrs==0.0.1 \\\n")
    packages, lock = check_packages(folder)
    assert (packages.status, lock.status) == ("problem", "warning")
    assert "attrs" in packages.text
    assert "pinned 0.0.1" in lock.text
    (folder / "pyproject.toml").write_text(PROJECT.replace("numpy", "no-such-package"))
    assert "no-such-package is missing" in next(check_packages(folder)).text


def test_room(folder, monkeypatch):
    usage = type("Usage", (), {"free": 5 * 2**30})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert next(check_disk(folder)).status == "warning"
    assert only(check_shared_memory(folder, folder)).status == "ok"
    usage.free = 2**20
    assert next(check_disk(folder)).status == "problem"
    assert "--shm-size" in only(check_shared_memory(folder, folder)).remedy
    assert only(check_shared_memory(folder, folder / "none")).status == "skipped"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert "cannot be written" in next(check_disk(folder)).text


def test_the_key_is_never_shown(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    found = only(check_wandb(folder))
    assert (found.status, found.text) == ("problem", "online (WANDB_MODE), no key")
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    found = only(check_wandb(folder))
    assert (found.status, "s3cret" in str(found)) == ("ok", False)
    monkeypatch.delenv("WANDB_API_KEY")
    (folder / ".netrc").write_text("machine api.wandb.ai login user password s3cret\n")
    (folder / ".netrc").chmod(0o600)
    found = only(check_wandb(folder))
    assert (found.status, "s3cret" in str(found)) == ("ok", False)


def test_the_mode_is_the_one_that_runs_have(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert only(check_wandb(folder)).text == "offline (WANDB_MODE is not set), no key"
    (folder / ".netrc").write_text("machine api.wandb.ai login user password s3cret\n")
    (folder / ".netrc").chmod(0o600)
    assert only(check_wandb(folder)).text == (
        "offline (WANDB_MODE is not set), a key is there: the one in netrc is used with WANDB_MODE=online, or by "
        "`wandb sync`"
    )
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    assert only(check_wandb(folder)).text == "online (WANDB_MODE is not set), a key is there"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert only(check_wandb(folder)).text == "offline (WANDB_MODE), a key is there"


def test_git(folder):
    assert "no checkout" in only(check_git(folder)).text
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    assert only(check_git(folder)).text == "2 changed files"
    (folder / ".git/info/exclude").write_text("*\n")
    assert only(check_git(folder)).status == "ok"


def test_launcher(folder, monkeypatch):
    monkeypatch.setattr(doctor.sys, "executable", str(folder / "python"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert only(check_launcher(folder)).status == "problem"
    (folder / "composer").touch()
    assert only(check_launcher(folder)).status == "warning"


def test_parameters(folder):
    assert "wan2_1-t2v-14b" in only(check_parameters(ROOT)).text
    (folder / "params.yaml").write_text("preset: none\n")
    found = only(run_check("params.yaml", check_parameters, folder))
    assert found.status == "problem"
    assert "params.yaml" in found.text


def test_what_torch_and_dvc_say(folder, monkeypatch):
    answer = {"torch": "2", "built_for": "12.6", "gpus": [["H100", 80 * 2**30]], "bf16": True}
    assert "1: H100 (80 GiB)" in only(devices(answer, folder)).text
    assert only(devices({**answer, "bf16": False}, folder)).status == "warning"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/bin/nvidia-smi")
    assert only(devices({**answer, "gpus": []}, folder)).status == "warning"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert only(devices({**answer, "gpus": []}, folder)).status == "ok"
    assert only(pipeline({}, folder)).status == "ok"
    found = only(
        pipeline({"train": ["changed command", {"changed outs": {"model": "deleted", "log": "modified"}}]}, folder)
    )
    assert found.status == "warning"
    assert "1 stages" in found.text
    assert "1 outputs are not here (model)" in found.text


def aside(code, read=pipeline):
    return Aside("aside", (sys.executable, "-c", code), read, "do this")


def test_every_check_is_on_its_own(folder, monkeypatch):
    def fails(root):
        raise RuntimeError("boom")
        yield

    def refuses(root):
        raise HarnessError("x.yaml: wrong")
        yield

    asides = (
        aside("print('noise'); print('{}')"),
        aside("print('{}'); raise SystemExit('broken')"),
        aside("print('no json')"),
        aside("print('{\"gpus\": 1}')", devices),
        Aside("aside", ("/no/such/program",), pipeline, ""),
    )
    monkeypatch.setattr(doctor, "ASIDE", asides)
    found = examine(folder, checks={"a": fails, "b": refuses, "c": lambda root: [Finding("ok", "c", "fine")]})
    assert [f.status for f in found] == ["warning", "problem", "ok", "ok", "warning", "warning", "warning", "warning"]
    assert "RuntimeError: boom" in found[0].text
    assert "broken" in found[4].text
    assert found[4].remedy == "do this"


def test_no_answer_is_a_problem_where_there_has_to_be_one(folder, monkeypatch):
    broken = (sys.executable, "-c", "raise SystemExit('dvc.lock is corrupted')")
    monkeypatch.setattr(doctor, "ASIDE", (Aside("DVC", broken, pipeline, "do this", beside=("here", "there")),))
    (folder / "here").touch()
    assert only(examine(folder, checks={})).status == "warning"
    (folder / "there").touch()
    found = only(examine(folder, checks={}))
    assert (found.status, found.remedy) == ("problem", "do this")
    assert "dvc.lock is corrupted" in found.text


def test_nobody_is_waited_for_too_long(folder, monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE", 0.1)
    monkeypatch.setattr(doctor, "ASIDE", (aside("import time; time.sleep(60)"),))
    started = time.monotonic()
    assert only(examine(folder, checks={})).status == "skipped"
    assert time.monotonic() - started < 20


def test_nothing_is_there(tmp_path):
    found = [f for name, check in CHECKS.items() for f in run_check(name, check, tmp_path)]
    assert {f.name for f in found} >= {"Python", "packages", "git", "params.yaml"}


def test_the_page_and_the_status(monkeypatch, capsys):
    findings = [Finding("ok", "a", "fine"), Finding("problem", "bcd", "bad", "mend it")]
    assert page(findings) == "ok       a    fine\nproblem  bcd  bad\n              → mend it\n1 problems, 0 warnings\n"
    monkeypatch.setattr(doctor, "examine", lambda root, quick: findings if quick else findings[:1])
    assert doctor.main([]) == 0
    assert doctor.main(["--quick"]) == 1
    assert "mend it" in capsys.readouterr().out


def test_quick_says_what_it_left_out(folder, monkeypatch):
    found = examine(folder, quick=True, checks={})
    assert [(f.status, f.name) for f in found] == [("skipped", "GPUs"), ("skipped", "DVC")]
    answer = subprocess.run(doctor.ASIDE[0].command, capture_output=True, text=True, timeout=120)
    assert json.loads(answer.stdout.splitlines()[-1])["torch"]
