import numpy as np
import pytest
from made_up_runs import series

from harness.reference.pairs import LEAP, VISIBLE, compare_runs, relative_difference


def run(**signals):
    return {name.replace("__", "/"): series(values) for name, values in signals.items()}


def grown(length, start, factor):
    """A curve of size 1 and the same with an error that grows."""
    curve = np.sin(np.arange(length)) * np.sqrt(2)
    return curve, curve + start * factor ** np.arange(length)


def test_identical_runs():
    pair = compare_runs(run(generator__loss=[1, 2, 3]), run(generator__loss=[1, 2, 3]))
    assert pair.identical
    assert not pair.leaps
    assert (pair.rows, pair.largest, pair.visible) == (3, (), None)


def test_the_first_row_that_differs_and_by_how_much():
    pair = compare_runs(
        run(generator__loss=[1, 1, 1, 1], generator__lag=[2, 2, 2, 2]),
        run(generator__loss=[1, 1, 1.5, 1], generator__lag=[2, 2, 2.5, 4]),
    )
    assert (pair.begins.signal, pair.begins.batch, pair.begins.relative) == ("generator/loss", 3, 0.5)
    assert (pair.begins.first, pair.begins.second) == (1.0, 1.5)
    assert [(d.signal, d.batch, d.relative) for d in pair.largest] == [
        ("generator/lag", 4, 1.0),
        ("generator/loss", 3, 0.5),
    ]
    assert pair.leaps


def test_rounding_grows_and_a_change_leaps():
    a, b = grown(40, 1e-7, 1.5)
    pair = compare_runs(run(generator__loss=a), run(generator__loss=b))
    assert pair.begins.batch == 1
    assert VISIBLE < pair.visible.relative < 2 * VISIBLE
    assert pair.before > VISIBLE / 2
    assert not pair.leaps
    b[20] += 0.5
    pair = compare_runs(run(generator__loss=a), run(generator__loss=b))
    assert pair.visible.batch == 21
    assert pair.leaps


def test_what_other_signals_did_before_counts_too():
    early, late = [1.0, 1 + 2 * VISIBLE / LEAP, 1, 1], [1.0, 1, 1, 1 + 1.5 * VISIBLE]
    ones = [1.0, 1, 1, 1]
    assert not compare_runs(
        run(critic__loss=ones, generator__loss=ones), run(critic__loss=early, generator__loss=late)
    ).leaps
    assert compare_runs(run(generator__loss=ones), run(generator__loss=late)).leaps


def test_a_clip_judged_otherwise_is_no_leap():
    first, second = run(quality__recall=[0.2, 0.3]), run(quality__recall=[0.2, 0.31])
    assert compare_runs(first, second).visible is None
    assert compare_runs(run(generator__recall=[0.2, 0.3]), run(generator__recall=[0.2, 0.31])).visible is not None
    assert compare_runs(first, run(quality__recall=[0.2, 0.4])).visible is not None


def test_only_rows_that_both_have():
    pair = compare_runs(run(generator__loss=[1, 1, 1]), {"generator/loss": series([1, 9], start=3, step=2)})
    assert (pair.rows, pair.identical) == (1, True)


def test_no_number_against_a_number():
    nan = float("nan")
    assert relative_difference(np.array([1.0, nan, nan]), np.array([nan, nan, 2.0])).tolist() == [np.inf, 0.0, np.inf]
    pair = compare_runs(run(quality__recall=[0.3, 0.3]), run(quality__recall=[0.3, nan]))
    assert pair.leaps
    assert relative_difference(np.zeros(2), np.array([0.0, 0.5])).tolist() == [0.0, 0.5]
    assert relative_difference(np.array([3.0, 4.0]), np.array([3.0, 5.0])) == pytest.approx([0, 1 / np.sqrt(12.5)])
