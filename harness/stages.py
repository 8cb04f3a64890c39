"""What DVC would run: the graph of stages, which of them are stale, and how long each is likely to take."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from attrs import frozen

from harness.errors import HarnessError
from harness.io import atomic_write_text, read_json, refuse_conflict, write_json

DURATIONS = Path(".work/durations.json")
REPORT = "report"  # the stage after all experiments
_TARGET = re.compile(r"(?:--target|evaluate)\s+(\S+)")


@frozen
class Stage:
    """One stage: its DVC address, its command, the stages it waits for, and whether DVC finds it changed by itself."""

    name: str
    command: str
    needs: frozenset[str]
    changed: bool


Plan = dict[str, Stage]


def read_plan(targets: Sequence[str] = (), experiments: Sequence[str] = ()) -> Plan:
    """Ask DVC for the stages that the targets need (default: those of ./dvc.yaml, as `dvc repro`), in one pass under
    DVC's lock.

    With `experiments`: what these need and the report, which shows the other experiments as they were compared last.

    Raises:
        HarnessError: if there is no DVC project here, or DVC refuses its files or the targets.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(_wait_for_lock=True) as repo, repo.lock:
            graph = (_index(repo, experiments) if experiments else repo.index).graph
            # Not by `collect`, which reads the files again: the lock files are most of an idle call's time.
            files = {f"experiments/{name}/dvc.yaml" for name in experiments} or ({"dvc.yaml"} if not targets else set())
            wanted = {stage for goal in targets for stage in repo.stage.collect(goal)}
            wanted |= {stage for stage in graph if Path(stage.path_in_repo).as_posix() in files}
            wanted |= {stage for start in list(wanted) for stage in _reachable(graph, start)}
            if experiments:
                wanted |= {stage for stage in graph if stage.addressing == REPORT}
            return {
                stage.addressing: Stage(
                    name=stage.addressing,
                    command=str(stage.cmd),
                    needs=frozenset(need.addressing for need in graph.successors(stage)),
                    changed=bool(stage.changed()),
                )
                for stage in wanted
            }
    except DvcException as error:
        for file in ("dvc.yaml", "dvc.lock", *sorted(map(str, Path("experiments").glob("*/dvc.*")))):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                refuse_conflict(Path(file).read_text(encoding="utf-8"), file)
        raise HarnessError(f"DVC cannot read the pipeline: {_chain(error)}") from error


def _index(repo: Any, experiments: Sequence[str]) -> Any:
    """The stages of ./dvc.yaml, of these experiments and of those whose outputs they read.

    The lock files of the others are as long as theirs, and reading them would be half of an idle call.
    """
    from dvc.repo.index import Index

    known = {path.parent.name for path in Path(repo.root_dir).glob("experiments/*/dvc.yaml")}
    index = Index.from_file(repo, str(Path(repo.root_dir, "dvc.yaml")))
    read, todo = set(), set(experiments)
    while todo:
        files = [str(Path(repo.root_dir, "experiments", name, "dvc.yaml")) for name in sorted(todo)]
        read |= todo
        index = Index.from_indexes(repo, [index, *(Index.from_file(repo, file) for file in files)])
        # An output of an experiment lies in a folder with its name: checkpoints/<name>, results/<name>.
        needs = {part for stage in index.stages for dep in stage.deps for part in Path(str(dep)).parts}
        todo = (known & needs) - read
    return index


def _reachable(graph: Any, start: Any) -> set[Any]:
    seen, queue = set(), [start]
    while queue:
        for need in graph.successors(queue.pop()):
            if need not in seen:
                seen.add(need)
                queue.append(need)
    return seen


def _chain(error: BaseException) -> str:
    """An exception with its causes: DVC puts the useful part in the cause."""
    parts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        parts.append(str(error))
    return ": ".join(part for part in parts if part)


def stale(plan: Plan) -> set[str]:
    """The changed stages and all that come after them (which may turn out unchanged when their turn comes)."""
    result = {name for name, stage in plan.items() if stage.changed}
    grown = True
    while grown:
        more = {name for name, stage in plan.items() if stage.needs & result} - result
        result |= more
        grown = bool(more)
    return result


def remaining_path(plan: Plan, names: Iterable[str], seconds: Mapping[str, float]) -> dict[str, float]:
    """For each stage, the seconds from its start to the end of the longest chain that waits for it, itself included."""
    names = set(names)
    after: dict[str, set[str]] = {name: set() for name in names}
    for name in names:
        for need in plan[name].needs & names:
            after[need].add(name)
    result: dict[str, float] = {}

    def length(name: str) -> float:
        if name not in result:
            result[name] = seconds[name] + max((length(later) for later in after[name]), default=0.0)
        return result[name]

    for name in names:
        length(name)
    return result


def kind_of(name: str) -> str:
    """A stage without its experiment, arm and seed: `experiments/x/dvc.yaml:train@a-0` → `train`."""
    return name.rpartition(":")[2].partition("@")[0]


def estimate_seconds(plan: Plan, root: Path = Path(".")) -> dict[str, float]:
    """Seconds a stage will take: as it took last time, as its kind took, or as the committed manifest says."""
    known = read_durations(root)
    kinds: dict[str, list[float]] = {}
    for name, seconds in known.items():
        kinds.setdefault(kind_of(name), []).append(seconds)
    result = {}
    for name, stage in plan.items():
        kind = kinds.get(kind_of(name))
        guess = sum(kind) / len(kind) if kind else _manifest_seconds(root, stage.command) or 10.0
        result[name] = known.get(name, guess)
    return result


def _manifest_seconds(root: Path, command: str) -> float | None:
    match = _TARGET.search(command)
    if match is None or "--target" not in command:
        return None
    with contextlib.suppress(HarnessError, KeyError, TypeError, ValueError):
        return float(read_json(root / "results" / match[1] / "manifest.json")["wall_seconds"])
    return None


def read_durations(root: Path = Path(".")) -> dict[str, float]:
    """How long each stage took when it last ran here; empty when nothing is known."""
    with contextlib.suppress(HarnessError, AttributeError, TypeError, ValueError):
        return {str(name): float(seconds) for name, seconds in read_json(root / DURATIONS).items()}
    return {}


def record_duration(name: str, seconds: float, root: Path = Path(".")) -> None:
    """Remember how long a stage took on this machine."""
    write_json(root / DURATIONS, {**read_durations(root), name: round(seconds, 2)})


def clear_dead_locks(root: Path = Path(".")) -> None:
    """Drop what a killed DVC left in its table of path locks: a half-written file, or processes that are gone.

    DVC itself drops an entry only if no process at all has its number now, and refuses a half-written table.
    """
    table = root / ".dvc/tmp/rwlock"
    try:
        locks = json.loads(table.read_text())
        reads = {path: [info for info in infos if _is_dvc(info)] for path, infos in locks.get("read", {}).items()}
        writes = {path: info for path, info in locks.get("write", {}).items() if _is_dvc(info)}
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, AttributeError):  # half-written, or not of DVC
        table.unlink(missing_ok=True)
        return
    atomic_write_text(table, json.dumps({"read": {p: i for p, i in reads.items() if i}, "write": writes}))


def _is_dvc(info: Mapping[str, Any]) -> bool:
    try:
        return any("dvc" in word for word in psutil.Process(int(info["pid"])).cmdline())
    except (psutil.Error, KeyError, ValueError):
        return False


def without_git(root: Path = Path(".")) -> bool:
    """Tell DVC when the tree is no git checkout of its own (a download, a copy); True if it was told now."""
    local = root / ".dvc/config.local"
    if (root / ".git").exists() or not (root / ".dvc").is_dir():
        return False
    if local.exists() and "no_scm" in local.read_text():
        return False
    previous = local.read_text() if local.exists() else ""
    atomic_write_text(local, f"{previous}[core]\n    no_scm = true\n")
    return True


def child_environment(executable: str) -> dict[str, str]:
    """The environment of a stage: this Python first in PATH, and no thread counts (a run sets its own)."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in threads}
    environment["PATH"] = os.pathsep.join([str(Path(executable).parent), environment.get("PATH", os.defpath)])
    return environment
