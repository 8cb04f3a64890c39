import math
import re
from xml.etree import ElementTree

from harness.comparison.plots import Band, Level, Line, drift_plot, inline, line_plot, paired_plot, spread, strip

LINES = [Line(label="a", x=[0, 10, 20], y=[3.0, 2.0, 1.5], series=0), Line(label="t", x=[0, 20], y=[1.0, 1.0])]


def test_figures_are_the_same_bytes_every_time():
    assert line_plot(LINES, "x", "y", "f", "alt") == line_plot(LINES, "x", "y", "f", "alt")


def test_figures_take_their_colors_from_the_page_and_name_nothing_outside():
    svg = line_plot(LINES, "generator updates", "Recall", "f", "Recall & more", mark_x=10)
    assert "var(--arm-1)" in svg
    assert "var(--muted)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", svg.replace("#f-", ""))
    assert "http" not in svg
    assert "<style" not in svg
    assert 'aria-label="Recall &amp; more"' in svg
    assert ">generator updates</text>" in svg
    ElementTree.fromstring(svg)


def test_ids_do_not_clash_between_figures():
    one, two = (set(re.findall(r' id="([^"]+)"', line_plot(LINES, "x", "y", name, "alt"))) for name in ("one", "two"))
    assert one
    assert not one & two
    used = re.findall(r'(?:href="|url\()#([^")]+)', line_plot(LINES, "x", "y", "one", "alt"))
    assert set(used) <= one


def test_paired_plot_draws_every_seed():
    values = {"a": {"0": 1.0, "1": 2.0}, "b": {"0": 3.0, "1": 3.01}}
    svg = paired_plot(values, ["A", "B"], "Recall", "p", "alt")
    assert svg.count("seed ") == 2


def test_labels_keep_their_distance():
    placed = spread({"x": 1.0, "y": 1.1, "z": 5.0}, 0.5)
    assert placed == {"x": 1.0, "y": 1.5, "z": 5.0}


def test_strip_puts_values_on_its_scale():
    svg = strip(2.0, 6.0, 4.0, [3.0, 5.0], (0.0, 8.0), "yes", "gain 4", zero=0.0, threshold=1.0)
    tree = ElementTree.fromstring(svg)
    mean = next(node for node in tree if node.get("class") == "mean")
    assert float(mean.get("x1")) == 110.0
    assert len([node for node in tree if node.get("class") == "seed"]) == 2


def test_inline_drops_the_prologue():
    assert inline('<?xml version="1.0"?><svg viewBox="0 0 1 1" xmlns="x"><g id="a"/></svg>', "n", "alt").startswith(
        "<svg class"
    )


def test_limits_are_drawn():
    plain = line_plot(LINES, "x", "y", "f", "alt")
    marked = line_plot(LINES, "x", "y", "f", "alt", mark_y=2.5)
    assert marked.count("var(--ink)") == plain.count("var(--ink)") + 1
    ElementTree.fromstring(marked)


BANDS = [Band(x=[0, 10, 40], mean=[3.0, 2.0, 1.5], low=[2.5, 1.5, 1.0], high=[3.5, 2.5, math.nan], series=1)]


def test_drift_has_bands_and_levels_that_go_on_dashed():
    level = Level(low=1.0, high=2.0)

    def drawn(mark_x, levels=(level,)):
        svg = drift_plot(BANDS, levels, [LINES[1]], mark_x, "pixel frame", "Recall", "d", "alt")
        ElementTree.fromstring(svg)
        return svg.count("fill-opacity: 0.2"), svg.count("var(--ink)"), svg.count("stroke-dasharray")

    fills, marks, dashes = drawn(20)
    assert fills == 2  # the arm's band and the level's
    assert drawn(20, levels=())[0] == 1
    assert drawn(40) == (2, marks - 1, dashes - 3)  # no upright line, no ends that go on
    assert drawn(None) == drawn(40)
    assert drawn(20, levels=())[2] == dashes - 2


def test_drift_is_in_the_color_of_its_arm():
    svg = drift_plot(BANDS, [], [], None, "x", "y", "d", "alt")
    assert "fill: var(--arm-2); fill-opacity: 0.2" in svg
    assert "stroke: var(--arm-2)" in svg
    assert "var(--arm-1)" not in svg
    owned = drift_plot(BANDS, [Level(low=1.0, high=2.0, series=3)], [], 20, "x", "y", "d", "alt")
    assert owned.count("stroke: var(--arm-4)") == 4  # both ends, and as they go on
