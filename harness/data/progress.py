"""One line on standard error: how much is done, how long it will take."""

from __future__ import annotations

import sys
import time


def remaining_text(done: int, total: int, seconds: float) -> str:
    """For example `512/2,000 clips, 0:34 left`."""
    if not done:
        return f"0/{total:,} clips"
    minutes, rest = divmod(round(seconds / done * (total - done)), 60)
    return f"{done:,}/{total:,} clips, {minutes}:{rest:02d} left"


class Progress:
    """Counts clips; writes at most one line per `interval` seconds, rewritten in place on a terminal."""

    def __init__(self, title: str, total: int, *, silent: bool = False, interval: float = 2.0):
        self.title, self.total, self.silent, self.interval = title, total, silent, interval
        self.done = 0
        self.begun = self.written = time.monotonic()

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if self.silent or (now - self.written < self.interval and self.done < self.total):
            return
        self.written = now
        terminal = sys.stderr.isatty()
        line = f"{self.title}: {remaining_text(self.done, self.total, now - self.begun)}"
        end = "\n" if not terminal or self.done >= self.total else ""
        print(f"\r\033[K{line}" if terminal else line, end=end, file=sys.stderr, flush=True)
