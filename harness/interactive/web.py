"""A page on this machine that shows a session's frames as they are made, and sends it what is typed.

Bound to 127.0.0.1, so that no other machine reaches it; and it answers no page of another origin, nor another name for
this address, so that no page that is open elsewhere in the browser reaches it either.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from aiohttp import WSMsgType, web
from attrs import asdict
from PIL import Image

from harness.errors import HarnessError
from harness.interactive.session import Session, Shown

HOST, PORT = "127.0.0.1", 8765
PAGE = Path(__file__).with_name("templates") / "page.html"
LONGEST = 16_384  # bytes of a message: a prompt, or a command
_OURS = {"127.0.0.1", "localhost"}
_TELL = 0.25  # seconds between two states, where no frame brings one
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"
)


def encode(image: np.ndarray) -> bytes:
    """A frame uint8 `[H, W, 3]` for a browser: exact (PNG) where it is small, else JPEG, which is faster to make."""
    buffer, picture = io.BytesIO(), Image.fromarray(image)
    if max(image.shape[:2]) <= 256:
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Encoder:
    """Encodes each frame once, however many watch."""

    def __init__(self) -> None:
        self._last: Shown | None = None
        self._data = b""

    def __call__(self, shown: Shown) -> bytes:
        """Called in one thread only."""
        if shown is not self._last:
            self._last, self._data = shown, encode(shown.image)
        return self._data


class Viewer:
    """One page that is open: the newest frame that it was not sent. A slow page misses frames and holds up no other."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._loop = asyncio.get_running_loop()
        self._newest: bytes | None = None
        self._come = asyncio.Event()

    def show(self, shown: Shown) -> None:
        """Take a frame, in the thread of the session."""
        self._loop.call_soon_threadsafe(self._put, self._encoder(shown))

    async def frame(self) -> bytes | None:
        """The newest frame, or None when there was none for a while."""
        try:
            await asyncio.wait_for(self._come.wait(), _TELL)
        except TimeoutError:
            return None
        self._come.clear()
        data, self._newest = self._newest, None
        return data

    def _put(self, data: bytes) -> None:
        self._newest = data
        self._come.set()


def obey(session: Session, message: str) -> list[str]:
    """Do what a page asks: `{"say": prompt}`, `{"pause": bool}`, or `{"restart": prompt or null}`. Returns notes.

    Raises HarnessError for anything else, or a prompt that cannot be used.
    """
    try:
        ((name, value),) = json.loads(message).items()
    except (ValueError, AttributeError, TypeError, RecursionError):  # the last: nested too deeply
        name, value = None, None
    if name == "say" and isinstance(value, str):
        return list(session.say(value).notes)
    if name == "pause" and isinstance(value, bool):
        session.pause(value)
        return []
    if name == "restart" and (value is None or isinstance(value, str)):
        return list(session.restart(value).notes)
    raise HarnessError('not understood; expected {"say": prompt}, {"pause": true} or {"restart": prompt or null}')


def ours(request: web.Request) -> bool:
    """Whether a request is to this address by its own name, and from no other page than its own."""
    name = urlsplit(f"//{request.host}").hostname
    origin = request.headers.get("Origin")
    return name in _OURS and (origin is None or urlsplit(origin).netloc == request.host)


@web.middleware
async def only_ours(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Refuse what another page in the same browser asks."""
    if not ours(request):
        raise web.HTTPForbidden(text="this page is for this machine alone: open it as http://127.0.0.1")
    return await handler(request)


def application(session: Session) -> web.Application:
    """The page, and the socket by which it is fed. The session runs already."""
    encoder = Encoder()
    sockets: set[web.WebSocketResponse] = set()

    async def page(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
        return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html", headers=headers)

    async def feed(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=20, max_msg_size=LONGEST, compress=False)  # pictures are small already
        await socket.prepare(request)
        sockets.add(socket)
        viewer = Viewer(encoder)
        with session.watching(viewer.show):
            sending = asyncio.create_task(send(socket, viewer))
            try:
                async for message in socket:
                    if message.type == WSMsgType.TEXT:
                        await answer(socket, message.data)
            finally:
                sockets.discard(socket)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return socket

    async def send(socket: web.WebSocketResponse, viewer: Viewer) -> None:
        while not session.stopped:
            data = await viewer.frame()
            await socket.send_json({"state": asdict(session.state())})
            if data is not None:
                await socket.send_bytes(data)
        await socket.send_json({"end": "the video has ended" if session.error is None else str(session.error)})
        await socket.close()

    async def answer(socket: web.WebSocketResponse, message: str) -> None:
        try:
            notes = await asyncio.to_thread(obey, session, message)  # a large text encoder takes its time
        except HarnessError as error:
            await socket.send_json({"error": str(error)})
        else:
            await socket.send_json({"notes": notes})

    async def close(_: web.Application) -> None:
        for socket in list(sockets):
            await socket.close()

    app = web.Application(middlewares=[only_ours])
    app.add_routes([web.get("/", page), web.get("/feed", feed)])
    app.on_shutdown.append(close)
    return app


async def serve(session: Session, port: int, announce: Callable[[str], None]) -> None:
    """Show a session on a page until it stops or this is cancelled; `announce` is told the address. Port 0: a free one.

    Raises HarnessError when the port is taken, and what ended the session.
    """
    with session:
        runner = web.AppRunner(application(session), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, port)
            try:
                await site.start()
            except OSError as error:
                raise HarnessError(
                    f"--port {port}: cannot be used ({error.strerror or error}); another program may have it: name "
                    "another, or 0 for any that is free"
                ) from error
            announce(f"http://{HOST}:{runner.addresses[0][1]}/")
            while not session.stopped:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.3)  # pages are told why
        finally:
            session.stop()
            await runner.cleanup()
