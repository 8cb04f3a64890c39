"""`python -m harness.tracking.mirror ENTRY [--follow | --check-first]`: the other process, which logs one request.

With `--follow` it reads on while a run trains, until its standard input ends; with `--check-first` it sends nothing if
the server has it all, and leaves alone what another process is mirroring. Everything that goes wrong ends here: it is
noted in the entry's status and its log, and nobody waits for it longer than `GRACE`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from attrs import asdict

from harness.errors import HarnessError
from harness.io import directory_digest, read_json
from harness.tracking import content, requests
from harness.tracking.expected import Content, missing, summary_of
from harness.tracking.follow import follow
from harness.tracking.lineage import Reference, lineage
from harness.tracking.mp4 import PREVIEW_FPS, read_animation, write_mp4
from harness.tracking.run_ids import mode, project
from harness.tracking.samples import CAPTIONS, FOLDER, clip_file
from harness.tracking.server import content_at
from harness.tracking.store import STILL_MIRRORED, Busy, Entry

GRACE = 300.0  # seconds to finish in, after what is mirrored has ended
INIT_TIMEOUT = 30.0
SHOWN = 4  # clips of each model
NICENESS = 10


def wandb_settings() -> Any:
    """Quiet, nothing about the machine, and no waiting without end."""
    import wandb

    return wandb.Settings(
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        init_timeout=INIT_TIMEOUT,
        finish_timeout=GRACE / 2,
        finish_timeout_raises=True,
    )


class Media:
    """Makes wandb videos; their files lie in a temporary folder while W&B copies them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def video(self, frames: np.ndarray, fps: float, caption: str) -> Any:
        """A wandb video of uint8 `[F, H, W, 3]`."""
        import wandb

        path = self.folder / f"{self.count}.mp4"
        self.count += 1
        write_mp4(path, frames, fps)
        return wandb.Video(str(path), caption=caption, format="mp4")

    def samples(self, folder: Path, row: int) -> list[Any]:
        """The clips that belong to a row of `quality.csv`, if any were kept."""
        path = clip_file(folder, row)
        if not path.is_file():
            return []
        captions = read_json(folder / FOLDER / CAPTIONS, kind=list)
        clips = np.load(path, allow_pickle=False)
        return [self.video(clip, PREVIEW_FPS, caption) for clip, caption in zip(clips, captions, strict=False)]

    def animations(self, folder: Path, names: list[str], captions: list[str]) -> list[Any]:
        """Videos of animated images."""
        return [
            self.video(*read_animation(folder / name), caption)
            for name, caption in zip(names[:SHOWN], captions, strict=False)
        ]


def log_train(request: requests.Request, run: Any, media: Media, ended: threading.Event) -> Content:
    """The tables of a training run and its sample clips."""
    folder = Path(request.folder)
    logged = follow(folder, run, ended, lambda row: media.samples(folder, row))
    return Content(steps=len(logged), summary=summary_of(logged))


def log_evaluate(request: requests.Request, run: Any, media: Media) -> Content:
    """A card: metrics, tables, clips.

    Raises:
        HarnessError: the card is another one by now.
    """
    folder = Path(request.folder)
    current(request, requests.evaluate_request(request.target, Path(request.root)))
    card = read_json(folder / "cards.json")
    clips = {
        f"clips/{model}": media.animations(folder, block.get("clips", []), card["prompts"])
        for model, block in card["models"].items()
    }
    tables = {"card": content.card_table(card), "by_frame": content.frames_table(card)}
    return log_once(run, content.card_summary(card), tables, clips)


def log_compare(request: requests.Request, run: Any, media: Media) -> Content:
    """A comparison: verdicts, tables, clips side by side.

    Raises:
        HarnessError: the comparison is another one by now.
    """
    folder = Path(request.folder)
    current(request, requests.compare_request(request.target, Path(request.root)))
    comparison = read_json(folder / "comparison.json")
    clips = {
        f"clips/{column['name']}": media.animations(folder, column["files"], column["prompts"])
        for column in comparison["clips"]
    }
    tables = {"hypotheses": content.hypotheses_table(comparison), "arms": content.arms_table(comparison)}
    return log_once(run, content.comparison_summary(comparison), tables, clips)


def current(request: requests.Request, now: requests.Request) -> None:
    """Raise HarnessError unless the files are still those that were asked for."""
    if now.id != request.id:
        raise HarnessError(f"{request.folder}: has other content than when this run was noted; it is {now.id} now")


def log_once(
    run: Any, summary: dict[str, Any], tables: dict[str, content.Table], clips: dict[str, list[Any]]
) -> Content:
    """Everything in one row. A repeated upload adds another, since the files of the first may never have arrived."""
    import wandb

    made = {name: wandb.Table(columns=[*table.columns], data=table.rows) for name, table in tables.items()}
    run.log({**{name: videos for name, videos in clips.items() if videos}, **made})
    run.summary.update(summary)
    return Content(steps=1, summary=summary_of({0: summary}))


def log_lineage(run: Any, request: requests.Request) -> list[str]:
    """Reference artifacts to what DVC recorded; returns what went wrong, in words.

    Offline, W&B takes no inputs: their hashes stand in the config, and a later upload makes the artifacts.
    """
    uses, made = lineage(request)
    shown = {"uses": {r.path: r.md5 for r in uses}, "makes": {made.path: made.md5} if made else {}}
    run.config.update({"lineage": shown}, allow_val_change=True)
    online = not run.offline
    problems = []
    for reference in [*(uses if online else []), *([made] if made else [])]:
        try:
            if reference is made:
                logged = run.log_artifact(artifact(reference))
                if online:
                    logged.wait(timeout=int(GRACE / 4))
            else:
                run.use_artifact(artifact(reference))
        except Exception as error:  # the rest of the run is worth having
            traceback.print_exc()
            problems.append(f"artifact {reference.name}: {type(error).__name__}: {error}")
    return problems


def artifact(reference: Reference) -> Any:
    """A wandb artifact that points to DVC's hash: no byte of it is uploaded."""
    import wandb

    made = wandb.Artifact(reference.name, type=reference.type, metadata={"path": reference.path, "md5": reference.md5})
    made.add_reference(reference.uri, name=reference.path, checksum=False)
    return made


def sent_files(folder: Path) -> dict[str, int]:
    """Media that W&B was given, by their names there, with their sizes."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted((folder / "media").rglob("*"))
        if path.is_file()
    }


def already_there(entry: Entry) -> bool:
    """Whether the server has all that an earlier upload sent, and the files are still those."""
    status, request = entry.status(), entry.request()
    if status["state"] != "uploaded" or status["content"] != directory_digest(request.folder):
        return False
    expected = Content(**status["expected"])
    return not check(status["entity"], status["project"], request.id, expected)


def mirror(entry: Entry, ended: threading.Event) -> None:
    """Log a request; online, check that it arrived. The outcome is in the entry's status.

    Raises:
        HarnessError: W&B's server does not have everything, or the files are others by now.
    """
    import wandb

    request = entry.request()
    entry.note("running")
    where = {"project": project(os.environ), "mode": mode(os.environ), "dir": str(entry.home)}
    with tempfile.TemporaryDirectory() as temporary:  # noqa: SIM117 — it must outlive the run's end
        with wandb.init(settings=wandb_settings(), **where, **request.settings) as run:  # type: ignore[arg-type]
            offline, entity = run.offline, run.entity
            media = Media(Path(temporary))
            match request.kind:
                case "train":
                    sent = log_train(request, run, media, ended)
                case "evaluate":
                    sent = log_evaluate(request, run, media)
                case "compare":
                    sent = log_compare(request, run, media)
            problems = log_lineage(run, request)
            files = sent_files(Path(run.dir))
    expected = Content(steps=sent.steps, summary=sent.summary, files=files)
    if offline:
        entry.note("offline", steps=sent.steps, problems=problems)
        return
    details = {
        "content": directory_digest(request.folder),
        "entity": entity,
        "project": where["project"],
        "expected": asdict(expected),
    }
    problems += check(entity, where["project"], request.id, expected)
    if problems:
        raise HarnessError(f"the server does not have all of it: {'; '.join(problems)}")
    entry.note("uploaded", steps=sent.steps, **details)


def check(entity: str, project: str, id: str, expected: Content) -> list[str]:
    """What the server lacks of a run, in words."""
    found = content_at(entity, project, id)
    return ["the run itself"] if found is None else missing(expected, found)


@contextlib.contextmanager
def watched(ended: threading.Event, grace: float, on_expiry: Callable[[], None]) -> Iterator[None]:
    """Call `on_expiry` if the body is still busy `grace` seconds after `ended`."""
    done = threading.Event()

    def watch() -> None:
        ended.wait()
        if not done.wait(grace):
            on_expiry()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _read_to_end(stream: IO[bytes], ended: threading.Event) -> None:
    stream.read()  # returns when the trainer closes its end, or is gone
    ended.set()


def step_back(autogroup: Path = Path("/proc/self/autogroup")) -> None:
    """Leave the processor to the training: by this process's niceness, and by that of its session, where Linux shares
    the processor among sessions first (sched(7), "The autogroup feature").
    """
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        autogroup.write_text(str(NICENESS))


def main(argv: list[str]) -> int:
    """Mirror one entry; 0 if all went well, `STILL_MIRRORED` if another process is mirroring it."""
    entry, following, check_first = Entry(Path(argv[0])), "--follow" in argv[1:], "--check-first" in argv[1:]
    step_back()
    os.environ.setdefault("WANDB_SILENT", "true")
    ended = threading.Event()
    if following:
        threading.Thread(target=_read_to_end, args=(sys.stdin.buffer, ended), daemon=True).start()
    else:
        ended.set()

    def give_up() -> None:
        entry.note("failed", error=f"not finished in {GRACE:g} s: W&B is slow or does not answer")
        os._exit(3)  # wandb's threads would hold the process

    try:
        with watched(ended, GRACE, give_up), entry.held(wait=not check_first):
            if not check_first or not already_there(entry):
                mirror(entry, ended)
    except Busy as busy:
        print(busy, file=sys.stderr)
        return STILL_MIRRORED
    except Exception as error:  # whatever W&B does, it ends here
        traceback.print_exc()
        text = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        entry.note("failed", error=text[:500])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
