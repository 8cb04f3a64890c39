import io
import re

import pytest
from PIL import Image

from harness.comparison.compare import compare
from harness.comparison.declaration import load_declaration
from harness.comparison.long_figures import STRIP_GAP, cache_figure, drift_figures, strip_of_frames, switch_figure
from harness.comparison.results import read_results

NAME = "two_stage_vs_one_stage"


@pytest.fixture(scope="module")
def long(long_template) -> dict:
    declaration = load_declaration(NAME, long_template.root)
    return compare(declaration, read_results(declaration, long_template.root))[0]


@pytest.fixture(scope="module")
def short(template) -> dict:
    declaration = load_declaration(NAME, template.root)
    return compare(declaration, read_results(declaration, template.root))[0]


def alt(figure: str) -> str:
    return re.search(r'aria-label="([^"]+)"', figure)[1]


def test_drift_of_short_clips_has_the_teachers_band_alone(short):
    (figure,) = drift_figures(short)
    assert figure.count("fill-opacity: 0.2") == 3  # two arms and the teacher
    assert "var(--ink); stroke-width: 1.1" not in figure.replace("stroke: var(--ink); stroke-dasharray", "")
    assert "Causal SFT, then DMD 0.896 to 0.832; DMD from the teacher 0.874 to 0.81" in alt(figure)
    assert ">pixel frame</text>" in figure


def test_drift_of_long_clips_goes_on(long):
    figures = drift_figures(long)
    assert [re.search(r'id="(drift-\w+)-figure_1"', figure)[1] for figure in figures] == [
        "drift-identity",
        "drift-rigid_error",
        "drift-ink",
        "drift-fvd",
    ]
    assert "Causal SFT, then DMD 51 to 54; DMD from the teacher 51 to 81" in alt(figures[3])


def test_the_switch_is_drawn_where_it_was_measured(long, short):
    assert "in the end: Causal SFT, then DMD 0.8; DMD from the teacher 0.8" in alt(switch_figure(long))
    assert ">pixel frames after the switch</text>" in switch_figure(long)
    assert switch_figure(short) is None


def test_the_cache_is_drawn_where_it_was_measured(long, short):
    assert "in the end: Causal SFT, then DMD 0.9; DMD from the teacher 3.6" in alt(cache_figure(long))
    assert cache_figure(short) is None
    assert cache_figure({**long, "long": {**long["long"], "cache": {}}}) is None


def test_a_strip_shows_frames_in_their_order():
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    images = [Image.new("RGB", (8, 6), color) for color in colors]
    stream = io.BytesIO()
    images[0].save(stream, "WEBP", save_all=True, append_images=images[1:], duration=100, lossless=True)
    data = stream.getvalue()
    with Image.open(io.BytesIO(strip_of_frames(data, [0, 2, 1, 9]))) as strip:
        assert strip.size == (4 * 8 + 3 * STRIP_GAP, 6)
        found = [strip.getpixel((i * (8 + STRIP_GAP) + 3, 3))[:3] for i in range(4)]
        assert found == [colors[0], colors[2], colors[1], colors[2]]
        assert strip.getpixel((8, 3))[3] == 0
    assert strip_of_frames(data, [0, 2]) == strip_of_frames(data, [0, 2])
