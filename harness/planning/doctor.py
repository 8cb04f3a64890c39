"""`python -m harness doctor`: what of this machine and checkout would get in a run's way, each with a remedy.

Each check is on its own: one that fails itself is a warning, never a traceback. What needs torch or DVC runs in
processes beside the other checks, so that the whole takes seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import netrc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
from attrs import evolve, frozen
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from harness.config.load import load_params
from harness.errors import HarnessError
from harness.tracking.run_ids import mode

Status = Literal["ok", "warning", "problem", "skipped"]
GIB = 2**30
DISK = (2 * GIB, 10 * GIB)  # free: below the first a run fails, below the second it may
SHARED_MEMORY = (64 * 2**20, 512 * 2**20)  # of /dev/shm, which the streaming loader and NCCL use
PATIENCE = 60.0  # seconds for the checks that run beside the others

_DEVICES = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
names = [torch.cuda.get_device_properties(i) for i in range(count)]
print(json.dumps({
    "torch": torch.__version__, "built_for": torch.version.cuda, "threads": torch.get_num_threads(),
    "gpus": [[p.name, p.total_memory] for p in names], "bf16": bool(names) and torch.cuda.is_bf16_supported(),
}))
"""


@frozen
class Finding:
    """What a check found, and what to do about it."""

    status: Status
    name: str
    text: str
    remedy: str = ""


Check = Callable[[Path], Iterable[Finding]]


def check_python(root: Path) -> Iterator[Finding]:
    """The version of Python against pyproject.toml."""
    wanted = _project(root)["requires-python"]
    version = ".".join(map(str, sys.version_info[:3]))
    if version in SpecifierSet(wanted):
        yield Finding("ok", "Python", f"{version} ({sys.executable})")
    else:
        yield Finding(
            "problem", "Python", f"{version}, needed is {wanted}", "make the environment again: `make .venv/.ok`"
        )


def check_packages(root: Path) -> Iterator[Finding]:
    """Installed versions against the ranges in pyproject.toml and the pins in requirements.lock."""
    wrong, seen = [], 0
    for requirement in map(Requirement, _project(root)["dependencies"]):
        seen += 1
        found = _installed(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, needed is {requirement.specifier}")
    install = f"`{sys.executable} -m pip install --require-hashes -r requirements.lock`"
    if wrong:
        yield Finding("problem", "packages", "; ".join(wrong), install)
    else:
        yield Finding("ok", "packages", f"all {seen} that pyproject.toml names are within its ranges")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", (root / "requirements.lock").read_text(), re.MULTILINE)
    other = [f"{name} {found} (pinned {pin})" for name, pin in pins if (found := _installed(name)) not in (None, pin)]
    if other:
        text = f"{len(other)} differ from requirements.lock: {', '.join(other[:3])}{' …' if other[3:] else ''}"
        yield Finding("warning", "lock file", text, f"results may differ in the last digits; {install}")
    else:
        yield Finding("ok", "lock file", f"no installed package differs from its {len(pins)} pins")


def check_machine(root: Path) -> Iterator[Finding]:
    """Processors, memory and thread settings."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    text = (
        f"{usable} usable of {os.cpu_count()} cores; {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    )
    if memory.available < GIB:
        yield Finding("warning", "machine", text, "close what holds the memory, or run one stage at a time (--jobs 1)")
    else:
        yield Finding("ok", "machine", text)
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > usable:
        text = f"OMP_NUM_THREADS={given} on {usable} cores"
        yield Finding("warning", "threads", text, "unset it: a run sets its own number (`threads`)")


def check_disk(root: Path) -> Iterator[Finding]:
    """Free space where data, checkpoints, the DVC cache and temporary files go."""
    places = {"project": root, "DVC cache": root / ".dvc/cache", "temporary files": Path(tempfile.gettempdir())}
    seen: set[int] = set()
    for name, place in places.items():
        if not place.exists() or place.stat().st_dev in seen:
            continue
        seen.add(place.stat().st_dev)
        if not os.access(place, os.W_OK):
            yield Finding("problem", f"disk ({name})", f"{place} cannot be written to", "fix the permissions")
            continue
        remedy = "free space: `dvc gc --workspace` drops what no stage of this checkout needs"
        yield _room(f"disk ({name})", shutil.disk_usage(place).free, DISK, remedy)


def check_shared_memory(root: Path, folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Shared memory, which containers make small."""
    if not folder.is_dir():
        yield Finding("skipped", "shared memory", f"there is no {folder} here")
        return
    remedy = "start the container with --shm-size=2g, or --ipc=host"
    yield _room("shared memory", shutil.disk_usage(folder).free, SHARED_MEMORY, remedy)


def check_wandb(root: Path) -> Iterator[Finding]:
    """Whether W&B will send anything, and whether it could. The key itself is never shown."""
    chosen, given = mode(os.environ), bool(os.environ.get("WANDB_MODE"))
    in_netrc = _has_netrc()
    keyed = bool(os.environ.get("WANDB_API_KEY")) or in_netrc
    text = f"{chosen} ({'WANDB_MODE' if given else 'WANDB_MODE is not set'}), {'a key is there' if keyed else 'no key'}"
    if chosen == "online" and not keyed:
        yield Finding("problem", "W&B", text, "`wandb login`, or WANDB_MODE=offline")
    elif chosen == "offline" and in_netrc and not given:
        yield Finding("ok", "W&B", f"{text}: the one in netrc is used with WANDB_MODE=online, or by `wandb sync`")
    else:
        yield Finding("ok", "W&B", text)


def check_git(root: Path) -> Iterator[Finding]:
    """Whether the code is a commit, so that a result can be traced to it."""
    if not (root / ".git").exists():
        text = "no checkout: results will not say from which commit they come"
        yield Finding("warning", "git", text, "work in a clone of the repository")
        return
    command = ["git", "-C", str(root), "status", "--porcelain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        yield Finding("warning", "git", done.stderr.strip() or "git failed", "repair the checkout")
        return
    changed = len(done.stdout.splitlines())
    if changed:
        yield Finding("warning", "git", f"{changed} changed files", "commit before runs whose results you will keep")
    else:
        yield Finding("ok", "git", "nothing is changed")


def check_ffmpeg(root: Path) -> Iterator[Finding]:
    """The program that reads and writes videos."""
    import imageio_ffmpeg

    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, text=True, timeout=20)
    yield Finding("ok", "ffmpeg", " ".join(done.stdout.split()[:3]))


def check_launcher(root: Path) -> Iterator[Finding]:
    """The command that starts several processes."""
    beside = Path(sys.executable).parent / "composer"
    found = str(beside) if beside.exists() else shutil.which("composer")
    if found is None:
        yield Finding("problem", "launcher", "`composer` is not here", "install mosaicml (see packages)")
    elif shutil.which("composer") is None:
        remedy = f"`export PATH={beside.parent}:$PATH`"
        yield Finding("warning", "launcher", f"{found}, which is not on PATH", remedy)
    else:
        yield Finding("ok", "launcher", found)


def check_parameters(root: Path) -> Iterator[Finding]:
    """params.yaml and each of its presets."""
    names = list(load_params(root / "params.yaml").raw["presets"])
    for name in names:
        load_params(root / "params.yaml", name)
    yield Finding("ok", "params.yaml", f"presets {', '.join(names)}")


CHECKS: dict[str, Check] = {
    "Python": check_python,
    "packages": check_packages,
    "machine": check_machine,
    "disk": check_disk,
    "shared memory": check_shared_memory,
    "W&B": check_wandb,
    "git": check_git,
    "ffmpeg": check_ffmpeg,
    "launcher": check_launcher,
    "params.yaml": check_parameters,
}


def devices(answer: Mapping[str, Any], root: Path) -> Iterator[Finding]:
    """What torch says about accelerators."""
    if answer["gpus"]:
        kinds = ", ".join(f"{name} ({memory / GIB:.0f} GiB)" for name, memory in answer["gpus"])
        text = f"{len(answer['gpus'])}: {kinds}; torch {answer['torch']}"
        if answer["bf16"]:
            yield Finding("ok", "GPUs", text + ", bf16")
        else:
            yield Finding("warning", "GPUs", text + ", no bf16", "set precision: fp32")
        return
    text = f"none that torch {answer['torch']} can use"
    if shutil.which("nvidia-smi") and answer["built_for"]:
        remedy = (
            f"update the driver to one for CUDA {answer['built_for']}, or see why it is hidden (CUDA_VISIBLE_DEVICES)"
        )
        yield Finding("warning", "GPUs", text, remedy)
    else:
        yield Finding("ok", "GPUs", f"{text}: runs use the CPU, in fp32, with ddp")


def pipeline(answer: Mapping[str, Any], root: Path) -> Iterator[Finding]:
    """What DVC says is changed, and which outputs are not here."""
    if not answer:
        yield Finding("ok", "DVC", "every stage is up to date")
        return
    missing = [
        path
        for changes in answer.values()
        for change in changes
        if isinstance(change, dict)
        for path, state in change.get("changed outs", {}).items()
        if state == "deleted"
    ]
    text = (
        f"{len(answer)} stages are stale by themselves: {', '.join(list(answer)[:3])}{' …' if len(answer) > 3 else ''}"
    )
    if missing:
        text += f"; {len(missing)} outputs are not here ({missing[0]}{' …' if missing[1:] else ''})"
    yield Finding("warning", "DVC", text, "`dvc checkout` for outputs in the cache, `make repro` to make the others")


@frozen
class Aside:
    """A check that runs in a process of its own: its command prints JSON, which `read` judges. Where all of `beside` is
    in the checkout, it has to answer.
    """

    name: str
    command: tuple[str, ...]
    read: Callable[[Mapping[str, Any], Path], Iterable[Finding]]
    remedy: str
    beside: tuple[str, ...] = ()


ASIDE = (
    Aside("GPUs", (sys.executable, "-W", "ignore", "-c", _DEVICES), devices, "install the packages again"),
    Aside(
        "DVC",
        (sys.executable, "-m", "dvc", "status", "--json"),
        pipeline,
        "`dvc status` says more, `git checkout` takes back a damaged file; in a tree without git, `python -m harness "
        "repro` sets DVC up",
        beside=(".git", "dvc.yaml"),
    ),
)


def run_check(name: str, check: Check, root: Path) -> list[Finding]:
    """A check's findings; where it fails itself, a warning that says so."""
    try:
        return list(check(root))
    except HarnessError as error:
        return [Finding("problem", name, str(error), "correct the file")]
    except Exception as error:  # a check must not take the others with it
        return [Finding("warning", name, f"could not be checked: {type(error).__name__}: {error}")]


def examine(root: Path, *, quick: bool = False, checks: Mapping[str, Check] = CHECKS) -> list[Finding]:
    """All findings; `quick` leaves out what takes seconds."""
    begun = [] if quick else [(aside, _begin(aside, root)) for aside in ASIDE]
    findings = [found for name, check in checks.items() for found in run_check(name, check, root)]
    for aside, process in begun:
        findings += run_check(aside.name, lambda root, a=aside, p=process: _end(a, p, root), root)
    if quick:
        findings += [Finding("skipped", aside.name, "left out by --quick") for aside in ASIDE]
    return findings


def _begin(aside: Aside, root: Path) -> subprocess.Popen[str] | Exception:
    try:
        pipe = subprocess.PIPE
        return subprocess.Popen(aside.command, cwd=root, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True)
    except OSError as error:
        return error


def _end(aside: Aside, process: subprocess.Popen[str] | Exception, root: Path) -> Iterator[Finding]:
    if isinstance(process, Exception):
        raise process
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        yield Finding("skipped", aside.name, f"no answer within {PATIENCE:.0f} s", aside.remedy)
        return
    lines = [line for line in out.splitlines() if line.startswith(("{", "["))]
    if process.returncode or not lines:
        last = ([line.strip() for line in err.splitlines() if line.strip()] or ["no message"])[-1]
        expected = aside.beside and all((root / path).exists() for path in aside.beside)
        yield Finding("problem" if expected else "warning", aside.name, f"could not be asked: {last}", aside.remedy)
        return
    yield from aside.read(json.loads(lines[-1]), root)


def _project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_netrc() -> bool:
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _room(name: str, free: int, levels: tuple[int, int], remedy: str) -> Finding:
    finding = Finding("ok", name, f"{free / GIB:.1f} GiB free")
    for level, status in ((levels[0], "problem"), (levels[1], "warning")):
        if free < level:
            return evolve(finding, status=status, remedy=remedy)
    return finding


def page(findings: Sequence[Finding]) -> str:
    """One line for each finding, and one for its remedy."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.name:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<8} {'':<{width}}  → {finding.remedy}")
    counts = {status: sum(finding.status == status for finding in findings) for status in ("problem", "warning")}
    lines.append(f"{counts['problem']} problems, {counts['warning']} warnings")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """`doctor`: check this machine and checkout; exit status 1 if there is a problem."""
    parser = argparse.ArgumentParser(prog="python -m harness doctor", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="without torch (GPUs) and DVC, which take seconds")
    arguments = parser.parse_args(argv)
    findings = examine(Path.cwd(), quick=arguments.quick)
    print(page(findings), end="")
    return int(any(finding.status == "problem" for finding in findings))
