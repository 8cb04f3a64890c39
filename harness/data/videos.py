"""A folder of real videos with captions → source clips.

Rules, all of them:
- Videos are `.mp4`, `.webm`, `.gif` (also `.mov`, `.mkv`, `.avi`, `.m4v`), in any sub-folder; names that begin with a
  dot are passed over.
- The caption of `a/b.mp4` is the text of `a/b.txt`, or the row `a/b.mp4` of a `.csv` with the columns `file,caption`
  (paths relative to the table).
- Frames are resampled to `data.fps` by presentation time (repeated or dropped), resized so that the clip just covers
  `data.height` × `data.width` (bicubic, aspect kept), and cropped about the center. The first `data.frames` of them
  are the clip; the rest of a longer video is not used.
- The order is that of the videos' sha256: first the test split is filled, then validation, then train. It does not
  depend on names or dates. Two files with the same bytes are one clip, so no video is in two splits.
"""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from attrs import frozen

from harness.config.schema import DataConfig
from harness.data.digits import Clip
from harness.data.problems import Report
from harness.errors import HarnessError
from harness.io import sha256_file

SUFFIXES = (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v")
SPLIT_ORDER = ("test", "validation", "train")


class VideoError(Exception):
    """One video that cannot become a clip; `kind` is a key of `harness.data.problems.KINDS`."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


@frozen
class Source:
    """A video file with its caption, before it is decoded."""

    path: Path
    name: str  # relative to the folder
    caption: str
    sha256: str


def read_video(path: Path, *, frames: int, fps: int, height: int, width: int) -> np.ndarray:
    """Decode the first `frames` frames at `fps`, resized to cover and cropped about the center: uint8 `[F, H, W, 3]`.

    Raises:
        VideoError: it cannot be decoded, or is too short. A video damaged within these frames counts as broken, even
        where a player would conceal it.
    """
    filters = (
        f"fps={fps},scale={width}:{height}:force_original_aspect_ratio=increase:flags=bicubic+accurate_rnd+full_chroma_int+bitexact,"
        f"crop={width}:{height}"
    )
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-v",
        "error",
        "-xerror",
        "-err_detect",
        "explode",
        "-threads",
        "1",
    ]
    command += ["-i", str(path.resolve()), "-map", "0:v:0", "-an", "-sn", "-vf", filters, "-frames:v", str(frames)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().replace(str(path.resolve()), path.name).splitlines()
        raise VideoError("broken", lines[0] if lines else f"decoder ended with status {done.returncode}")
    found = len(done.stdout) // (height * width * 3)
    if found == 0:
        raise VideoError("broken", "no frames in it")
    if found < frames:
        raise VideoError("too_few_frames", f"{found} frames at {fps} per second, {frames} needed")
    return np.frombuffer(done.stdout, np.uint8).reshape(frames, height, width, 3)


def read_caption_tables(folder: Path, report: Report) -> dict[str, str]:
    """Captions by relative video name from every `.csv` below `folder`; conflicting rows are reported.

    Raises:
        HarnessError: a table is not UTF-8 or lacks the columns `file,caption`.
    """
    captions: dict[str, str] = {}
    for table in sorted(p for p in folder.rglob("*.csv") if not _hidden(p, folder)):
        for row in read_table(table, ("file", "caption")):
            target = (table.parent / row["file"]).resolve()
            if not target.is_relative_to(folder.resolve()) or not target.is_file():
                report.add("missing_video", row["file"], f"row of {table.relative_to(folder).as_posix()}")
                continue
            name = target.relative_to(folder.resolve()).as_posix()
            if captions.setdefault(name, row["caption"]) != row["caption"]:
                report.add("two_captions", name, f"{captions[name]!r} and {row['caption']!r} in {table.name}")
    for problem in report.problems:
        if problem.kind == "two_captions":
            captions.pop(problem.item, None)
    return captions


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a UTF-8 `.csv` with a header that has `columns`.

    Raises:
        HarnessError: not UTF-8, no such columns, or a row with too few or too many cells (its line is named).
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise HarnessError(
                    f"{path}: no column {', '.join(missing)} in the first line; expected the header {','.join(columns)}"
                )
            rows = []
            for row in reader:
                if None in row or any(row[c] is None for c in columns):
                    raise HarnessError(
                        f"{path}: line {reader.line_num}: {len(row)} cells do not fit the header; "
                        f'quote a caption that has a comma: "a cat, asleep"'
                    )
                rows.append({c: row[c].strip() for c in columns})
            return rows
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise HarnessError(f"{path}: not a readable table ({error})") from error


def find_sources(folder: str | Path, report: Report) -> list[Source]:
    """Every captioned video below `folder`, by content hash; the rest is named in `report`.

    Raises:
        HarnessError: no such folder, no video in it, or an unreadable caption table.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HarnessError(
            f"{folder}: no such folder. `data.path` names the folder of videos for `data.source: videos`"
        )
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder))
    videos = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not videos:
        raise HarnessError(f"{folder}: no video in it; expected {', '.join(SUFFIXES)}")
    texts = {p.with_suffix("") for p in videos}
    report.ignored += [
        p.relative_to(folder).as_posix()
        for p in files
        if p not in videos and p.suffix.lower() != ".csv" and not (p.suffix == ".txt" and p.with_suffix("") in texts)
    ]
    table = read_caption_tables(folder, report)
    reported = {p.item for p in report.problems}
    sources: dict[str, Source] = {}
    for path in videos:
        name = path.relative_to(folder).as_posix()
        caption = None if name in reported else _caption(path, name, table, report)
        if caption is None:
            continue
        source = Source(path, name, caption, sha256_file(path))
        if source.sha256 in sources:
            report.add("duplicate", name, f"same bytes as {sources[source.sha256].name}")
        else:
            sources[source.sha256] = source
    return [sources[key] for key in sorted(sources)]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _caption(path: Path, name: str, table: dict[str, str], report: Report) -> str | None:
    beside, row = path.with_suffix(".txt"), table.get(name)
    text = None
    if beside.is_file():
        try:
            text = " ".join(beside.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError:
            report.add("no_caption", name, f"{beside.name} is not UTF-8")
            return None
    if text is not None and row is not None and text != " ".join(row.split()):
        report.add("two_captions", name, f"{text!r} in {beside.name}, {row!r} in the table")
        return None
    caption = text if text is not None else row
    if caption is None:
        report.add("no_caption", name, f"neither {beside.name} nor a row of a .csv")
        return None
    caption = " ".join(caption.split())
    if not caption:
        report.add("empty_caption", name, f"{beside.name if text is not None else 'its row'} is empty")
        return None
    return caption


def iter_split_clips(
    config: DataConfig, sources: list[Source], split: str, wanted: int, report: Report
) -> Iterator[Clip]:
    """Take good videos from the front of `sources` until the split has `wanted` clips; bad ones are reported and passed
    over.
    """
    made = 0
    while made < wanted and sources:
        source = sources.pop(0)
        try:
            video = read_video(
                source.path, frames=config.frames, fps=config.fps, height=config.height, width=config.width
            )
        except VideoError as error:
            report.add(error.kind, source.name, str(error))
            continue
        made += 1
        yield Clip(
            key=f"{split}-{source.sha256[:16]}", video=video, caption=source.caption, attributes={"source": source.name}
        )
