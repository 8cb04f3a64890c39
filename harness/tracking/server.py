"""What W&B's server has of a run, through wandb's public API."""

from __future__ import annotations

from typing import Any

from harness.tracking.expected import Content

TIMEOUT = 30  # seconds for each question


def content_at(entity: str, project: str, id: str, with_files: bool = True) -> Content | None:
    """What the server has of a run; None where it has no such run.

    Raises whatever wandb raises when the server cannot be asked.
    """
    import wandb
    from wandb.errors import CommError

    try:
        run = wandb.Api(timeout=TIMEOUT).run(f"{entity}/{project}/{id}")
        run.load(force=True)
    except ValueError:  # wandb's way of saying so
        return None
    except CommError as error:
        if "could not find run" in str(error).lower():
            return None
        raise
    summary: dict[str, Any] = dict(run.summary_metrics)
    files = {file.name: int(file.size) for file in run.files(per_page=500)} if with_files else {}
    return Content(steps=int(run.historyLineCount or 0), summary=summary, files=files)


def is_there(entity: str, project: str, id: str) -> bool:
    """Whether the server has a run."""
    return content_at(entity, project, id, with_files=False) is not None
