import pytest
from small_project import EXPERIMENT

from harness import cli
from harness.tracking import sync, verbs
from harness.tracking.requests import compare_request, finished_train_request
from harness.tracking.store import HOME, put


def test_status(project, capsys):
    assert verbs.main(["status"]) == 0
    put(finished_train_request(f"{EXPERIMENT}/first/seed0", project), project / HOME).note("offline", steps=4)
    assert verbs.main(["status"]) == 0
    entry = put(compare_request(EXPERIMENT, project), project / HOME)
    entry.note("failed", error="quota exceeded")
    assert verbs.main(["status"]) == 1
    said = capsys.readouterr().out
    assert f"offline   train     {EXPERIMENT}/first/seed0" in said
    assert "4 steps" in said
    assert "quota exceeded" in said


def test_sync_gets_what_was_typed(project, monkeypatch):
    got = []
    monkeypatch.setattr(sync, "sync", lambda *words, **options: got.append((words, options)) or 1)
    assert cli.main(["wandb", "sync", "teacher", "x", "--attempts", "2", "--timeout", "9"]) == 1
    ((words, options),) = got
    assert words[0] == ["teacher", "x"]
    assert options == {"attempts": 2, "timeout": 9.0}


def test_an_unknown_target_is_a_message(project, capsys):
    assert cli.main(["wandb", "sync", "nope"]) == 2
    assert "nope: there is nothing of it to upload" in capsys.readouterr().err
    assert cli.main(["wandb", "report", "nope"]) == 2
    assert "comparison.json: missing" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--help"], ["sync", "--help"], ["nope"]])
def test_help(words):
    with pytest.raises(SystemExit):
        verbs.main(words)
