import json
import os

import numpy as np
import pytest

from harness.tracking.samples import KEPT, clip_file, keep, preview, rows_so_far

CLIPS = np.random.default_rng(0).integers(0, 255, (6, 3, 8, 10, 3), np.uint8)


def test_small_clips_are_kept_as_they_are():
    assert np.array_equal(preview(CLIPS), CLIPS[:KEPT])


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 832), (120, 208)), ((240, 240), (240, 240)), ((241, 8), (121, 4))]
)
def test_large_clips_are_thinned(size, expected):
    assert preview(np.zeros((1, 2, *size, 3), np.uint8)).shape == (1, 2, *expected, 3)


def test_clips_belong_to_the_row_that_comes_next(tmp_path):
    keep(tmp_path, CLIPS, ["a", "b", "c", "d", "e", "f"])
    (tmp_path / "quality.csv").write_text("batch,fvd\n0,1\n")
    assert rows_so_far(tmp_path / "quality.csv") == 1
    keep(tmp_path, CLIPS[1:], list("bcdef"))
    assert np.array_equal(np.load(clip_file(tmp_path, 0)), CLIPS[:4])
    assert np.array_equal(np.load(clip_file(tmp_path, 1)), CLIPS[1:5])
    assert json.loads((tmp_path / "samples/captions.json").read_text()) == ["b", "c", "d", "e"]


def test_a_failure_does_not_stop_the_run(tmp_path, capsys):
    (tmp_path / "samples").write_text("a file where the folder should be")
    keep(tmp_path, CLIPS, [])
    assert "not kept" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["samples"]
