"""`python -m harness interactive TARGET`: a video that goes on, and does what one types while it is made."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.evaluation.media import enlarge, scale_for
from harness.interactive import terminal, web
from harness.interactive.loading import Loaded, load_film
from harness.interactive.session import Session
from harness.pipeline.video_writer import FFmpegWriter

KINDS = (".mp4", ".gif", ".webp")  # a png is a strip of the whole video, which has no end
FILE = "samples/interactive.mp4"


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m harness interactive",
        description=f"{__doc__} In the terminal a line typed is a new prompt; {terminal.HELP}.",
    )
    p.add_argument("target", help="<experiment>/<arm>/seed<N>, causal_sft/seed<N> or runs/NAME: a causal generator")
    p.add_argument("--prompt", help='of the beginning, for example "a red 7 moving left slowly"; default: asked for')
    p.add_argument("--image", help="PNG, JPEG or WebP, for image to video")
    p.add_argument("--web", action="store_true", help="watch and type on a page that this machine alone can open")
    p.add_argument("--port", type=int, help=f"of the page, 0 for any that is free; default: {web.PORT}")
    p.add_argument("--out", help=f"file of what was shown ({', '.join(KINDS)}); default: {FILE}, none with --web")
    p.add_argument("--frames", type=int, help="stop after so many frames of video; default: go on")
    p.add_argument("--fps", type=float, help="frames a second that are shown, if they can be made; default: the data's")
    p.add_argument("--seed", type=int, default=0, help="of the noise; a restart takes the next one; default: 0")
    p.add_argument("--window", type=int, help="latent frames that a block sees, itself and the sink included")
    p.add_argument("--sink", type=int, help="first latent frames that never leave the window")
    p.add_argument("--rope", choices=["absolute", "relative"], help="positions of the rotary embedding")
    p.add_argument(
        "--on-switch",
        choices=["recache_keep_sink", "recache", "keep", "clear"],
        help="what a new prompt does to the cache; the four default to the target's own",
    )
    return p


def check(arguments: argparse.Namespace) -> None:
    """Raises HarnessError for what can be seen to be wrong before anything is loaded."""
    for name, least in (("frames", 1), ("seed", 0), ("port", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise HarnessError(f"--{name} {value}: expected at least {least}")
    if arguments.port is not None and (not arguments.web or arguments.port > 65535):
        raise HarnessError(f"--port {arguments.port}: {'at most 65535' if arguments.web else 'only with --web'}")
    if arguments.fps is not None and not 0 < arguments.fps <= 240:
        raise HarnessError(f"--fps {arguments.fps}: expected more than 0, and at most 240")
    if arguments.out is not None and Path(arguments.out).suffix.lower() not in KINDS:
        raise HarnessError(f"--out {arguments.out}: expected a file that ends in {', '.join(KINDS)}")


class Recording:
    """Writes every frame that is shown, enlarged as `sample` does; `path` None: nowhere."""

    def __init__(self, path: Path | None, fps: float) -> None:
        self.path = path
        self._writer = None if path is None else FFmpegWriter(path, fps)
        self._frames = 0

    def write(self, image: np.ndarray) -> None:
        """Append a frame, uint8 `[H, W, 3]`."""
        if self._writer is not None:
            self._writer.write(enlarge(image[None], scale_for(*image.shape[:2])))
            self._frames += 1

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """The file gets its name at the end; after an error it stays partial. Without frames there is none."""
        try:
            yield
        except HarnessError:
            if self._writer is not None:
                self._writer.stop()
            raise
        except BaseException:
            self._finish()
            raise
        self._finish()

    def _finish(self) -> None:
        if self._writer is not None and self._frames:
            self._writer.finish()
            print(f"{self.path}: {self._frames} frames")


def session_for(loaded: Loaded, arguments: argparse.Namespace, recording: Recording, paced: bool) -> Session:
    """The session of a loaded film; not `paced`: as fast as it is made."""
    fps = arguments.fps if arguments.fps is not None else loaded.fps if paced else None
    said = loaded.reader.read(arguments.prompt)
    for note in (*loaded.notes, *said.notes):
        print(f"note: {note}")
    return Session(
        loaded.film,
        loaded.reader.read,
        said,
        seed=arguments.seed,
        fps=fps,
        record=recording.write,
        limit=arguments.frames,
    )


def interactive(arguments: argparse.Namespace, root: Path = Path(".")) -> None:
    """Load the target, and show it until somebody ends it. Raises HarnessError for whatever is wrong."""
    check(arguments)
    if arguments.prompt is None:
        if not sys.stdin.isatty():
            raise HarnessError('no prompt: say how the video begins, for example --prompt "a red 7 moving left slowly"')
        arguments.prompt = input("what does the video show? ")
    out = arguments.out or (None if arguments.web else FILE)
    loaded = load_film(
        arguments.target,
        root,
        image=arguments.image,
        asked={name: getattr(arguments, name) for name in ("window", "sink", "rope", "on_switch")},
    )
    recording = Recording(None if out is None else Path(out), arguments.fps or loaded.fps)
    with recording.kept():
        if arguments.web:
            session = session_for(loaded, arguments, recording, paced=True)
            asyncio.run(web.serve(session, web.PORT if arguments.port is None else arguments.port, announce))
        else:
            session = session_for(loaded, arguments, recording, paced=sys.stdin.isatty())
            terminal.run(session, sys.stdin.fileno(), sys.stdout, end_with_input=arguments.frames is None)


def announce(address: str) -> None:
    """Say where the page is."""
    print(f"open {address} in a browser; Ctrl-C here ends it", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `interactive`. Ctrl-C and a polite kill end the video, and the file is finished."""
    endings = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, signal.default_int_handler) for each in endings]  # Composer would exit in our midst
    try:
        interactive(parser().parse_args(argv))
    except (KeyboardInterrupt, EOFError):
        with contextlib.suppress(OSError):
            os.write(1, b"\n")
    finally:
        for each, handler in zip(endings, before):
            signal.signal(each, handler)
    return 0
