"""In the terminal: a line that is typed while the video is made is its next prompt; the picture is drawn in characters
where there is a screen.
"""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Iterator
from threading import Lock
from typing import TextIO

import numpy as np
from PIL import Image

from harness.errors import HarnessError
from harness.interactive.session import Session, Shown

HELP = "/pause, /go, /restart [prompt] and /quit (or Ctrl-D) do what they say"
_BELOW = 8  # lines under the picture for what is typed and said


def typed(source: int, session: Session, poll: float = 0.2) -> Iterator[str]:
    """Lines that come from a file descriptor until it ends, or until the session stops."""
    rest = b""
    waiting = select.poll()  # select() takes no descriptor above 1023
    waiting.register(source, select.POLLIN)
    while not session.stopped:
        if not waiting.poll(1000 * poll):
            continue
        data = os.read(source, 65536)
        if not data:
            if rest:
                yield rest.decode(errors="replace")
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def obey(session: Session, line: str) -> str | None:
    """Do what a line says; what is to be answered. Raises HarnessError for a line that cannot be followed."""
    word, _, rest = line.strip().partition(" ")
    if word == "/quit":
        session.stop()
        return None
    if word in ("/pause", "/go"):
        session.pause(word == "/pause")
        return "paused; /go goes on" if word == "/pause" else None
    if word == "/restart":
        said = session.restart(rest.strip() or None)
    elif word.startswith("/"):
        raise HarnessError(f"{word}: no such command; {HELP}")
    else:
        said = session.say(line)
    return "\n".join(f"note: {note}" for note in said.notes) or None


class Reporter:
    """Writes a line where the prompt or the video changes, and the picture where there is a screen."""

    def __init__(self, out: TextIO, screen: Screen | None) -> None:
        self.out, self.screen = out, screen
        self._lock = Lock()  # frames come from one thread, answers from another
        self._last: tuple[str, int] | None = None

    def show(self, shown: Shown) -> None:
        """Take a frame."""
        if self._last != (shown.prompt, shown.seed):
            self._last = shown.prompt, shown.seed
            self.say(f"frame {shown.frame}: {shown.prompt} (seed {shown.seed})")
        if self.screen is not None:
            self._write(self.screen.picture(shown))

    def say(self, text: str) -> None:
        """Write a line."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        with self._lock:
            self.out.write(text)
            self.out.flush()


class Screen:
    """The picture in the upper part of a terminal, two pixels to a character; below it lines scroll as ever."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines

    def open(self) -> str:
        """Clear, and leave the lower lines to what is typed: they scroll for themselves."""
        return f"\x1b[2J\x1b[{self.lines - _BELOW + 1};{self.lines}r\x1b[{self.lines - _BELOW + 1};1H"

    def close(self) -> str:
        """Let all lines scroll again."""
        return f"\x1b[r\x1b[{self.lines};1H\n"

    def picture(self, shown: Shown) -> str:
        """The codes that draw a frame and its number, and put the cursor back."""
        pixels = self.fit(shown.image)
        rows = [
            "".join(_cell(upper, lower) for upper, lower in zip(pixels[y], pixels[y + 1])) + "\x1b[0m"
            for y in range(0, len(pixels), 2)
        ]
        rows.append(f"frame {shown.frame}\x1b[K")
        return "\x1b7" + "".join(f"\x1b[{y};1H{row}" for y, row in enumerate(rows, 1)) + "\x1b8"

    def fit(self, image: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]` as large as there is room, whole times where it is enlarged; an even number of rows."""
        height, width = image.shape[:2]
        room = max(self.lines - _BELOW - 1, 1) * 2, self.columns
        scale = min(room[0] / height, room[1] / width)
        if scale >= 1:
            larger = image.repeat(int(scale), axis=0).repeat(int(scale), axis=1)
        else:
            size = max(int(width * scale), 1), max(int(height * scale), 1)
            larger = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        return larger if len(larger) % 2 == 0 else np.concatenate([larger, np.zeros_like(larger[:1])])


def _cell(upper: np.ndarray, lower: np.ndarray) -> str:
    """Two pixels, one above the other, as one character."""
    return "\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*upper.tolist(), *lower.tolist())


def screen_of(out: TextIO) -> Screen | None:
    """The terminal that is written to, if it is one and large enough for a picture."""
    if not out.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    columns, lines = shutil.get_terminal_size()
    return Screen(columns, lines) if columns >= 12 and lines >= _BELOW + 7 else None


def run(session: Session, source: int, out: TextIO, *, end_with_input: bool = True) -> None:
    """Show a session, and do what is typed, until it stops or, with `end_with_input`, nothing more can be typed."""
    screen = screen_of(out)
    reporter = Reporter(out, screen)
    if screen is not None:
        reporter.out.write(screen.open())
    try:
        reporter.say(f"type what is to be seen next; {HELP}")
        with session, session.watching(reporter.show):
            for line in typed(source, session):
                try:
                    answer = obey(session, line)
                except HarnessError as error:
                    answer = f"error: {error}"
                if answer:
                    reporter.say(answer)
            if not end_with_input:
                session.wait()
    finally:
        if screen is not None:
            out.write(screen.close())
            out.flush()
    state = session.state()
    speed = "" if state.making is None else f"; made at {state.making:.1f} frames a second"
    out.write(f"{session.count} frames shown{speed}\n")
