import io

import pytest
from PIL import Image

from harness.comparison import compare
from harness.comparison.pictures import CELL, clip_grid, model_picture

NAME = "two_stage_vs_one_stage"


@pytest.fixture
def comparison(world):
    folder = compare.main(NAME, world.root)
    return compare.load_comparisons(world.root)[NAME], folder


def test_grid_moves_and_has_a_cell_per_clip(comparison):
    image = Image.open(io.BytesIO(clip_grid(*comparison)))
    assert image.n_frames == 6
    assert image.width > 6 * CELL
    assert image.height > 4 * CELL


def test_models_picture_is_the_same_bytes_every_time(comparison):
    data = model_picture(comparison[0])
    assert data == model_picture(comparison[0])
    assert Image.open(io.BytesIO(data)).width >= 1000
