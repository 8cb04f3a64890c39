"""A video file that is written while its frames are made: memory does not grow with its length.

Until the last frame is there the file is called `NAME.partial.SUFFIX`, so that a name without it is a whole video.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np

from harness.errors import HarnessError
from harness.io import atomic_write_bytes

_GIF = "[0:v]split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"  # each frame its own 256 colors
_ENCODERS = {  # ffmpeg's arguments
    ".mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "25"],
    ".gif": ["-lavfi", _GIF, "-loop", "0"],
    ".webp": ["-c:v", "libwebp", "-pix_fmt", "bgra", "-lossless", "1", "-loop", "0"],
}
STREAMED = (*_ENCODERS, ".png")
STRIP = 9  # frames in a strip


class VideoWriter(Protocol):
    """Takes frames until it is finished. As a context it finishes, or, after an error, stops where it is."""

    path: Path

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 `[F, H, W, 3]`."""
        ...

    def finish(self) -> None:
        """Close the file and give it its name. Raises HarnessError when it cannot be written."""
        ...

    def stop(self) -> Path | None:
        """Close what there is, for people to look at: the partial file's path, or None when there is nothing."""
        ...

    def __enter__(self) -> VideoWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Context:
    """Finish at the end, stop after an error."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.stop()

    def finish(self) -> None:
        raise NotImplementedError

    def stop(self) -> Path | None:
        raise NotImplementedError


class FFmpegWriter(_Context):
    """mp4, gif or lossless webp through ffmpeg's pipe. An odd last row or column is cut of an mp4 (H.264)."""

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix.lower()}")
        self.fps = fps
        self._even = self.path.suffix.lower() == ".mp4"
        self._ffmpeg: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 `[F, H, W, 3]`. Raises HarnessError when ffmpeg or the disk refuses."""
        if self._even:
            frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
        try:
            pipe = (self._ffmpeg or self._open(*frames.shape[1:3])).stdin
            assert pipe is not None
            pipe.write(np.ascontiguousarray(frames).tobytes())
            pipe.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def finish(self) -> None:
        """Close the file and give it its name. Raises HarnessError when it cannot be, or has no frame."""
        if self._ffmpeg is None:
            raise HarnessError(f"{self.path}: a video without a frame cannot be written")
        try:
            if self._close() != 0:
                raise OSError("ffmpeg stopped")
            os.replace(self.partial, self.path)
        except OSError as error:
            raise self._refusal(error) from error

    def stop(self) -> Path | None:
        """Close what there is; None when there is nothing."""
        if self._ffmpeg is None:
            return None
        self._close()
        return self.partial if self.partial.is_file() and self.partial.stat().st_size else None

    def _open(self, height: int, width: int) -> subprocess.Popen[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self.fps), "-i", "-"]
        encoder = _ENCODERS[self.path.suffix.lower()]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, "-an", *encoder, str(self.partial)]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (ffmpeg writes to it as long as it runs)
        self._ffmpeg = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C is for us: ffmpeg is to close the file properly
        )
        return self._ffmpeg

    def _close(self) -> int:
        """Wait until ffmpeg has written everything; its exit code."""
        assert self._ffmpeg is not None
        assert self._ffmpeg.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._ffmpeg.stdin.close()
        return self._ffmpeg.wait()

    def _refusal(self, error: OSError) -> HarnessError:
        reason = error.strerror or str(error)
        if self._ffmpeg is not None and self._said is not None:
            self._close()
            self._said.seek(0)
            reason = self._said.read().decode(errors="replace").strip().partition("\n")[0] or reason
        return HarnessError(f"{self.path}: cannot be written ({reason}); free space or fix the permissions")


class StripWriter(_Context):
    """A png: frames at equal distances side by side, of a video of `frames` frames."""

    def __init__(self, path: str | Path, frames: int) -> None:
        self.path = Path(path)
        self._wanted = set(np.linspace(0, frames - 1, min(STRIP, frames)).round().astype(int).tolist())
        self._seen = 0
        self._kept: list[np.ndarray] = []

    def write(self, frames: np.ndarray) -> None:
        """Keep what is wanted of uint8 `[F, H, W, 3]`."""
        self._kept += [frame.copy() for i, frame in enumerate(frames, self._seen) if i in self._wanted]
        self._seen += len(frames)

    def finish(self) -> None:
        """Write the strip."""
        strip = np.concatenate(self._kept, axis=1)
        atomic_write_bytes(self.path, iio.imwrite("<bytes>", strip, extension=".png"))

    def stop(self) -> Path | None:
        """Nothing is written."""
        return None


def writer_for(path: str | Path, fps: float, frames: int) -> VideoWriter:
    """The writer of a video of `frames` frames (needed for a strip), by the suffix.

    Raises HarnessError for another suffix.
    """
    kind = Path(path).suffix.lower()
    if kind not in STREAMED:
        raise HarnessError(f"{path}: cannot write {kind or 'a file without suffix'}; expected {', '.join(STREAMED)}")
    return StripWriter(path, frames) if kind == ".png" else FFmpegWriter(path, fps)
