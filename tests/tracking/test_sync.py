import subprocess
import sys

import pytest
from small_project import EXPERIMENT

from harness.errors import HarnessError
from harness.tracking import background, sync
from harness.tracking.requests import finished_train_request
from harness.tracking.store import HOME, STILL_MIRRORED, put

TARGET = f"{EXPERIMENT}/first/seed0"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(sync, "PAUSE", 0.01)


@pytest.fixture
def stand_in(monkeypatch):
    """`stand_in(code)`: the uploading process is a Python program instead; `entry` is the folder of the run."""

    def start(code):
        def run(entry, *arguments, stdin, environment):
            assert environment["WANDB_MODE"] == "online"
            program = f"import pathlib, sys, time; entry = pathlib.Path({str(entry.folder)!r}); {code}"
            return subprocess.Popen([sys.executable, "-c", program], stdin=stdin, start_new_session=True)

        monkeypatch.setattr(background, "start", run)

    return start


def test_only_a_note_that_the_server_has_it_counts(project, stand_in, capsys):
    stand_in("pass")
    assert sync.sync([TARGET], project, attempts=1) == 1
    told = capsys.readouterr().out
    assert "ended with status 0" in told
    assert "2 of 2 not uploaded" in told
    stand_in("""(entry / "status.json").write_text(chr(123) + '"state": "uploaded"' + chr(125))""")
    assert sync.sync([TARGET], project, attempts=1) == 0
    assert capsys.readouterr().out.count("uploaded and checked") == 2
    stand_in("raise SystemExit(1)")  # an earlier note is not enough
    assert sync.sync([TARGET], project, attempts=1) == 1


def test_it_tries_again(project, stand_in):
    entry = put(finished_train_request(TARGET, project), project / HOME)
    stand_in(
        "log = entry / 'tries'; n = len(log.read_text()) if log.exists() else 0; log.write_text('x' * (n + 1)); "
        """(entry / "status.json").write_text('{"state": "%s"}' % ("uploaded" if n == 2 else "failed"))"""
    )
    assert sync.upload(entry, attempts=2, timeout=60) is not None
    assert (entry.folder / "tries").read_text() == "xx"
    assert sync.upload(entry, attempts=2, timeout=60) is None
    assert (entry.folder / "tries").read_text() == "xxx"


def test_no_answer(project, stand_in):
    entry = put(finished_train_request(TARGET, project), project / HOME)
    stand_in("time.sleep(60)")
    assert sync.upload(entry, attempts=1, timeout=0.2) == "no answer in 0.2 s"


def test_a_live_run_is_reported_as_such(project, stand_in, capsys):
    entry = put(finished_train_request(TARGET, project), project / HOME)
    entry.note("running")
    before = entry.status()
    stand_in(f"(entry / 'tries').open('a').write('x'); raise SystemExit({STILL_MIRRORED})")
    assert sync.sync([TARGET], project, attempts=3) == 1
    told = capsys.readouterr().out
    assert f"train     {TARGET}: is still being mirrored\n" in told
    assert "2 of 2 still being mirrored" in told
    assert "not uploaded" not in told
    assert (entry.folder / "tries").read_text() == "x"
    assert entry.status() == before


def test_nothing_to_upload(tmp_path, capsys):
    assert sync.sync([], tmp_path) == 0
    assert "nothing to upload" in capsys.readouterr().out
    with pytest.raises(HarnessError, match="nothing yet"):
        sync.sync(["teacher"], tmp_path)


def keep_one(project):
    """Leave one training run, so that the real upload is quick."""
    (project / "results" / TARGET / "cards.json").unlink()
    return finished_train_request(TARGET, project).id


def test_a_real_upload(project, server, capsys):
    id = keep_one(project)
    assert sync.sync([TARGET], project, attempts=1, timeout=120) == 0, capsys.readouterr().out
    there = server.state.runs[id]
    assert [row["_step"] for row in there.history] == [0, 1, 2, 3]
    assert there.summary["quality/fvd"] == 7
    assert there.finished


@pytest.mark.slow
def test_what_is_there_is_not_sent_again(project, server):
    id = keep_one(project)
    assert sync.sync([TARGET], project, attempts=1) == 0
    del server.state.operations[:]
    assert sync.sync([TARGET], project, attempts=1) == 0
    assert "UpsertBucket" not in server.state.operations
    server.state.runs.clear()  # deleted at W&B
    assert sync.sync([TARGET], project, attempts=1) == 0
    assert len(server.state.runs[id].history) == 4
    table = project / "results" / TARGET / "history.csv"
    table.write_text(table.read_text() + "4,critic,0.0625\n")
    assert sync.sync([TARGET], project, attempts=1) == 0
    assert [row["_step"] for row in server.state.runs[id].history] == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [("swallow", "history: 0 of"), ("quota", "files: "), ("error", "500"), ("hang", "")],
)
def test_an_upload_that_did_not_happen_is_found_out(project, server, fault, told, capsys):
    server.state.fault = fault
    assert sync.sync([f"{EXPERIMENT}/second/seed0"], project, attempts=1, timeout=100) == 1
    said = capsys.readouterr().out
    assert told in said
    assert "not uploaded" in said
    server.state.fault = None
    server.state.released.set()
    well = sync.sync([f"{EXPERIMENT}/second/seed0"], project)  # with retries: a loaded machine may need one
    assert well == 0, capsys.readouterr().out


@pytest.mark.slow
def test_without_a_key(project, server, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", "/dev/null")
    keep_one(project)
    assert sync.sync([TARGET], project, attempts=1) == 1
    assert "api" in capsys.readouterr().out.lower()
