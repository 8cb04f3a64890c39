import subprocess
import sys

import pytest
from made_up_runs import write_run

from harness.cli import main as harness
from harness.reference.compare_to import compare_to, main, report


def say(capsys, *words):
    """Status and text of `compare`."""
    status = main(words)
    return status, capsys.readouterr().out


def raised(row):
    if row["phase"] == "generator" and row["update"] > 20:
        row["lag"] += 2.0


def test_a_run_like_the_others(arm, capsys):
    write_run(arm / "runs/mine", seed=7)
    status, text = say(capsys, "mine", "--to", "experiments/x/a")
    assert status == 0
    assert text.splitlines()[:2] == [
        "runs/mine against results/x/a/seed0, seed1, seed2",
        "LIKE THE REFERENCE: all 6 signals stay in their bands",
    ]
    assert "No run of the reference has seed 7" in text
    assert "Settings, data, code, packages and machine are the same" in text


def test_which_signal_leaves_and_where_and_what_differs(arm, capsys):
    write_run(arm / "runs/mine", seed=7, change=raised, dmd={"shift": 3.0, "cfg_scale": 3.0})
    status, text = say(capsys, "mine", "--to", "x/a")
    assert status == 1
    assert "DIFFERENT: 1 of 6 signals leave the band, generator/lag first, at generator update 21–22 (batch 42)" in text
    assert "10 of 20" in text
    assert ["config", "dmd.cfg_scale", "3.0", "2.0"] in [line.split() for line in text.splitlines()]


def test_a_replay_is_told_from_a_run_of_other_code(arm, capsys):
    write_run(arm / "runs/again", seed=1)
    status, text = say(capsys, "again", "--to", "x/a")
    assert status == 0
    assert "THE SAME: every bit of" in text
    assert "results/x/a/seed1" in text

    def a_little(row):
        if row["phase"] == "critic" and row["critic_update"] >= 9:
            row["loss"] = row["critic_loss"] = row["loss"] * 1.05  # far inside the band

    write_run(arm / "runs/other", seed=1, change=a_little)
    status, text = say(capsys, "other", "--to", "x/a")
    assert status == 1
    assert "DIFFERENT: parts from results/x/a/seed1 at batch 17, in critic/" in text
    assert "first other bit: batch 17, critic/" in text
    assert "rounding does not grow 100 times from row to row" in text


def test_rounding_is_no_difference(arm, capsys):
    def rounded(row):
        for key in ("loss", "critic_loss", "lag"):
            if row[key] != "":
                row[key] *= 1 + 1e-7 * 1.2 ** row["batch"]

    write_run(arm / "runs/elsewhere", seed=1, change=rounded)
    status, text = say(capsys, "elsewhere", "--to", "x/a/seed1")
    assert "as rounding does on another machine" in text
    assert "A REPLAY" in text
    assert status == 0
    status, text = say(capsys, "elsewhere", "--to", "x/a")
    assert "LIKE THE REFERENCE" in text
    assert status == 0

    write_run(arm / "runs/short", seed=1, updates=15, change=rounded)
    status, text = say(capsys, "short", "--to", "x/a/seed1")
    assert "THE SAME up to rounding" in text
    assert "never further apart than 1% of a signal's size: rounding" in text
    assert status == 0


def test_other_processes_make_other_draws(arm):
    write_run(arm / "runs/mine", seed=1)
    path = arm / "runs/mine/manifest.json"
    path.write_text(path.read_text().replace('"world_size": 1', '"world_size": 2'))
    assert compare_to("mine", "x/a").twin is None
    assert compare_to("mine", "x/a/seed1").twin is not None


def test_a_run_is_not_held_against_itself(arm, capsys):
    found = compare_to("x/a/seed1", "x/a")
    assert [run.name for run in found.reference] == ["results/x/a/seed0", "results/x/a/seed2"]
    assert found.twin is None
    assert not found.differs
    assert harness(["compare", "x/a/seed1", "--to", "x/a/seed1"]) == 2
    assert "are the same folder" in capsys.readouterr().err


def test_two_runs(arm, capsys):
    status, text = say(capsys, "x/a/seed1", "--to", "x/a/seed0")
    assert status == 1
    assert "DIFFERENT: parts from results/x/a/seed0 at batch 1" in text
    assert ["config", "seed", "1", "0"] in [line.split() for line in text.splitlines()]
    assert "Band" not in text


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(arm, capsys):
    write_run(arm / "runs/mine", seed=7, updates=12, manifest=False)
    status, text = say(capsys, "runs/mine", "--to", "x/a")
    assert status == 0
    assert "compared up to generator update 12 of the reference's 40" in text
    assert "No manifest yet" in text


def test_signals_that_one_side_lacks(arm):
    def without(row):
        row["new"] = 1.0
        del row["lag"]

    write_run(arm / "runs/mine", seed=7, change=without)
    text = report(compare_to("mine", "x/a"))
    assert "not in this run, so not compared: generator/lag" in text
    assert "not in the reference, so not compared: critic/new, generator/new" in text


def only(folder, keep):
    """Leave the rows of the history that `keep` says."""
    path = folder / "history.csv"
    head, *lines = path.read_text().splitlines()
    rows = [dict(zip(head.split(","), line.split(","))) for line in lines]
    path.write_text("".join(f"{line}\n" for line in [head, *(x for x, row in zip(lines, rows) if keep(row))]))


@pytest.mark.parametrize("reference", ["x/a", "x/a/seed1"])
@pytest.mark.parametrize(("lacks", "begins"), [("critic", 1), ("generator", 2)])
def test_a_network_that_was_never_updated(arm, capsys, reference, lacks, begins):
    only(write_run(arm / "runs/mine", seed=1), lambda row: row["phase"] != lacks)
    status, text = say(capsys, "mine", "--to", reference)
    assert status == 1
    assert f"DIFFERENT: the run has no {lacks} rows (the reference: from batch {begins})" in text


@pytest.mark.parametrize("reference", ["x/a", "x/a/seed1"])
def test_a_network_whose_turn_has_not_come(arm, capsys, reference):
    for seed in range(3):
        only(arm / f"results/x/a/seed{seed}", lambda row: row["phase"] == "critic" or int(row["batch"]) > 20)
    run = write_run(arm / "runs/mine", seed=1, updates=10, manifest=False)
    only(run, lambda row: row["phase"] == "critic")
    (run / "quality.csv").unlink()
    assert say(capsys, "mine", "--to", reference)[0] == 0
    only(write_run(run, seed=1, updates=11, manifest=False), lambda row: row["phase"] == "critic")
    (run / "quality.csv").unlink()
    assert say(capsys, "mine", "--to", reference)[0] == 0  # ends at batch 21, the generator begins at 22
    only(write_run(run, seed=1, updates=12, manifest=False), lambda row: row["phase"] == "critic")
    (run / "quality.csv").unlink()
    status, text = say(capsys, "mine", "--to", reference)
    assert status == 1
    assert "no generator rows (the reference: from batch 22)" in text


@pytest.mark.parametrize("reference", ["x/a", "x/a/seed1"])
def test_nothing_compared_is_not_the_same(arm, capsys, reference):
    run = write_run(arm / "runs/mine", seed=1)
    (run / "quality.csv").unlink()
    only(run, lambda row: int(row["batch"]) > 40)
    for seed in range(3):
        only(arm / f"results/x/a/seed{seed}", lambda row: int(row["batch"]) <= 40)
    status, text = say(capsys, "mine", "--to", reference)
    assert status == 1
    assert "DIFFERENT: nothing could be compared" in text


def test_runs_of_other_methods_do_not_compare(arm, capsys):
    (arm / "runs/sft").mkdir(parents=True)
    (arm / "runs/sft/history.csv").write_text("batch,update,critic_update,phase,error\n1,1,0,generator,0.5\n")
    assert harness(["compare", "sft", "--to", "x/a"]) == 2
    assert "no signal in common with x/a" in capsys.readouterr().err


def test_without_a_reference_it_is_the_comparison_of_an_experiment(monkeypatch):
    called = []
    monkeypatch.setattr("harness.comparison.compare.main", called.append)
    assert harness(["compare", "two_stage_vs_one_stage"]) == 0
    assert called == ["two_stage_vs_one_stage"]


def test_it_is_instant():
    script = (
        "import sys; import harness.reference.compare_to, harness.comparison.compare;"
        "sys.exit(bool({'torch', 'composer', 'streaming', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
