"""Source → `data/clips`: pixels, captions and attributes as MDS, with a report of everything left out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import asdict

from harness.config.load import load_params
from harness.config.schema import DataConfig
from harness.data import digits, videos
from harness.data.digits import Clip
from harness.data.mds import CLIP_COLUMNS, SPLITS, disk_errors_named, new_folder, write_mds
from harness.data.problems import Report
from harness.errors import HarnessError
from harness.io import write_json

REPORT = "report.json"
MANIFEST = "clips.json"


def prepare(config: DataConfig, out: str | Path = "data/clips", *, allow_skips: bool = False) -> Report:
    """Write `out/{train,validation,test}`, `out/report.json` and `out/clips.json` (source settings and keys in stored
    order).

    The same source and settings give the same bytes. Work is done under another name: an interrupted call leaves what
    was there.

    Raises:
        HarnessError: disk full; too few usable videos; or, unless `allow_skips`, any item left out (then only
            `report.json` is written).
    """
    out = Path(out)
    report = Report()
    keys: dict[str, list[str]] = {}
    advice = "Free space and run it again; nothing that was there is lost"
    with disk_errors_named(out, advice), new_folder(out) as work:
        for split, clips in _splits(config, report):
            keys[split] = []
            write_mds(work / split, CLIP_COLUMNS, _rows(clips, keys[split]))
            report.written[split] = len(keys[split])
        report.written = {split: report.written[split] for split in SPLITS}
        _judge(config, report, out, allow_skips)
        write_json(work / REPORT, report.to_json())
        write_json(work / MANIFEST, {"schema": 1, "source": _settings(config), "keys": keys})
    return report


def _settings(config: DataConfig) -> dict:
    """What determines the pixels; the place of a folder of videos does not."""
    return {key: value for key, value in asdict(config).items() if key != "path"}


def _splits(config: DataConfig, report: Report) -> Iterator[tuple[str, Iterator[Clip]]]:
    if config.source == "moving_digits":
        for split in SPLITS:
            yield split, digits.iter_clips(config, split)
        return
    if config.path is None:
        raise HarnessError("data.path is not set; `data.source: videos` needs the folder of videos there")
    sources = videos.find_sources(config.path, report)
    counts = asdict(config.clips)
    for split in videos.SPLIT_ORDER:
        yield split, videos.iter_split_clips(config, sources, split, counts[split], report)
    report.surplus += [source.name for source in sources]


def _rows(clips: Iterator[Clip], keys: list[str]) -> Iterator[dict]:
    for clip in clips:
        keys.append(clip.key)
        yield {"key": clip.key, "video": clip.video, "caption": clip.caption, "attributes": clip.attributes}


def _judge(config: DataConfig, report: Report, out: Path, allow_skips: bool) -> None:
    """Refuse a result that is not what was asked for; `report.json` then tells why."""
    wanted = asdict(config.clips)
    empty = [split for split, count in report.written.items() if count == 0]
    short = [
        f"{split} {report.written[split]} of {wanted[split]}"
        for split in SPLITS
        if report.written[split] < wanted[split]
    ]
    if empty or ((short or report.problems) and not allow_skips):
        write_json(out / REPORT, report.to_json())
        complaint = f"{len(report.problems)} items cannot be used" if report.problems else "too few videos"
        advice = (
            "Lower data.clips or add videos"
            if empty
            else "Mend them, lower data.clips, or go on without them: --allow-skips (a split may then have fewer clips)"
        )
        parts = [f"{config.path}: {complaint}", *([f"short of data.clips: {', '.join(short)}"] if short else [])]
        raise HarnessError("; ".join(parts) + f".\n{report.summary()}\n{advice}. Full list: {out / REPORT}")


def main(argv: Sequence[str] | None = None) -> int:
    """`prepare`: write data/clips from the source that the preset names."""
    parser = argparse.ArgumentParser(prog="python -m harness prepare", description=main.__doc__)
    parser.add_argument("--params", default="params.yaml", help="file with the presets")
    parser.add_argument("--out", default="data/clips", help="folder to write")
    parser.add_argument("--allow-skips", action="store_true", help="go on when items of the source cannot be used")
    arguments = parser.parse_args(argv)
    report = prepare(load_params(arguments.params).preset.data, arguments.out, allow_skips=arguments.allow_skips)
    print(report.summary(), file=sys.stderr)
    return 0
