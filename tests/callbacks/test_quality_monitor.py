import csv
import math
from types import SimpleNamespace

import pytest
import torch
from composer.core import Event, Time
from torch import nn

from harness.algorithms.generator_ema import GeneratorEMA
from harness.algorithms.updates import UpdateOrder
from harness.callbacks.compute_meter import ComputeMeter
from harness.callbacks.quality_monitor import QualityMonitor

ORDER = UpdateOrder(generator_updates=5, ratio=1, warmup=1)  # c g c g c g c g c g


class Scene:
    """A run whose metric follows a script; the weight of the network counts its updates."""

    def __init__(self, folder, scores, metric="fvd", at_start=True, patience=None):
        self.method = nn.ModuleDict({"generator": nn.Linear(1, 1, bias=False)})
        nn.init.zeros_(self.method["generator"].weight)
        self.scores, self.seen, self.saved, self.path = iter(scores), [], [], folder / "quality.csv"
        ema = GeneratorEMA(self.method, decay=0.5, start=0, order=ORDER)
        self.ema, self.meter = ema, ComputeMeter(dict(self.method.items()))
        self.monitor = QualityMonitor(
            self.score,
            ema=ema,
            metric=metric,
            every=2,
            order=ORDER,
            meter=self.meter,
            path=self.path,
            save=lambda network: self.saved.append(float(network.weight)),
            at_start=at_start,
            patience=patience,
        )
        self.stopped_at = []

    def state(self, batches):
        return SimpleNamespace(
            timestamp=SimpleNamespace(batch=Time(batches, "ba")), stop_training=lambda: self.stopped_at.append(batches)
        )

    def score(self, network):
        torch.rand(3)
        self.seen.append((float(network.weight), network.training, torch.is_grad_enabled()))
        network(torch.zeros(1))
        return {"fvd": next(self.scores), "ink": 1.0}

    def run(self, start=0, stop=ORDER.batches):
        self.ema.apply(Event.AFTER_LOAD, self.state(start), None)
        self.monitor.fit_start(self.state(start), None)
        for batch in range(start, stop):
            self.meter.before_dataloader(None, None)
            if ORDER.role(batch) == "generator":
                with torch.no_grad():
                    self.method["generator"].weight += 1
            self.ema.apply(Event.BATCH_END, self.state(batch + 1), None)
            self.meter.batch_end(None, None)
            self.monitor.batch_end(self.state(batch + 1), None)
        return self

    def rows(self):
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))


def test_measures_at_the_start_every_so_often_and_at_the_end(tmp_path):
    scene = Scene(tmp_path, [9, 5, 3, 4]).run()
    assert [(row["batch"], row["update"], row["fvd"]) for row in scene.rows()] == [
        ("0", "0", "9.0"),
        ("4", "2", "5.0"),
        ("8", "4", "3.0"),
        ("10", "5", "4.0"),
    ]


def test_with_averaged_weights_in_evaluation_mode_and_leaves_no_trace(tmp_path):
    scene = Scene(tmp_path, [9, 5, 3, 4])
    scene.method.train()
    before = torch.get_rng_state()
    scene.run()
    assert torch.equal(torch.get_rng_state(), before)
    assert [weight for weight, _, _ in scene.seen] == [0.0, 1.25, 3.0625, 4.03125]
    assert {mode for _, *mode in [(w, (t, g)) for w, t, g in scene.seen] for mode in mode} == {(False, False)}
    assert scene.method["generator"].training
    assert float(scene.method["generator"].weight) == 5.0


def test_keeps_the_best_of_the_trained_weights(tmp_path):
    scene = Scene(tmp_path, [1, 5, 3, 4]).run()
    assert scene.saved == [1.25, 3.0625]
    assert scene.monitor.best == {"update": 4, "metric": "fvd", "value": 3.0}


def test_a_measurement_that_failed_is_never_the_best(tmp_path):
    scene = Scene(tmp_path, [1, math.nan, 3, 4]).run()
    assert scene.monitor.best["value"] == 3.0


def test_it_ends_training_when_nothing_got_better_for_long_enough(tmp_path):
    assert Scene(tmp_path, [9, 5, 6, 4]).run().stopped_at == []
    assert Scene(tmp_path, [9, 5, 6, 4], patience=2).run().stopped_at == []  # better at the second chance
    assert Scene(tmp_path, [1, 5, 6, 4], patience=1).run(stop=8).stopped_at == [8]  # the start is no candidate
    scene = Scene(tmp_path, [9, 5, 6, 7], patience=2).run()
    assert (scene.stopped_at, scene.monitor.exhausted) == ([10], True)


def test_patience_goes_on_after_a_kill(tmp_path):
    cut = Scene(tmp_path, [9, 5, 6], patience=2).run(stop=8)
    again = Scene(tmp_path, [7], patience=2)
    again.monitor.load_state_dict(cut.monitor.state_dict())
    again.ema.load_state_dict(cut.ema.state_dict())
    assert not again.monitor.exhausted
    assert again.run(start=8).stopped_at == [10]


def test_one_is_best_for_a_ratio(tmp_path):
    scene = Scene(tmp_path, [1, 5, 3, 4], metric="ink").run()
    assert scene.saved == [1.25]  # all the same: the first stays


def test_its_cost_is_not_counted(tmp_path):
    scene = Scene(tmp_path, [1, 5, 3, 4]).run()
    assert scene.meter.forwards == 0


def test_random_weights_are_not_measured(tmp_path):
    scene = Scene(tmp_path, [5, 3, 4], at_start=False).run()
    assert [row["update"] for row in scene.rows()] == ["2", "4", "5"]


@pytest.mark.parametrize("killed_after", [0, 6, 8, 9])
def test_a_continued_run_has_the_same_rows_and_best(tmp_path, killed_after):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Scene(tmp_path / "whole", [9, 5, 3, 4]).run()
    cut = Scene(tmp_path / "cut", [9, 5, 3, 4]).run(stop=6)
    saved = {"monitor": cut.monitor.state_dict(), "ema": cut.ema.state_dict()}
    weight = cut.method["generator"].weight.clone()
    if killed_after > 6:  # it went on after its state was saved, before it was killed
        cut.run(start=6, stop=killed_after)
    again = Scene(tmp_path / "cut", [3, 4] if killed_after else [9, 5, 3, 4])
    if killed_after:
        again.monitor.load_state_dict(saved["monitor"])
        again.ema.load_state_dict(saved["ema"])
        with torch.no_grad():
            again.method["generator"].weight.copy_(weight)
    again.run(start=6 if killed_after else 0)
    same = [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in again.rows()]
    assert same == [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in whole.rows()]
    assert again.monitor.best == whole.monitor.best


class Moving(Scene):
    """Its clips move less and less."""

    def __init__(self, folder, motion):
        super().__init__(folder, [9, 5, 3, 4])
        self.motion = iter(motion)

    def score(self, network):
        return super().score(network) | {"static_collapse": next(self.motion)}


def test_the_alarm_of_clips_that_stand_still_is_told_at_that_reading(tmp_path, capsys):
    scene = Moving(tmp_path, [1.1, 0.5, 0.31, 0.0]).run()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "ALARM static collapse at update 4" in told[0]
    assert "0.31 times as much as the teacher's" in told[0]
    assert "at update 5" in told[1]
    assert [float(row["static_collapse"]) for row in scene.rows()] == [1.1, 0.5, 0.31, 0.0]


def test_init_weights_that_stand_still_are_told_too(tmp_path, capsys):
    Moving(tmp_path, [0.2, 1, 1, 1]).run()
    assert "at update 0" in capsys.readouterr().err


def test_no_alarm_without_the_number(tmp_path, capsys):
    Scene(tmp_path, [9, 5, 3, 4]).run()
    Moving(tmp_path, [math.nan] * 4).run()
    assert capsys.readouterr().err == ""


def test_only_the_process_that_writes_tells(tmp_path, capsys):
    scene = Moving(tmp_path, [0.1] * 4)
    scene.monitor.table = None
    scene.run()
    assert capsys.readouterr().err == ""
