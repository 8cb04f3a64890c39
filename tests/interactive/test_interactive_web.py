"""The page: who may open it, what it is sent, what it may ask; and the page itself in a browser."""

import asyncio
import io
import json
import os
import shutil
import socket
import subprocess
from contextlib import asynccontextmanager

import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError
from drawn_film import Drawn, read
from PIL import Image

from harness.errors import HarnessError
from harness.interactive import web
from harness.interactive.session import Session, Shown

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@asynccontextmanager
async def served(film=None, **options):
    """A session on a page: gives the session, its address and a client."""
    address = asyncio.get_running_loop().create_future()
    session = Session(film or Drawn(), read, read("first"), **{"fps": 200, **options})
    serving = asyncio.create_task(web.serve(session, 0, address.set_result))
    async with ClientSession() as client:
        await asyncio.wait({serving, address}, return_when=asyncio.FIRST_COMPLETED)
        try:
            yield session, await address, client
        finally:
            session.stop()
            await asyncio.wait({serving})
    serving.result()


async def frame_of(feed) -> tuple[dict, np.ndarray]:
    """The next frame of a feed, and the state that came before it."""
    state = {}
    async for message in feed:
        if message.type == WSMsgType.BINARY:
            return state, np.asarray(Image.open(io.BytesIO(message.data)))
        state = json.loads(message.data).get("state", state)
    raise AssertionError("the feed ended")


async def told(feed, name: str):
    """What comes next under a name."""
    async for message in feed:
        if message.type == WSMsgType.TEXT and name in (said := json.loads(message.data)):
            return said[name]
    raise AssertionError(f"the feed ended without {name}")


async def until_state(feed, true) -> dict:
    for _ in range(2000):
        if true(state := await told(feed, "state")):
            return state
    raise AssertionError("it never came")


async def until(true) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


def test_frames_and_state_come_and_what_is_typed_is_done():
    async def scene():
        async with served() as (_, address, client), client.ws_connect(f"{address}feed") as feed:
            state, image = await frame_of(feed)
            assert image.shape == (6, 10, 3)
            assert (image[..., 1] == 40).all()
            assert state["viewers"] == 1
            assert state["coming"] == []
            await feed.send_json({"say": "strange things"})
            assert await told(feed, "notes") == ["strange"]
            await until_state(feed, lambda state: state["prompt"] == "strange things")
            await feed.send_json({"pause": True})
            await until_state(feed, lambda state: state["paused"])
            await feed.send_json({"restart": None})
            state = await until_state(feed, lambda state: state["seed"] == 1)
            assert (state["prompt"], state["paused"]) == ("strange things", False)
            await feed.send_json({"restart": "other"})
            await until_state(feed, lambda state: (state["seed"], state["prompt"]) == (2, "other"))

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_several_see_the_same_video_and_nothing_is_made_when_all_have_left():
    async def scene():
        film = Drawn()
        async with served(film) as (session, address, client):
            await asyncio.sleep(0.1)
            assert (film.blocks, session.count) == (1, 0)
            async with client.ws_connect(f"{address}feed") as one, client.ws_connect(f"{address}feed") as two:
                await until_state(one, lambda state: state["viewers"] == 2)
                await two.send_json({"say": "second"})
                await until_state(one, lambda state: state["prompt"] == "second")
                await until_state(two, lambda state: state["prompt"] == "second")
            await until(lambda: session.state().viewers == 0)
            await asyncio.sleep(0.05)
            count = session.count
            await asyncio.sleep(0.1)
            assert session.count == count

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_slow_page_misses_frames_and_gets_the_newest():
    async def scene():
        viewer = web.Viewer(web.Encoder())
        for number in range(3):
            viewer.show(Shown(number, np.full((2, 2, 3), number, np.uint8), "p", 0))
        data = await viewer.frame()
        assert data is not None
        assert np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0] == 2
        assert await viewer.frame() is None

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('{"say": ""}', "empty prompt"),
        ('{"restart": " "}', "empty prompt"),
        ("{", "not understood"),
        ("[]", "not understood"),
        ("7", "not understood"),
        ('{"say": 7}', "not understood"),
        ('{"pause": "yes"}', "not understood"),
        ('{"say": "a", "pause": true}', "not understood"),
        ('{"quit": null}', "not understood"),
        ("[" * 15_000, "not understood"),
        ('{"say": ' * 1_500 + "7" + "}" * 1_500, "not understood"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(message, words):
    async def scene():
        async with served() as (session, address, client), client.ws_connect(f"{address}feed") as feed:
            await feed.send_str(message)
            error = await told(feed, "error")
            assert words in error
            assert "\n" not in error
            assert not session.stopped

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_other_pages_and_other_names_are_refused():
    async def scene():
        async with served() as (session, address, client):
            port = address.rsplit(":", 1)[1].strip("/")
            for headers in ({"Host": f"evil.example:{port}"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
                async with client.get(address, headers=headers) as response:
                    assert response.status == 403
                    assert "127.0.0.1" in await response.text()
                with pytest.raises(WSServerHandshakeError):
                    await client.ws_connect(f"{address}feed", headers=headers)
            for headers in ({"Host": f"localhost:{port}"}, {"Origin": address.rstrip("/")}, {}):
                async with client.get(address, headers=headers) as response:
                    assert response.status == 200
                    assert "connect-src 'self'" in response.headers["Content-Security-Policy"]
            assert session.state().viewers == 0

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_only_this_machine_is_served():
    async def scene():
        async with served() as (_, address, client):
            assert address.startswith("http://127.0.0.1:")
            port = int(address.rsplit(":", 1)[1].strip("/"))
            with socket.socket() as probe:  # another address of this machine
                assert probe.connect_ex(("127.0.0.2", port)) != 0
            async with client.get(f"{address}etc/passwd") as response:
                assert response.status == 404

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_port_in_use_is_a_message():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        session = Session(Drawn(), read, read("first"))
        with pytest.raises(HarnessError, match=rf"--port {port}: cannot be used .*name another"):
            asyncio.run(web.serve(session, port, print))
    assert session.stopped


def test_what_breaks_the_film_is_told_to_pages_and_to_the_caller():
    async def scene():
        async with served(Drawn(fails_at=8)) as (_, address, client), client.ws_connect(f"{address}feed") as feed:
            assert await told(feed, "end") == "the film broke"

    with pytest.raises(HarnessError, match="the film broke"):
        asyncio.run(asyncio.wait_for(scene(), 60))


def test_small_frames_are_exact_and_encoded_once():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(web.encode(image)))), image)
    assert web.encode(np.zeros((480, 832, 3), np.uint8))[:2] == b"\xff\xd8"
    encoder, shown = web.Encoder(), Shown(0, image, "p", 0)
    assert encoder(shown) is encoder(shown)
    assert encoder(Shown(1, image[::-1], "p", 0)) != encoder(shown)


def test_the_page_loads_nothing_from_elsewhere():
    text = web.PAGE.read_text()
    assert "http" not in text.replace("http-equiv", "")
    assert "innerHTML" not in text


class Browser:
    """A page in headless Chromium, spoken to by its debugging protocol: in real time, as a person would use it."""

    def __init__(self, link) -> None:
        self.link, self.number, self.problems = link, 0, []

    async def call(self, method: str, **params):
        self.number += 1
        await self.link.send_json({"id": self.number, "method": method, "params": params})
        async for message in self.link:
            data = json.loads(message.data)
            if data.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(data["params"])
            if data.get("id") == self.number:
                return data["result"]
        raise AssertionError("the browser left")

    async def value(self, code: str):
        result = await self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        return result["result"].get("value")

    async def until(self, code: str):
        for _ in range(900):  # a busy machine draws slowly
            if found := await self.value(code):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {code}; the page says {await self.value('document.body.innerText')}")


@asynccontextmanager
async def browser(folder, client):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    command += ["--remote-debugging-port=0", "--window-size=1280,900", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        place = folder / "DevToolsActivePort"
        for _ in range(600):
            if place.is_file() and place.read_text().count("\n"):
                break
            await asyncio.sleep(0.05)
        async with client.get(f"http://127.0.0.1:{place.read_text().split()[0]}/json/list") as response:
            pages = [page for page in await response.json(content_type=None) if page["type"] == "page"]
        async with client.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as link:
            opened = Browser(link)
            for domain in ("Runtime", "Log", "Page"):
                await opened.call(f"{domain}.enable")
            yield opened
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here")
def test_in_a_browser(tmp_path):
    async def scene():
        async with served(fps=30) as (session, address, client), browser(tmp_path, client) as page:
            await page.call("Page.navigate", url=address)
            await page.until("document.getElementById('video')?.naturalWidth === 10")
            first = await page.value("document.getElementById('frame').textContent")
            await page.until(f"document.getElementById('frame').textContent !== {json.dumps(first)}")
            await page.value("document.getElementById('prompt').value = '<b>strange</b>'; form.requestSubmit()")
            await page.until("document.getElementById('current').textContent === '<b>strange</b>'")
            assert await page.value("document.getElementById('told').textContent") == "strange"
            assert await page.value("document.getElementById('viewers').textContent") == "1"
            assert "frames a second" in await page.value("document.getElementById('speed').textContent")
            await page.value("document.getElementById('prompt').value = ' '; form.requestSubmit()")
            await page.until("document.querySelector('#told.error')?.textContent.startsWith('an empty prompt')")
            await page.value("document.getElementById('pause').click()")
            await page.until("document.getElementById('pause').textContent === 'Go on'")
            assert session.state().paused
            await page.value("document.getElementById('restart').click()")
            await page.until("/seed 1/.test(document.getElementById('frame').textContent)")
            assert not session.state().paused
            for width in (1280, 400):
                await page.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
                )
                root = "document.documentElement"
                assert await page.value(f"{root}.scrollWidth - {root}.clientWidth") <= 0
                assert await page.value("document.getElementById('video').clientHeight") >= 96
            assert await page.value("performance.getEntriesByType('resource').length") == 0  # nothing else is loaded
            hide = "Object.defineProperty(document, 'hidden', {configurable: true, value: %s});"
            event = "document.dispatchEvent(new Event('visibilitychange'))"
            await page.value(hide % "true" + event)
            await until(lambda: session.state().viewers == 0)  # a page that nobody looks at
            await page.value(hide % "false" + event)
            await until(lambda: session.state().viewers == 1)
            assert not page.problems
            session.stop()
            await page.until("document.querySelector('#told.error')?.textContent === 'the video has ended'")

    asyncio.run(asyncio.wait_for(scene(), 120))
