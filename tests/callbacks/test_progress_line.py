import io
from types import SimpleNamespace

from composer.core import Time

from harness.algorithms.updates import UpdateOrder
from harness.callbacks.progress_line import ProgressLine, clock

ORDER = UpdateOrder(generator_updates=3, ratio=1, warmup=1)


def lines(interval, start=0, silent=False):
    out = io.StringIO()
    history = SimpleNamespace(last={"loss": 0.123456})
    line = ProgressLine("run", order=ORDER, history=history, interval=interval, silent=silent, stream=out)
    for batches in range(start, ORDER.batches + 1):
        state = SimpleNamespace(timestamp=SimpleNamespace(batch=Time(batches, "ba")))
        line.fit_start(state, None) if batches == start else line.batch_end(state, None)
    return out.getvalue().splitlines()


def test_only_the_end_of_a_quick_run():
    assert lines(1000) == ["run: generator, update 3/3, loss 0.1235, 0:00 gone, 0:00 left"]


def test_every_batch_when_batches_are_slow():
    shown = lines(0)
    assert len(shown) == ORDER.batches
    assert shown[0].startswith("run: critic, update 0/3, loss 0.1235")


def test_says_where_it_goes_on():
    assert lines(1000, start=4)[0] == "run: goes on after batch 4 of 6"


def test_silent():
    assert lines(0, silent=True) == []


def test_clock():
    assert [clock(s) for s in (0.4, 61, 3599.6, 3661)] == ["0:00", "1:01", "1:00:00", "1:01:01"]
