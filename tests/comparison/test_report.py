import contextlib
import http.server
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from harness.comparison import compare, report
from harness.errors import HarnessError

NAMES = ("two_stage_vs_one_stage", "causal_vs_bidirectional")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"

# Both widths in frames of one page: what does not fit, what did not load, and how many pictures there are.
PROBE = """<body style="margin:0">%s<script>
addEventListener('load', async () => {
  const found = [];
  for (const frame of document.querySelectorAll('iframe')) {
    const page = frame.contentDocument, root = page.documentElement;
    const images = [...page.images];
    await Promise.all(images.map(image => image.decode().catch(() => 0)));
    found.push({src: frame.src.split('/').pop(), width: frame.clientWidth,
      overflow: root.scrollWidth - root.clientWidth, images: images.length,
      broken: images.filter(image => !image.naturalWidth).length,
      bare: images.filter(image => !image.alt).length, small: [...page.querySelectorAll('.plot text')].filter(
        text => text.getBoundingClientRect().height && text.getBoundingClientRect().height < 8).length});
  }
  fetch('%s', {method: 'POST', mode: 'no-cors', body: JSON.stringify(found)});
});
</script>"""


@pytest.fixture(scope="module")
def once(template, tmp_path_factory):
    world = template.copy(tmp_path_factory.mktemp("built") / "project")
    for name in NAMES:
        compare.main(name, world.root)
    report.main(world.root)
    return world


@pytest.fixture
def built(once, tmp_path):
    """A project with its report; a copy that a test may change."""
    return once.copy(tmp_path / "built")


def pages(world) -> dict[str, bytes]:
    return {
        str(p.relative_to(world.root)): p.read_bytes()
        for p in sorted((world.root / "reports").rglob("*"))
        if p.is_file()
    }


class References(HTMLParser):
    """All that a page points to, and the order of its headings."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.found += [value for key, value in attrs if key in ("src", "href", "srcset", "poster") and value]
        if tag == "h2" and values.get("id"):
            self.headings.append(values["id"])


def test_rebuild_is_byte_identical_from_comparisons_alone(built):
    before = pages(built)
    assert {"reports/index.html", *(f"reports/{name}.html" for name in NAMES)} <= set(before)
    shutil.rmtree(built.root / "reports")
    shutil.rmtree(built.root / "results")
    shutil.rmtree(built.root / "experiments")
    report.main(built.root)
    assert pages(built) == before


def test_pages_load_nothing_from_elsewhere(built):
    for name, data in pages(built).items():
        if not name.endswith(".html"):
            continue
        parser = References()
        parser.feed(data.decode())
        for target in parser.found:
            assert target.startswith(("data:", "#")) or re.fullmatch(r"[a-z0-9_]+\.html", target), target
        assert b"//" not in re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", data)
        assert b"<script" not in data
        assert b"@import" not in data


def test_order_of_a_page(built):
    parser = References()
    parser.feed(pages(built)[f"reports/{NAMES[0]}.html"].decode())
    expected = [
        "verdict",
        "paired",
        "curves",
        "clips",
        "frames",
        "baselines",
        "settings",
        "budget",
        "provenance",
        "honesty",
    ]
    assert parser.headings == expected


def test_page_says_what_was_found(built):
    page = pages(built)[f"reports/{NAMES[0]}.html"].decode()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "supported at equal generator updates and at equal measured compute." in text
    assert "Causal SFT, then DMD misses the full teacher by 3 on Fréchet video distance" in text
    assert "cannot give a p below .25 with 3 pairs" in text
    assert "Seed 0 of DMD from the teacher and of arm causal of causal_vs_bidirectional are the very same run" in text
    assert "40 generator updates in every run" in text
    index = pages(built)["reports/index.html"].decode()
    assert all(f'href="{name}.html"' in index for name in NAMES)


def test_broken_guardrail_is_on_the_page(world):
    for seed in (0, 1, 2):
        world.edit(
            f"{NAMES[0]}/one_stage/seed{seed}/cards.json",
            lambda c: c["models"]["student"]["metrics"]["ink"].update(value=1.4),
        )
    compare.main(NAMES[0], world.root)
    report.main(world.root)
    assert "Guardrail broken" in (world.root / "reports" / f"{NAMES[0]}.html").read_text()


def test_page_without_the_primary_metric_still_builds(world):
    for cards in (world.root / "results").rglob("cards.json"):
        card = json.loads(cards.read_text())
        for model in card["models"].values():
            model["metrics"], model["by_frame"], model["clips"] = {}, {}, []
        cards.write_text(json.dumps(card))
    for quality in (world.root / "results").rglob("quality.csv"):
        quality.write_text("update,teraflops,device_seconds\n0,0,0\n40,200,100\n")
    compare.main(NAMES[0], world.root)
    page = report.main(world.root).with_name(f"{NAMES[0]}.html").read_text()
    assert "fvd is not on the cards of every seed" in " ".join(page.split()).lower()


def test_markup_in_a_prompt_is_text(world):
    world.edit("teacher/cards.json", lambda card: card.update(prompts=["<b>bold</b> & co"] * 4))
    compare.main(NAMES[0], world.root)
    page = report.main(world.root).with_name(f"{NAMES[0]}.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; co" in page
    assert "<b>bold" not in page


def test_missing_clip_says_what_to_run(built):
    (built.root / "comparisons" / NAMES[0] / "clips" / "real_0.webp").unlink()
    with pytest.raises(HarnessError, match=f"compare {NAMES[0]}"):
        report.main(built.root)


def test_a_clip_that_is_no_picture_is_named(built):
    (built.root / "comparisons" / NAMES[0] / "clips" / "real_0.webp").write_bytes(b"garbage")
    with pytest.raises(HarnessError, match=rf"real_0\.webp: no picture; run .* compare {NAMES[0]}"):
        report.main(built.root)


def test_page_of_a_removed_experiment_goes(built):
    shutil.rmtree(built.root / "comparisons" / NAMES[1])
    report.main(built.root)
    assert f"reports/{NAMES[1]}.html" not in pages(built)


def test_a_third_experiment_is_a_third_folder(built):
    def change(document):
        document.update(name="three_starts")
        document["arms"]["from_noise"] = {"label": "DMD from noise", "set": {"init.kind": "random"}}

    shutil.copytree(built.declaration().parent, built.root / "experiments" / "three_starts")
    built.edit_declaration(change, "three_starts")
    arms = {"two_stage": [51.0, 52.0, 53.0], "one_stage": [62.0, 62.5, 64.0], "from_noise": [150.0, 151.0, 149.0]}
    built.write_arms("three_starts", arms)
    compare.main("three_starts", built.root)
    report.main(built.root)
    page = pages(built)["reports/three_starts.html"].decode()
    assert page.count("DMD from noise") > 5
    assert 'href="three_starts.html"' in pages(built)["reports/index.html"].decode()


@pytest.fixture(scope="module")
def image_pages(image_template, tmp_path_factory) -> dict[str, str]:
    """The pages of both experiments on images; the alarm fired in one run."""
    world = image_template.copy(tmp_path_factory.mktemp("image_pages") / "project")
    world.set_motion("i2v_vs_t2v/i2v/seed1", {20: 0.31})
    for name in ("i2v_vs_t2v", "i2v_conditioning"):
        compare.main(name, world.root)
    folder = report.main(world.root).parent
    return {page.stem: page.read_text() for page in folder.glob("*.html")}


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_given_images_are_the_first_column(image_pages):
    for page, columns in ((image_pages["i2v_vs_t2v"], 8), (image_pages["i2v_conditioning"], 7)):
        row = re.search(r'<table class="clips">.*?<tbody>\s*<tr>(.*?)</tr>', page, re.DOTALL)[1]
        cells = re.findall(r'<td><img class="moving" src="data:image/(\w+);', row)
        assert cells == ["png"] + ["webp"] * (columns - 1)
        head = re.search(r'<table class="clips">\s*<thead>(.*?)</thead>', page, re.DOTALL)[1]
        assert re.findall(r'<th scope="col">([^<]+)', head)[0] == "Given image"
        assert head.count("given the image") == (3 if columns == 8 else 5)


def test_the_alarm_is_on_the_page_of_its_experiment_alone(image_pages):
    text = words(image_pages["i2v_vs_t2v"])
    assert "Static collapse in Image to video, seed 1, at update 20: after their first frame" in text
    assert "watched 6 runs and fired in 1; the lowest reading is 0.31." in text
    assert '<p class="warn">Static collapse in' in image_pages["i2v_vs_t2v"]
    text = words(image_pages["i2v_conditioning"])
    assert "Static collapse in" not in text
    assert "watched 9 runs and fired in 0" in text


def test_curves_of_images_are_drawn(image_pages):
    for name, metrics in {
        "i2v_vs_t2v": ["fvd_gap", "fvd", "static_collapse"],
        "i2v_conditioning": ["fvd", "conditional_distance", "static_collapse"],
    }.items():
        ids = re.findall(r'id="curve-(\w+)-update-figure_1"', image_pages[name])
        assert ids == metrics
        assert len(re.findall(r'id="curve-(\w+)-teraflops-figure_1"', image_pages[name])) == len(metrics)
        figures = re.findall(r'<svg class="plot".*?</svg>', image_pages[name], re.DOTALL)
        inked = {m: next(f for f in figures if f'"curve-{m}-update-' in f).count("var(--ink)") for m in metrics}
        assert inked["static_collapse"] == inked["fvd"] + 1  # the level of the alarm


def test_different_teachers_are_explained(image_pages):
    text = words(image_pages["i2v_vs_t2v"])
    assert "TFLOP after each arm’s own teacher)" in text
    assert "teacher_i2v (of Image to video): 120 TFLOP, 60 device seconds, after teacher." in text
    assert "The preset sets others together with these: model, teacher." in text
    assert "Undeclared differences" not in text
    assert "Image to video misses the full teacher by 16.5 on Fréchet video distance" in text
    assert "teacher cut cfg, each arm's own" in words(image_pages["i2v_vs_t2v"]).replace("&#39;", "'")
    assert "counts from the run’s own reading before training" in text
    shared = words(image_pages["i2v_conditioning"])
    assert "TFLOP after the teacher)" in shared
    assert "each arm’s own" not in shared


def test_labels_of_image_metrics_are_on_the_page(image_pages):
    for label in ("Given image&#39;s identity kept", "First frame against the given image"):
        assert label in image_pages["i2v_conditioning"]
    assert "Share of the way to the teacher that is left" in image_pages["i2v_vs_t2v"]


@pytest.fixture(scope="module")
def long_built(long_template, tmp_path_factory):
    """The project of an experiment with long evaluations, with its report."""
    world = long_template.copy(tmp_path_factory.mktemp("long_built") / "project")
    compare.main(NAMES[0], world.root)
    report.main(world.root)
    return world


def section(page: str, name: str) -> str:
    return re.search(rf'<section aria-labelledby="{name}">(.*?)</section>', page, re.DOTALL)[1]


def test_every_page_has_a_drift_plot_and_every_seed(built):
    for name in NAMES:
        part = section(pages(built)[f"reports/{name}.html"].decode(), "frames")
        assert '<h2 id="frames">Drift</h2>' in part
        assert re.findall(r'id="([\w-]+)-figure_1"', part) == ["drift-identity", "frame-identity"]
        assert "bands reach from the smallest to the largest.</p>" in part
        assert "dashed" not in words(part)


def test_long_clips_have_a_section_of_their_own(long_built, built):
    page = pages(long_built)[f"reports/{NAMES[0]}.html"].decode()
    parser = References()
    parser.feed(page)
    assert parser.headings[4:6] == ["frames", "long"]
    part = section(page, "long")
    text = words(part)
    assert "Each student went on to 141 pixel frames, 4.3 times as many as its training clips have" in text
    assert "Pixel frames 0–32 36–68 72–104 108–140" in text
    assert "Fréchet video distance ↓ lower Real clips 18 19 20 21 Causal SFT, then DMD 51 50 · 51 · 52 52" in text
    assert "What all start from 61 60 · 61 · 62 81" in text
    assert re.findall(r'id="([\w-]+)-figure_1"', part) == ["switch", "cache"]
    assert "At pixel frame 72 the prompt changes. A clip that never obeys counts as a delay of 69 frames." in text
    assert part.count('class="moving"') == part.count('class="film"') == 3 * 3
    assert "its pixel frames 0, 36, 72, 108, 140." in text
    assert "the end of a clip as the teacher makes it, 33 pixel frames." in words(section(page, "frames"))
    assert "Beyond the training length" not in pages(built)[f"reports/{NAMES[0]}.html"].decode()


def test_a_page_whose_primary_metric_is_of_long_clips(world):
    world.write_sink({"sink": [60.0, 61.0, 62.5], "no_sink": [80.0, 82.0, 82.0]})
    compare.main("sink", world.root)
    page = report.main(world.root).with_name("sink.html").read_text()
    text = words(page)
    assert "Fréchet video distance at the end of a long clip" in text
    assert "(only the students and what they start from make long clips)" in text
    assert "its own init 34.8" in text
    assert "What all start from" in words(section(page, "long"))
    assert (world.root / "reports" / "images" / "sink_clips.webp").is_file()


def test_rebuild_with_long_clips_is_byte_identical(long_built, tmp_path):
    world = long_built.copy(tmp_path / "again")
    before = pages(world)
    for folder in ("reports", "results"):
        shutil.rmtree(world.root / folder)
    report.main(world.root)
    assert pages(world) == before


def test_a_long_evaluation_without_its_parts_still_builds(long_world):
    for arm in ("two_stage", "one_stage"):
        for seed in (0, 1, 2):

            def change(card):
                for model in ("student", "init"):
                    block = card["models"][model]["long"]
                    for key in ("switch", "cache_mib", "clips_files"):
                        del block[key]
                    block["by_frame"] = {"frame": block["by_frame"]["frame"]}
                    block["segments"] = [{"start": s["start"], "metrics": {"ink": 1.0}} for s in block["segments"]]

            long_world.edit(f"{NAMES[0]}/{arm}/seed{seed}/cards.json", change)
    compare.main(NAMES[0], long_world.root)
    page = report.main(long_world.root).with_name(f"{NAMES[0]}.html").read_text()
    part = section(page, "long")
    assert "Mean brightness against real" in part
    assert "<svg" not in part
    assert "<img" not in part


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]):
    """Serve on a free port of this machine; gives the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def posted_to(answers: queue.Queue):
    """Serve an address; whatever a page posts to it is put into the queue."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with serving(Handler) as address:
        yield address


@pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here")
def test_in_a_browser(built, long_built, tmp_path):
    sources = [built.root / "reports" / f"{name}.html" for name in ("index", *NAMES)]
    sources.append(shutil.copy(long_built.root / "reports" / f"{NAMES[0]}.html", built.root / "reports" / "long.html"))
    frames = [
        f'<iframe src="file://{source}" width="{width}" height="900" style="border:0"></iframe>'
        for source in sources
        for width in (1280, 400)
    ]
    probe, log, answers = tmp_path / "probe.html", tmp_path / "browser.log", queue.Queue()
    with posted_to(answers) as address, log.open("wb") as told:
        probe.write_text(PROBE % ("".join(frames), address))
        # The page says when it is done: a browser's virtual time runs ahead of the loading of files.
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000",
            f"file://{probe}",
        ]  # fmt: skip
        browser = subprocess.Popen(command, stdout=told, stderr=told, start_new_session=True)
        try:
            found = json.loads(answers.get(timeout=120))
        except queue.Empty:
            pytest.fail(f"the page said nothing within 120 s:\n{log.read_text(errors='replace')}")
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
    assert "CONSOLE" not in log.read_text(errors="replace"), log.read_text(errors="replace")
    assert len(found) == 8
    for page in found:
        assert page["overflow"] <= 0, page
        assert page["broken"] == page["bare"] == page["small"] == 0, page
        assert page["images"] == {"index.html": 0, "long.html": 2 * 6 * 4 + 3 * 3 * 3}.get(page["src"], 2 * 6 * 4), page


@contextlib.contextmanager
def slowly_loading(page: Path):
    """Serve a page whose load ends after the seconds in its address: a picture of it then shows that moment."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            _, kind, seconds = f"{self.path}//".split("/")[:3]
            if kind == "wait":
                time.sleep(float(seconds))
            found = kind == "page"
            self.send_response(200 if found else 204)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if found:
                self.wfile.write(page.read_bytes() + f'<img src="/wait/{seconds}" alt="">'.encode())

        def log_message(self, *_):
            pass

    with serving(Handler) as address:
        yield f"{address}/page"


def moves(page: Path, folder: Path, moments: tuple[float, ...]) -> bool:
    """Whether a browser shows a page differently at any of the moments (seconds)."""
    first = None
    with slowly_loading(page) as address:
        for seconds in moments:
            picture = folder / f"{seconds}.png"
            command = [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
                "--window-size=1280,6000", f"--screenshot={picture}", f"{address}/{seconds}",
            ]  # fmt: skip
            subprocess.run(command, capture_output=True, timeout=120, check=True)
            first = first or picture.read_bytes()
            if picture.read_bytes() != first:
                return True
    return False


@pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here")
def test_clips_play_in_a_browser(built, tmp_path):
    page = built.root / "reports" / f"{NAMES[0]}.html"
    assert moves(page, tmp_path, (0.3, 0.5, 0.7, 0.9))
    for clip in (built.root / "comparisons" / NAMES[0] / "clips").iterdir():
        with Image.open(clip) as animation:
            animation.convert("RGB").save(clip, "WEBP")
    report.main(built.root)
    assert not moves(page, tmp_path, (0.3, 0.7))  # else it was something else that moved
