"""From the words of the command line to the folders of runs."""

from __future__ import annotations

from pathlib import Path

from harness.config.runs import AD_HOC
from harness.errors import HarnessError
from harness.reference.signals import HISTORY

RESULTS = Path("results")
PREFIXES = ("experiments", "results", "checkpoints")


def target_of(word: str) -> str:
    """A target or arm, with or without the folder it is found in: `experiments/x/arm/` is `x/arm`."""
    first, _, rest = word.strip("/").partition("/")
    return rest if first in PREFIXES and rest else word.strip("/")


def run_folder(word: str, root: Path = Path(".")) -> Path:
    """The folder of one run: a folder, a target, or the name of an ad hoc run.

    Raises:
        HarnessError: there is none.
    """
    places = [root / word, root / RESULTS / target_of(word), root / AD_HOC / word]
    for folder in places:
        if (folder / HISTORY).is_file():
            return folder
    if seed_folders(root / RESULTS / target_of(word)):
        raise HarnessError(f"{word}: has several seeds; name one run, for example {word.rstrip('/')}/seed0")
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    raise HarnessError(
        f"{word}: no run there: no {HISTORY} in {looked}. Give a folder such as runs/NAME, or a target such as "
        "causal_sft/seed0"
    )


def reference_folders(word: str, root: Path = Path(".")) -> list[Path]:
    """The folders of the reference's runs: one for each seed of an arm, or one run.

    Raises:
        HarnessError: there is none.
    """
    folders = seed_folders(root / RESULTS / target_of(word)) or seed_folders(root / word)
    if folders:
        return folders
    try:
        return [run_folder(word, root)]
    except HarnessError as error:
        known = ", ".join(arms(root)) or "none: `results/` is empty"
        raise HarnessError(f"--to {word}: no such reference. Arms with results: {known}; or name one run") from error


def seed_folders(folder: Path) -> list[Path]:
    """The runs of an arm, in the order of their seeds."""
    found = [path for path in folder.glob("seed*") if path.name[4:].isdigit() and (path / HISTORY).is_file()]
    return sorted(found, key=lambda path: int(path.name[4:]))


def arms(root: Path = Path(".")) -> list[str]:
    """All arms with results, as they may be named."""
    folders = {path.parent.parent for path in (root / RESULTS).glob("**/seed*/" + HISTORY)}
    return sorted(folder.relative_to(root / RESULTS).as_posix() for folder in folders)
