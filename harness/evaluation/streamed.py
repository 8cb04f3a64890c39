"""Videos written while they are generated: noise, pixels and files a block at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from harness.evaluation.media import enlarge, scale_for
from harness.models.codec import VAE, to_pixels
from harness.models.frame_decoder import FrameDecoder
from harness.pipeline.generation import BlockNoise
from harness.pipeline.video_writer import writer_for
from harness.seeding import generator_for


def clip_noise(seed: int, clips: Sequence[int], shape: Sequence[int]) -> BlockNoise:
    """Noise of any block of the clips with these indices: it depends on the clip and the block's first frame alone.

    `shape` is that of latents, `[B, C, F, h, w]`.
    """
    _, channels, _, height, width = shape

    def draw(start: int, end: int) -> Tensor:
        size = (channels, end - start, height, width)
        return torch.stack([torch.randn(size, generator=generator_for(seed, "noise", 0, i, start)) for i in clips])

    return draw


def progress_text(done: int, total: int, seconds: float) -> str:
    """For example `512 of 2,000 frames, 8.5 a second, 2:55 left`."""
    if not done or seconds <= 0:
        return f"{done:,} of {total:,} frames"
    minutes, rest = divmod(round(seconds / done * (total - done)), 60)
    return f"{done:,} of {total:,} frames, {done / seconds:.1f} a second, {minutes}:{rest:02d} left"


class FrameProgress:
    """Says how far a video is: at most one line per `interval` seconds, rewritten in place on a terminal."""

    def __init__(self, total: int, interval: float = 2.0, out: TextIO | None = None) -> None:
        self.total, self.interval = total, interval
        self.out = sys.stderr if out is None else out
        self.done = 0
        self.begun = self.written = time.monotonic()

    def advance(self, count: int) -> None:
        """`count` more frames are written."""
        self.done += count
        now = time.monotonic()
        if now - self.written < self.interval and self.done < self.total:
            return
        self.written = now
        terminal = self.out.isatty()
        line = progress_text(self.done, self.total, now - self.begun)
        end = "\n" if not terminal or self.done >= self.total else ""
        print(f"\r\033[K{line}" if terminal else line, end=end, file=self.out, flush=True)

    def interrupt(self, files: Sequence[Path]) -> None:
        """Say where what was made so far lies."""
        if files:
            names = ", ".join(map(str, files))
            print(f"\nstopped: the first {self.done:,} frames are in {names}", file=self.out, flush=True)


def write_streams(
    paths: Sequence[Path],
    blocks: Iterable[Tensor],  # latents [B, C, f, h, w], one clip for each path
    vae: VAE,
    frames: int,
    fps: float,
    progress: FrameProgress,
) -> None:
    """Decode blocks as they come and append them to the files, until each has `frames` frames; the rest is cut.

    When it is stopped in between, what there is stays under the partial files' names.

    Raises HarnessError for files that cannot be written.
    """
    decoder = FrameDecoder(vae)
    with ExitStack() as stack:
        writers = [stack.enter_context(writer_for(path, fps, frames)) for path in paths]
        try:
            for block in blocks:
                with torch.autocast(block.device.type, enabled=False):  # half precision is for the generator
                    decoded = decoder.decode(block.float())
                videos = to_pixels(decoded)[:, : frames - progress.done]
                for writer, video in zip(writers, videos, strict=True):
                    writer.write(enlarge(video, scale_for(*video.shape[1:3])))
                progress.advance(videos.shape[1])
        except BaseException:
            progress.interrupt([left for writer in writers if (left := writer.stop()) is not None])
            raise
