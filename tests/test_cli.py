import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import cli
from harness.cli import GROUPS, VERBS, Verb, main, run_verb
from harness.errors import HarnessError

ROOT = Path(__file__).resolve().parents[1]


def test_help_names_every_verb(capsys):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in VERBS)
        assert all(title in text for title in GROUPS)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from harness.cli import main; main([]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'dvc', 'matplotlib', 'composer')))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0, "a heavy module was imported"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_has_its_function(name):
    module, _, function = VERBS[name].entry.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{name}: {module} does not exist"
    assert f"\ndef {function}(" in Path(str(spec.origin)).read_text()


def test_an_unknown_verb_is_suggested(capsys):
    assert main(["evalute"]) == 2
    assert "did you mean `evaluate`?" in capsys.readouterr().err


def calls(monkeypatch, function, words=("target",)):
    module = type(sys)("stand_in")
    module.f = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    return Verb("stand_in:f", "a stand-in", words)


def test_words_are_parsed_here_and_other_verbs_get_the_rest(monkeypatch, capsys):
    seen = []
    assert run_verb("v", calls(monkeypatch, lambda target: seen.append(target)), ["a/b"]) == 0
    assert run_verb("v", calls(monkeypatch, lambda rest: seen.append(rest) or 3, None), ["a", "--b"]) == 3
    assert seen == ["a/b", ["a", "--b"]]
    with pytest.raises(SystemExit):
        run_verb("v", calls(monkeypatch, print), [])
    assert "usage: python -m harness v" in capsys.readouterr().err


def test_problems_are_one_message_and_status_2(monkeypatch, capsys):
    def wrong(target):
        raise HarnessError("f.yaml: key: wrong")

    assert run_verb("v", calls(monkeypatch, wrong), ["a"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: f.yaml: key: wrong\n")

    def interrupted(target):
        raise KeyboardInterrupt

    assert run_verb("v", calls(monkeypatch, interrupted), ["a"]) == 130


def test_what_nobody_foresaw_is_not_a_traceback_alone(monkeypatch, capsys):
    def broken(target):
        raise KeyError("compute")

    assert run_verb("v", calls(monkeypatch, broken), ["a"]) == 1
    text = capsys.readouterr().err
    assert "KeyError: 'compute'" in text
    assert text.endswith("where it happened\n")
    assert "`verify-data`" in text


def test_a_closed_pipe_is_quiet():
    shell = f"{sys.executable} -m harness explain configs/dmd.yaml | head -n 1"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "Run\n"
    assert done.stderr == ""


def test_a_python_without_the_packages_is_told_where_they_are():
    bare = [sys.executable, "-S", "-m", "harness", "--help"]  # -S: without site-packages
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "has no package attrs: run .venv/bin/python" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "harness", "explain", "tacher"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "names no run" in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.__doc__
