import numpy as np
import pytest

from harness.data.mds import load_split
from harness.errors import HarnessError
from harness.evaluation.evaluators import load_evaluators
from harness.evaluation.stored import matching_clips, measure_stored, pooled_texts, stored_attributes


def attributes(digit: int, color: str = "red", direction: str = "left", speed: str = "slowly") -> dict:
    return {"digit": digit, "color": color, "direction": direction, "speed": speed}


def test_clips_come_in_the_order_asked_for(root):
    evaluators = load_evaluators(root / "checkpoints/evaluators")
    folder = root / "data/clips/test"
    stored = load_split(folder)
    found = measure_stored(evaluators, folder, [7, 2, 7, 0], show=2)
    expected = evaluators.measure(stored["video"][[7, 2, 7, 0]])
    np.testing.assert_allclose(found.measured.features, expected.features, atol=1e-3)
    assert found.captions == [stored["caption"][i] for i in (7, 2, 7, 0)]
    assert found.attributes == [stored["attributes"][i] for i in (7, 2, 7, 0)]
    assert np.array_equal(np.stack(found.shown), stored["video"][[7, 2]])


def test_a_change_is_measured_and_shown(root):
    evaluators = load_evaluators(root / "checkpoints/evaluators")
    dark = measure_stored(evaluators, root / "data/clips/test", [1, 3], change=np.zeros_like, show=1)
    assert dark.measured.brightness.max() == 0
    assert dark.shown[0].max() == 0


def test_a_missing_folder_is_named(root, tmp_path):
    with pytest.raises(HarnessError, match="no such file"):
        measure_stored(load_evaluators(root / "checkpoints/evaluators"), tmp_path, [0])


def test_the_best_match_is_taken_once():
    available = [attributes(1, "red"), attributes(1, "blue"), attributes(2, "blue"), attributes(1, "blue", "up")]
    wanted = [attributes(1, "blue"), attributes(1, "blue"), attributes(3, "blue")]
    assert matching_clips(wanted, available) == [1, 0, 2]


def test_the_digit_counts_more_than_all_the_rest():
    available = [attributes(1, "red", "up", "quickly"), attributes(2, "blue", "left", "slowly")]
    assert matching_clips([attributes(1, "blue", "left", "slowly")], available) == [0]


def test_more_wanted_than_there_are():
    assert matching_clips([attributes(1)] * 3, [attributes(1), attributes(2)]) == [0, 1, 0]
    assert matching_clips([{}] * 3, [{}, {}]) == [0, 1, 0]


def test_attributes_and_texts(root):
    assert len(stored_attributes(root / "data/clips/train", 5)) == 5
    assert len(stored_attributes(root / "data/clips/validation", 500)) == 16
    assert pooled_texts([np.array([[1.0, 2], [3, 4]]), np.array([[5.0, 6]])]).tolist() == [[2, 3], [5, 6]]
