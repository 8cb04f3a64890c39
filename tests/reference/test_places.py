import pytest
from made_up_runs import write_run

from harness.errors import HarnessError
from harness.reference.places import arms, reference_folders, run_folder, target_of


@pytest.mark.parametrize("word", ["x/a", "experiments/x/a", "results/x/a", "results/x/a/"])
def test_an_arm_by_any_name(arm, word):
    assert [folder.name for folder in reference_folders(word)] == ["seed0", "seed1", "seed2"]
    assert target_of(word) == "x/a"


@pytest.mark.parametrize("word", ["x/a/seed1", "results/x/a/seed1", "experiments/x/a/seed1"])
def test_one_run_by_any_name(arm, word):
    assert run_folder(word).as_posix() == "results/x/a/seed1"
    assert reference_folders(word) == [run_folder(word)]


def test_an_ad_hoc_run_by_its_name_and_any_folder(arm):
    write_run(arm / "runs/mine")
    assert run_folder("mine").as_posix() == "runs/mine"
    assert run_folder("runs/mine").as_posix() == "runs/mine"
    assert run_folder(str(arm / "runs/mine")) == arm / "runs/mine"


def test_seeds_come_in_their_order(arm):
    write_run(arm / "results/x/a/seed10")
    (arm / "results/x/a/seed3").mkdir()  # not trained yet
    (arm / "results/x/a/seedless").mkdir()
    assert [folder.name for folder in reference_folders("x/a")] == ["seed0", "seed1", "seed2", "seed10"]


def test_mistakes_name_what_there_is(arm):
    with pytest.raises(HarnessError, match=r"has several seeds; name one run, for example x/a/seed0"):
        run_folder("x/a")
    with pytest.raises(HarnessError, match=r"no history.csv in nope, results/nope, runs/nope"):
        run_folder("nope")
    with pytest.raises(HarnessError, match=r"--to x/b: no such reference. Arms with results: x/a"):
        reference_folders("x/b")
    assert arms(arm / "elsewhere") == []
