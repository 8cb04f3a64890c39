import io

import numpy as np
import pytest
from PIL import Image

from harness.comparison import compare
from harness.comparison.pictures import CELL, HEAD, SIDE, clip_grid, model_picture, write_all

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


def test_given_images_stand_still_in_a_grid_that_moves(image_world):
    folder = compare.main("i2v_vs_t2v", image_world.root)
    found = compare.load_comparisons(image_world.root)["i2v_vs_t2v"]
    image = Image.open(io.BytesIO(clip_grid(found, folder)))
    assert image.n_frames == 6
    assert image.width > 8 * CELL
    given, first = (SIDE, HEAD, SIDE + CELL, HEAD + CELL), image.convert("RGB")
    image.seek(5)
    assert image.info["duration"] == 125
    last = image.convert("RGB")
    assert np.abs(np.asarray(first.crop(given), int) - np.asarray(last.crop(given), int)).max() <= 8
    assert np.abs(np.asarray(first.crop(given), int)[CELL // 2, CELL // 2] - (60, 90, 10)).max() <= 8
    assert first.tobytes() != last.tobytes()


def test_grid_has_the_pace_of_its_clips(image_world):
    for clip in (image_world.root / "results").glob("**/*.webp"):
        with Image.open(clip) as old:
            frames = [old.seek(k) or old.convert("RGB") for k in range(old.n_frames)]
        frames[0].save(clip, "WEBP", save_all=True, append_images=frames[1:], duration=50)
    folder = compare.main("i2v_conditioning", image_world.root)
    image = Image.open(io.BytesIO(clip_grid(compare.load_comparisons(image_world.root)["i2v_conditioning"], folder)))
    image.seek(1)
    image.load()
    assert image.info["duration"] == 50


def test_models_picture_shows_what_baselines_have(image_world):
    folder = compare.main("i2v_vs_t2v", image_world.root)
    comparison = compare.load_comparisons(image_world.root)["i2v_vs_t2v"]
    students = [row for row in comparison["models"] if "fvd_gap" in row["metrics"]]
    assert len(students) == 2
    picture = Image.open(io.BytesIO(model_picture(comparison)))
    assert picture.height > 144 * 0.34 * 12
    write_all({"i2v_vs_t2v": comparison}, folder.parent, folder / "images")
    assert (folder / "images" / "i2v_vs_t2v_models.png").is_file()
