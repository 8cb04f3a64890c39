import numpy as np
import pytest
from made_up_runs import series, write_run

from harness.errors import HarnessError
from harness.reference.signals import read_run, without_repeated_loss, worth_an_alarm


def test_rows_are_split_by_the_network_they_updated(tmp_path):
    run = read_run(write_run(tmp_path, updates=4), "r")
    assert set(run.signals) == {
        *("critic/loss", "critic/lr", "critic/critic_loss", "generator/loss", "generator/lr", "generator/lag"),
        "quality/fvd",
    }
    lag = run.signals["generator/lag"]
    assert lag.clock.tolist() == [1, 2, 3, 4]
    assert lag.batch.tolist() == [2, 4, 6, 8]
    assert run.signals["critic/lr"].batch.tolist() == [1, 3, 5, 7]
    assert run.seed == 0


def test_a_row_that_is_being_written_does_not_count(tmp_path):
    write_run(tmp_path, updates=4, manifest=False)
    path = tmp_path / "history.csv"
    path.write_text(path.read_text() + "9,4,5,critic,0.")
    run = read_run(tmp_path, "r")
    assert run.signals["critic/loss"].clock.tolist() == [1, 2, 3, 4]
    assert run.manifest == {}
    assert run.seed is None


def test_values_that_are_no_numbers_stay_in_sight(tmp_path):
    def spoil(row):
        if row["batch"] == 6:
            row["lag"] = "nan"

    run = read_run(write_run(tmp_path, updates=4, change=spoil), "r")
    assert np.isnan(run.signals["generator/lag"].value).tolist() == [False, False, True, False]


def test_damage_is_named(tmp_path):
    with pytest.raises(HarnessError, match=r"history\.csv: no such file"):
        read_run(tmp_path, "r")
    (tmp_path / "history.csv").write_text("batch,phase\n")
    with pytest.raises(HarnessError, match="no rows yet"):
        read_run(tmp_path, "r")
    (tmp_path / "history.csv").write_text("batch,phase,loss\n1,critic,0.5\n")
    with pytest.raises(HarnessError, match="is damaged"):
        read_run(tmp_path, "r")


def test_only_a_loss_that_says_nothing_new_is_left_out():
    a, b = [series([1, 2])], [series([1, 3])]
    assert set(without_repeated_loss({"critic/loss": a, "critic/critic_loss": a})) == {"critic/critic_loss"}
    assert len(without_repeated_loss({"critic/loss": a, "critic/critic_loss": b})) == 2
    assert len(without_repeated_loss({"critic/loss": a, "generator/critic_loss": a})) == 2
    assert len(without_repeated_loss({"quality/recall": a, "quality/precision": a})) == 2


def test_a_metric_that_is_not_worth_a_claim_is_not_worth_an_alarm():
    assert worth_an_alarm("quality/recall") == 0.02
    assert worth_an_alarm("quality/unknown") == worth_an_alarm("generator/recall") == 0.0
