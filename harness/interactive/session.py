"""One video that several people watch and speak to at once: what is being made, what is shown, and what was said.

Two threads: one makes blocks, at most `ahead` before what is shown; one shows their frames, in the video's own time,
to all who watch. When nobody watches, or somebody has paused, both wait.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread
from types import TracebackType
from typing import Protocol

import numpy as np
from attrs import frozen

from harness.errors import HarnessError
from harness.interactive.film import Piece, Said

WAITING = 8  # prompts that may wait, each for a block of its own
_RECENT = 5  # blocks over which speed is measured


class Makes(Protocol):
    """What a session asks of a `Film`."""

    def begin(self, said: Said, seed: int) -> None:
        """Begin a video."""
        ...

    def switch(self, said: Said) -> None:
        """Show something else from the next block on."""
        ...

    def next(self) -> Piece:
        """Make a block."""
        ...


@frozen(eq=False)
class Shown:
    """One frame of the video on its way to those who watch: uint8 `[H, W, 3]`, its index, and what it is made of."""

    frame: int
    image: np.ndarray
    prompt: str
    seed: int


@frozen
class State:
    """How a session stands. `frame` is None until one was shown; speeds in frames a second, None until known.

    `coming` are the prompts that were said and are not seen yet.
    """

    frame: int | None
    prompt: str
    seed: int
    coming: tuple[str, ...]
    paused: bool
    viewers: int
    making: float | None  # how fast blocks are made
    showing: float | None  # how fast frames come


class Session:
    """Shows a video until it is stopped. A context: threads run inside it, and an error in one is raised at its end.

    film        used by one thread only
    read        prompt → `Said`; raises HarnessError for one that cannot be used
    first       prompt of the beginning
    fps         frames a second that are shown; None: as they are made
    ahead       blocks that are made before they are shown: the longer, the later a new prompt is seen
    record      given every frame `[H, W, 3]` that is shown, in order
    limit       frames that are shown before the session stops by itself; None: no end
    """

    def __init__(
        self,
        film: Makes,
        read: Callable[[str], Said],
        first: Said,
        *,
        seed: int = 0,
        fps: float | None = None,
        ahead: int = 1,
        record: Callable[[np.ndarray], None] | None = None,
        limit: int | None = None,
    ) -> None:
        self._film, self._read, self._record = film, read, record
        self._fps, self._most, self._limit = fps, ahead, limit
        self._changed = Condition()  # of all below
        self._beginning: Said | None = first
        self._seed = seed
        self._last_said = first
        self._waiting: deque[Said] = deque()
        self._making = first.prompt
        self._ahead: deque[Piece] = deque()
        self._frames: deque[Shown] = deque()  # of the block that is being shown
        self._viewers: list[Callable[[Shown], None]] = []
        self._now: Shown | None = None
        self._count = 0  # frames shown, of all videos
        self._made: deque[Piece] = deque(maxlen=_RECENT)
        self._times: deque[float] = deque(maxlen=20)  # of the last frames
        self._paused = self._stopped = False
        self._error: Exception | None = None
        self._threads = [
            Thread(target=self._guarded, args=(work,), name=work.__name__, daemon=True)
            for work in (self._make, self._show)
        ]

    def __enter__(self) -> Session:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def say(self, prompt: str) -> Said:
        """Show this from the next block on that is not yet begun, or after the prompts that wait already.

        Raises HarnessError for a prompt that cannot be used, or when too many wait.
        """
        said = self._read(prompt)
        with self._changed:
            if len(self._waiting) >= WAITING:
                raise HarnessError(f"{WAITING} prompts wait already, each for its block; wait a little, or restart")
            self._waiting.append(said)
            self._last_said = said
            self._changed.notify_all()
        return said

    def restart(self, prompt: str | None = None) -> Said:
        """Begin another video (the next seed), with this prompt or the last that was said. It is not paused.

        Raises HarnessError for a prompt that cannot be used.
        """
        said = None if prompt is None else self._read(prompt)
        with self._changed:
            self._last_said = self._beginning = said or self._last_said
            self._making = self._last_said.prompt
            self._seed += 1
            self._paused = False
            for queue in (self._waiting, self._ahead, self._frames, self._times):
                queue.clear()
            self._changed.notify_all()
            return self._last_said

    def pause(self, paused: bool = True) -> None:
        """Stop showing, for all who watch, or go on."""
        with self._changed:
            self._paused = paused
            self._times.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """End the session; what is not yet shown is dropped. Returns at once."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the session stops, at most so long; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped, seconds)

    @contextmanager
    def watching(self, show: Callable[[Shown], None]) -> Iterator[None]:
        """While open, `show` is called with every frame, in the thread that shows: it must be quick."""
        with self._changed:
            self._viewers.append(show)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._viewers.remove(show)

    @property
    def stopped(self) -> bool:
        """Whether the session has ended."""
        return self._stopped

    @property
    def error(self) -> Exception | None:
        """What ended it, if it did not end in peace."""
        return self._error

    @property
    def count(self) -> int:
        """Frames shown so far, those before a restart included."""
        return self._count

    def state(self) -> State:
        """How it stands now."""
        with self._changed:
            seconds = sum(piece.seconds for piece in self._made)
            frames = sum(len(piece.frames) for piece in self._made)
            span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
            prompts = [piece.prompt for piece in self._ahead] + [self._making]
            prompts += [said.prompt for said in self._waiting]
            before = [self._making if self._now is None else self._now.prompt, *prompts]
            return State(
                frame=None if self._now is None else self._now.frame,
                prompt=before[0],
                seed=self._seed if self._now is None else self._now.seed,
                coming=tuple(prompt for last, prompt in zip(before, prompts) if prompt != last),
                paused=self._paused,
                viewers=len(self._viewers),
                making=frames / seconds if seconds else None,
                showing=(len(self._times) - 1) / span if span else None,
            )

    def _guarded(self, work: Callable[[], None]) -> None:
        """An error in one thread stops both, and is kept for the one who holds the session."""
        try:
            work()
        except Exception as error:
            with self._changed:
                self._error = self._error or error
            self.stop()

    def _make(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._beginning or len(self._ahead) < self._most)
                if self._stopped:
                    return
                beginning, self._beginning = self._beginning, None
                seed = self._seed
                said = self._waiting.popleft() if self._waiting and not beginning else None
                if new := beginning or said:
                    self._making = new.prompt
            if beginning is not None:
                self._film.begin(beginning, seed)
            if said is not None:
                self._film.switch(said)
            piece = self._film.next()
            with self._changed:
                if self._beginning is None:  # else this one is of a video that nobody wants any more
                    self._ahead.append(piece)
                    self._made.append(piece)
                    self._changed.notify_all()

    def _show(self) -> None:
        due = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(self._can_show)
                if self._stopped:
                    return
                if self._fps is not None and (left := due - time.monotonic()) > 0:
                    self._changed.wait(left)
                    continue  # something may have changed meanwhile
                started, shown, viewers = time.monotonic(), self._take(), list(self._viewers)
            if self._record is not None:
                self._record(shown.image)
            for show in viewers:
                show(shown)
            with self._changed:
                self._times.append(time.monotonic())
                self._count += 1
            if self._count == self._limit:
                self.stop()
            if self._fps is not None:  # a little late is made up for, a pause is not
                due = max(due, started - 0.5 / self._fps) + 1 / self._fps

    def _can_show(self) -> bool:
        return self._stopped or bool(self._viewers and not self._paused and (self._frames or self._ahead))

    def _take(self) -> Shown:
        """The next frame, of the next block where one is through."""
        if not self._frames:
            piece = self._ahead.popleft()
            self._frames.extend(
                Shown(i, image, piece.prompt, piece.seed) for i, image in enumerate(piece.frames, piece.start)
            )
            self._changed.notify_all()
        self._now = self._frames.popleft()
        return self._now
