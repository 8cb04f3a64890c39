"""A DVC stage that repeats one import: the same source, at the same commit, with the same sums."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from harness.config.documents import read_yaml
from harness.errors import HarnessError
from harness.formats.pickled import EMA
from harness.formats.sources import pins
from harness.io import atomic_write_text

PIPELINE = Path("pretrained/dvc.yaml")
_HEAD = (
    "# Written by `python -m harness import --pin`: each stage fetches the very weights that were imported here.\n"
    "# `dvc repro pretrained/dvc.yaml` repeats all of them on another machine.\n"
)


def same_import(origin: Mapping[str, Any], preset: str | None, out: str) -> str:
    """The command that repeats the import behind an `origin.json`, and admits only what was read then."""
    chosen, lora = origin["weights"], origin["lora"]
    options = {
        "--weights": None if chosen is None else "ema" if chosen in EMA else "raw",
        "--dtype": origin["dtype"],
        "--lora": None if lora is None else lora["source"],
        "--lora-alpha": None if lora is None else lora.get("alpha"),  # folders imported before it was recorded
        "--preset": preset,
        "--out": out,
    }
    chosen_options = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    return shlex.join(["python", "-m", "harness", "import", origin["source"], *pins(origin), *chosen_options])


def stage_name(out: Path) -> str:
    """DVC takes letters, digits, `-` and `_` in a stage's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", out.name)


def check_place(out: Path, root: Path = Path(".")) -> Path:
    """The folder as DVC names it, relative to the project's root.

    Raises:
        HarnessError: it lies outside, or `root` is no DVC project.
    """
    if not (root / ".dvc").is_dir():
        raise HarnessError(f"--pin: {root.resolve()} is no DVC project; run it in the root of the repository")
    try:
        return out.resolve().relative_to(root.resolve())
    except ValueError:
        raise HarnessError(
            f"--out {out}: --pin makes a DVC stage of it, so it has to lie in the project, such as "
            f"pretrained/{out.name}"
        ) from None


def pin(origin: Mapping[str, Any], preset: str | None, out: Path, root: Path = Path(".")) -> str:
    """Write or replace the stage of `out` in `pretrained/dvc.yaml`, and let DVC record the folder's sum in the lock
    file beside it. Returns the stage's address.

    Raises:
        HarnessError: the folder lies outside the project, its name is taken by another one, or DVC refuses.
    """
    place = check_place(out, root)
    path, name = root / PIPELINE, stage_name(place)
    document = read_yaml(path) if path.is_file() else {"stages": {}}
    stages = document.setdefault("stages", {})
    outs = [next(iter(other["outs"][0])) for key, other in stages.items() if key == name]
    if outs and outs[0] != place.as_posix():
        raise HarnessError(
            f"{path}: stages.{name} pins {outs[0]}; give {place} another last part, or remove that stage"
        )
    stages[name] = {
        "wdir": "..",
        "cmd": same_import(origin, preset, place.as_posix()),
        "outs": [{place.as_posix(): {"cache": False, "persist": True}}],  # the import itself replaces it, whole
    }
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(document, text)
    atomic_write_text(path, _HEAD + text.getvalue())
    address = f"{PIPELINE.as_posix()}:{name}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "commit", "--force", address], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        raise HarnessError(f"DVC could not record {place} for {address}: {(done.stderr or done.stdout).strip()[-500:]}")
    return address
