import csv
from types import SimpleNamespace

import pytest
import torch
from composer.core import Time

from harness.algorithms.updates import UpdateOrder
from harness.callbacks.compute_meter import ComputeMeter
from harness.callbacks.history import History, ema_distance

METER = ComputeMeter({})
ORDER = UpdateOrder(generator_updates=3, ratio=1, warmup=1)  # c g c g c g


def run(path, start=0, stop=ORDER.batches, every=1, history=None):
    clipping = SimpleNamespace(norm=0.5)
    history = history or History(path, every=every, order=ORDER, clipping=clipping, meter=ComputeMeter({}))
    groups = [{"name": "generator", "lr": 0.1}, {"name": "critic", "lr": 0.2}]
    for batch in range(start, stop):
        state = SimpleNamespace(
            timestamp=SimpleNamespace(batch=Time(batch, "ba")), optimizers=[SimpleNamespace(param_groups=groups)]
        )
        history.batch_start(state, None)
        name = "distance" if ORDER.role(batch) == "generator" else "critic_loss"
        for samples, value in ((3, 1.0), (1, 5.0)):  # microbatches
            state.batch = {"latent": torch.zeros(samples, 1)}
            value = torch.tensor(value + batch)
            state.outputs = {"loss": value, "metrics": {name: 10 * value}}
            history.after_loss(state, None)
        state.timestamp = SimpleNamespace(batch=Time(batch + 1, "ba"))
        history.batch_end(state, None)
    return history


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_per_batch_with_means_over_samples(tmp_path):
    run(tmp_path / "h.csv")
    found = rows(tmp_path / "h.csv")
    assert [row["phase"][0] for row in found] == list("cgcgcg")
    assert [(row["batch"], row["update"], row["critic_update"]) for row in found][:3] == [
        ("1", "0", "1"),
        ("2", "1", "1"),
        ("3", "1", "2"),
    ]
    assert [float(row["loss"]) for row in found] == [2.0 + batch for batch in range(6)]
    assert [row["lr"] for row in found[:2]] == ["0.2", "0.1"]
    assert found[0]["critic_loss"] == "20.0"
    assert found[0]["distance"] == ""
    assert found[1]["distance"] == "30.0"
    assert {row["grad_norm"] for row in found} == {"0.5"}


def test_thinned_but_never_without_the_last(tmp_path):
    run(tmp_path / "h.csv", every=4)
    assert [row["batch"] for row in rows(tmp_path / "h.csv")] == ["4", "6"]


@pytest.mark.parametrize("killed_after", [3, 4, 5])
def test_no_row_twice_and_none_missing_after_a_kill(tmp_path, killed_after):
    run(tmp_path / "whole.csv")
    history = run(tmp_path / "cut.csv", stop=3)
    saved = history.state_dict()
    run(tmp_path / "cut.csv", start=3, stop=killed_after, history=history)
    again = History(tmp_path / "cut.csv", every=1, order=ORDER, clipping=history.clipping, meter=ComputeMeter({}))
    again.load_state_dict(saved)
    run(tmp_path / "cut.csv", start=3, history=again)
    assert (tmp_path / "cut.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_an_attempt_that_saved_nothing_leaves_no_rows(tmp_path):
    run(tmp_path / "h.csv", stop=4)
    history = History(tmp_path / "h.csv", every=1, order=ORDER, clipping=SimpleNamespace(norm=0.5), meter=METER)
    history.fit_start(SimpleNamespace(timestamp=SimpleNamespace(batch=Time(0, "ba"))), None)
    run(tmp_path / "h.csv", history=history)
    run(tmp_path / "whole.csv")
    assert (tmp_path / "h.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_other_processes_write_nothing(tmp_path):
    clipping = SimpleNamespace(norm=0.5)
    silent = History(tmp_path / "h.csv", every=1, order=ORDER, clipping=clipping, meter=ComputeMeter({}), writes=False)
    run(tmp_path / "h.csv", history=silent)
    assert not (tmp_path / "h.csv").exists()
    assert silent.last["loss"] == 7.0
    silent.load_state_dict(silent.state_dict())


class Averaged:
    """A generator with two parameters and its average."""

    def __init__(self, weights, averages):
        self.network = torch.nn.ParameterDict({n: torch.tensor(w) for n, w in weights.items()})
        self.shadow = {n: torch.tensor(a) for n, a in averages.items()}


def test_distance_of_the_average_relative_to_the_weights():
    weights = {"a": [3.0, 0.0], "b": [[4.0]]}
    assert ema_distance(Averaged(weights, weights)) == 0.0
    assert ema_distance(Averaged(weights, {"a": [3.0, 3.0], "b": [[0.0]]})) == pytest.approx(1.0)
    assert ema_distance(Averaged({"a": [0.0]}, {"a": [0.0]})) == 0.0


def test_the_average_is_measured_after_generator_updates_only(tmp_path):
    ema = Averaged({"a": [2.0]}, {"a": [1.0]})
    clipping = SimpleNamespace(norm=0.5)
    history = History(tmp_path / "h.csv", every=1, order=ORDER, clipping=clipping, meter=METER, ema=ema)
    run(tmp_path / "h.csv", history=history)
    assert [row["ema_distance"] for row in rows(tmp_path / "h.csv")] == ["", "0.5"] * 3
