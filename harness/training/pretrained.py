"""The teacher of a preset that names pretrained weights: imported, never trained."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from harness.callbacks.history import COLUMNS
from harness.config.load import to_dict
from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.formats.pinning import same_import
from harness.formats.placing import ORIGIN, link_or_copy, whole_folder
from harness.formats.reading import Checkpoint, open_checkpoint
from harness.formats.sources import file_sums, total_sum
from harness.io import atomic_write_text, digest, read_json, write_json
from harness.machine import processor_name
from harness.models.checkpoint import WEIGHTS
from harness.training.inputs import import_command, teacher_folder
from harness.training.manifest import build_manifest, surroundings
from harness.training.request import Request


def import_teacher(request: Request, root: Path) -> None:
    """Put the pretrained network at `checkpoints/teacher/model` (linked, or copied) and say so in the manifest.

    Nothing is trained: `history.csv` has its header only.

    Raises:
        HarnessError: the folder is missing or damaged, not what `import` wrote, or another preset's; the command that
            imports it is named.
    """
    config = request.config
    folder = teacher_folder(config, root)
    try:
        checkpoint = open_checkpoint(folder, preset=config.model)
        files = _files(checkpoint)
        sums = file_sums(files, folder)
        origin = _origin(folder, config.teacher, root, sums)
        if checkpoint.found.layout != "diffusers" or checkpoint.ignored:
            raise HarnessError(f"{folder}: is not as `import` writes it")
    except HarnessError as error:
        raise HarnessError(
            f"{error}\nThe teacher of preset {config.preset} is pretrained (run.teacher: {config.teacher}), and is not "
            f"trained here. Import it with\n  {_command(config, root)}"
        ) from error
    with whole_folder(root / request.checkpoints) as new:
        for file in files:
            link_or_copy(file, new / "model" / file.name)
    manifest = build_manifest(
        fingerprint=digest({"imported": sums}),
        config=to_dict(config),
        inputs={"teacher": total_sum(sums)},
        parents=[],
        surroundings=surroundings(root),
        measured={
            "imported": {**origin, "folder": config.teacher, "written": sums},
            "compute": {"denoiser_forwards": 0, "device_seconds": 0.0, "teraflops": 0.0},
            "updates": {"critic": 0, "generator": 0},
            "device": processor_name(),
            "wall_seconds": 0.0,
            "best": None,
        },
    )
    atomic_write_text(root / request.results / "history.csv", ",".join(COLUMNS) + "\n")
    write_json(root / request.results / "manifest.json", {**manifest, **request.own_manifest()})


def _files(checkpoint: Checkpoint) -> list[Path]:
    """The files that make a model folder, and nothing that lies beside them."""
    config = checkpoint.found.config
    assert config is not None
    index = config.with_name(f"{WEIGHTS}.index.json")
    return sorted([config, *checkpoint.found.weights, *([index] if index.is_file() else [])])


def _command(config: RunConfig, root: Path) -> str:
    """How the folder was imported before, if it says so; else how Wan's own weights are."""
    with contextlib.suppress(HarnessError, KeyError, TypeError):
        origin = read_json(root / config.teacher / ORIGIN)
        return same_import(origin, config.model, config.teacher)
    return import_command(config)


def _origin(folder: Path, given: str, root: Path, sums: dict[str, str]) -> dict[str, Any]:
    """What `import` recorded, if it wrote the folder.

    Raises:
        HarnessError: a file is not as it was written.
    """
    path = next((place / ORIGIN for place in (folder, root / given) if (place / ORIGIN).is_file()), None)
    if path is None:
        return {"source": given, "revision": None, "sha256": total_sum(sums), "files": sums}
    origin = read_json(path)
    written = origin.get("written", {})
    if changed := sorted(name for name in sums.keys() | written.keys() if sums.get(name) != written.get(name)):
        raise HarnessError(
            f"{folder}: {', '.join(changed)} differ from what {path} says was written: damaged, or edited"
        )
    return {key: value for key, value in origin.items() if key != "written"}
