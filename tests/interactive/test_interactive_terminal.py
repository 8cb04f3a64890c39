"""Lines that are typed, what is answered, and the picture in characters."""

import contextlib
import fcntl
import io
import os
import re
import threading

import numpy as np
import pytest
from drawn_film import Drawn, read, until

from harness.errors import HarnessError
from harness.interactive import terminal
from harness.interactive.session import Session, Shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def pipe():
    source, target = os.pipe()
    yield source, target
    for end in (source, target):
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(end)


def running(pipe, out, film=None, **options):
    """A terminal at work; gives the session and the thread."""
    end = options.pop("end_with_input", True)
    session = Session(film or Drawn(seconds=0.01), read, read("first"), **options)
    thread = threading.Thread(target=terminal.run, args=(session, pipe[0], out), kwargs={"end_with_input": end})
    thread.start()
    return session, thread


def test_what_is_typed_is_the_next_prompt(pipe):
    out = io.StringIO()
    session, thread = running(pipe, out)
    until(lambda: "frame 0: first (seed 0)" in out.getvalue())
    os.write(pipe[1], b"seco")
    os.write(pipe[1], "nd é\n\n/dance\nstrange\n".encode())
    until(lambda: re.search(r"frame \d*[048]: second é \(seed 0\)", out.getvalue()))
    until(lambda: re.search(r"frame \d+: strange \(seed 0\)", out.getvalue()))
    assert "error: an empty prompt" in out.getvalue()
    assert "error: /dance: no such command; /pause" in out.getvalue()
    assert "note: strange" in out.getvalue()
    os.write(pipe[1], b"/pause\n")
    until(lambda: session.state().paused)
    os.write(pipe[1], b"/go\n")
    until(lambda: not session.state().paused)
    os.write(pipe[1], b"/restart\n")
    until(lambda: "frame 0: strange (seed 1)" in out.getvalue())
    os.write(pipe[1], b"/restart again\n")
    until(lambda: "frame 0: again (seed 2)" in out.getvalue())
    os.write(pipe[1], b"/quit\n")
    thread.join(20)
    assert not thread.is_alive()
    assert re.search(rf"\n{session.count} frames shown; made at 40.0 frames a second\n$", out.getvalue())
    assert "\x1b" not in out.getvalue()  # no screen, no codes


def test_the_end_of_input_ends_it_unless_frames_were_asked_for(pipe):
    os.write(pipe[1], b"second")
    os.close(pipe[1])
    out = io.StringIO()
    film = Drawn()
    session, thread = running(pipe, out, film, limit=20, end_with_input=False)
    thread.join(20)
    assert session.count == 20
    assert ("switch", "second") in [call[:2] for call in film.calls]  # the last line needs no end
    session, thread = running(pipe, io.StringIO())
    thread.join(20)
    assert not thread.is_alive()


def test_it_ends_with_the_session_though_nothing_is_typed(pipe):
    session, thread = running(pipe, io.StringIO(), limit=5)
    thread.join(20)
    assert session.count == 5


def test_on_a_screen_the_picture_is_drawn_above_what_is_typed(pipe, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "30")
    out = Terminal()
    _, thread = running(pipe, out, limit=9)
    thread.join(20)
    text = out.getvalue()
    assert text.startswith("\x1b[2J\x1b[23;30r\x1b[23;1H")
    assert text.index("\x1b[r") > text.rindex("▀")  # all lines scroll again in the end
    assert text.count("\x1b7") == text.count("\x1b8") == 9
    for frame in range(9):
        assert f"frame {frame}\x1b[K" in text


def test_where_there_is_no_screen(monkeypatch):
    assert terminal.screen_of(io.StringIO()) is None
    monkeypatch.setenv("TERM", "dumb")
    assert terminal.screen_of(Terminal()) is None
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "10")
    assert terminal.screen_of(Terminal()) is None


@pytest.mark.parametrize(
    ("size", "room", "expected"),
    [
        ((24, 24), (80, 40), (48, 48)),
        ((24, 24), (30, 40), (24, 24)),
        ((3, 5), (11, 10), (2, 3)),
        ((480, 832), (80, 40), (46, 80)),
        ((5, 7), (7, 40), (6, 7)),
    ],
)
def test_a_picture_fits(size, room, expected):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    screen = terminal.Screen(*room)
    pixels = screen.fit(image)
    assert pixels.shape[:2] == expected
    drawn = screen.picture(Shown(7, image, "p", 0))
    assert drawn.count("▀") == pixels.shape[0] // 2 * pixels.shape[1]
    assert drawn.count("\x1b[0m") == pixels.shape[0] // 2


def test_colors_are_those_of_the_pixels():
    image = np.zeros((2, 1, 3), np.uint8)
    image[0, 0], image[1, 0] = (1, 2, 3), (4, 5, 6)
    assert "\x1b[1;1H\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[0m" in terminal.Screen(1, 10).picture(Shown(0, image, "p", 0))


def test_an_error_of_the_film_is_raised_and_the_screen_is_put_right(pipe, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "30")
    out = Terminal()
    session = Session(Drawn(fails_at=4), read, read("first"))
    with pytest.raises(HarnessError, match="the film broke"):
        terminal.run(session, pipe[0], out)
    assert "\x1b[r" in out.getvalue()


def test_a_descriptor_may_be_as_high_as_the_system_allows(pipe):
    high = fcntl.fcntl(pipe[0], fcntl.F_DUPFD, 1030)
    try:
        session = Session(Drawn(seconds=0.01), read, read("first"))
        os.write(pipe[1], b"second\n")
        os.close(pipe[1])
        assert list(terminal.typed(high, session)) == ["second"]
    finally:
        os.close(high)
