from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.config.schema import Gate
from harness.errors import HarnessError
from harness.evaluation.card import check_gate, rounded, write_clips
from harness.evaluation.intervals import Estimate

CARD = Path("results/teacher/cards.json")


def block(caption: float, motion: float) -> dict:
    return {
        "metrics": {
            name: {"value": value, "low": value - 0.03, "high": value + 0.03}
            for name, value in (("caption_accuracy", caption), ("motion_accuracy", motion))
        }
    }


def test_the_gate_passes_a_good_teacher():
    check_gate(block(0.9, 0.95), Gate(), CARD)


def test_the_gate_names_what_is_missed_with_the_numbers():
    with pytest.raises(HarnessError) as error:
        check_gate(block(0.71, 0.99), Gate(), CARD)
    assert "caption_accuracy 0.710 [0.680, 0.740], at least 0.9 wanted" in str(error.value)
    assert "motion_accuracy" not in str(error.value)
    assert str(CARD) in str(error.value)


def test_an_open_gate_needs_no_metric_and_a_closed_one_does():
    nothing = {"metrics": {}}
    check_gate(nothing, Gate(caption_accuracy=0.0, motion_accuracy=0.0), CARD)
    with pytest.raises(HarnessError, match=r"set evaluation\.gate\.caption_accuracy to 0"):
        check_gate(nothing, Gate(motion_accuracy=0.0), CARD)


def test_numbers_are_rounded_to_six_digits():
    assert rounded(Estimate(1 / 3, 1234567.8, -1e-9)) == {"value": 0.333333, "low": 1234570.0, "high": -1e-9}


def test_clips_are_written_enlarged(tmp_path):
    paths = write_clips(tmp_path, "student", [np.zeros((5, 24, 24, 3), np.uint8)] * 2, 8)
    assert paths == ["clips/student_0.webp", "clips/student_1.webp"]
    with Image.open(tmp_path / paths[1]) as image:
        assert image.size == (96, 96)
