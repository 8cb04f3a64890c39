"""`python -m harness repro`: what `dvc repro` does, several stages at once, with progress, logs and clean stops.

DVC decides what is stale and runs each stage (`dvc repro --single-item`), so its lock files are the same as after a
plain `dvc repro`. Stages with the longest chain behind them start first.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from attrs import define, field

from harness.comparison.compare import print_verdicts
from harness.comparison.declaration import load_declaration
from harness.errors import HarnessError
from harness.stages import (
    Plan,
    child_environment,
    clear_dead_locks,
    estimate_seconds,
    read_plan,
    record_duration,
    remaining_path,
    stale,
    without_git,
)

WORK = Path(".work")
TAIL_LINES = 40
_BUSY = ("Unable to acquire lock", "is busy, it is being blocked by", "RWLock-file")
_RETRY_SECONDS = 2.0
_GRACE_SECONDS = 15.0


class Stopped(BaseException):
    """A signal asked for the end; `status` is the shell's exit status for it."""

    def __init__(self, number: int):
        """Keep the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@define
class Running:
    """A stage under way."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    tries: int = 1


@define
class Launcher:
    """Runs the stages of a plan; `say` prints one line for each event."""

    plan: Plan
    jobs: int
    waiting: set[str]
    seconds: dict[str, float]
    total: int = field(init=False)
    started: float = field(factory=time.monotonic)
    running: dict[str, Running] = field(factory=dict)
    done: set[str] = field(factory=set)
    failed: list[Running] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.total = len(self.waiting)

    def run(self) -> None:
        """Run everything that waits.

        Raises:
            HarnessError: if a stage failed; stages under way are finished first, new ones are not started.
            Stopped: on a signal; children are ended first.
        """
        try:
            while self.running or (self.waiting and not self.failed):
                if not self.failed:
                    self._start_ready()
                time.sleep(0.1)
                for running in [r for r in self.running.values() if r.process.poll() is not None]:
                    self._finish(running)
        finally:
            self._end_children()
        if self.failed:
            names = ", ".join(short(running.name) for running in self.failed)
            raise HarnessError(
                f"failed: {names}; the log is above and in {self.failed[0].log}. "
                "What is finished is kept: mend the cause and run the same command again"
            )

    def _start_ready(self) -> None:
        order = remaining_path(self.plan, self.waiting, self.seconds)
        for name in sorted(self.waiting, key=lambda n: (-order[n], n)):
            if len(self.running) >= self.jobs:
                return
            if not self.plan[name].needs & (self.waiting | set(self.running)):
                self.waiting.remove(name)
                self._start(name)

    def _start(self, name: str, tries: int = 1) -> None:
        log = WORK / "logs" / (re.sub(r"[^A-Za-z0-9_.-]+", "-", name) + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=child_environment(sys.executable),
                start_new_session=True,  # a group of its own: a stop reaches the stage's command too
            )
        self.running[name] = Running(name, process, log, time.monotonic(), tries)
        if tries == 1:
            self.say(f"start  {short(name)}")

    def _finish(self, running: Running) -> None:
        del self.running[running.name]
        text = running.log.read_text(errors="replace")
        took = time.monotonic() - running.started
        if running.process.returncode == 0:
            self.done.add(running.name)
            ran = f"Running stage '{running.name}'" in text
            if ran:
                record_duration(running.name, took)
                self.seconds = estimate_seconds(self.plan)  # the stages of its kind are now better known
            what = "done   " if ran else "cached " if "is cached" in text else "same   "
            self.say(f"{what}{short(running.name)} ({clock(took)}), {len(self.done)} of {self.total}{self._left()}")
        elif "Running stage" not in text and any(sign in text for sign in _BUSY):
            if running.tries == 1:
                self.say(f"wait   {short(running.name)}: another DVC process uses its files")
            time.sleep(_RETRY_SECONDS)
            self._start(running.name, running.tries + 1)
        elif any(sign in text for sign in _BUSY) and running.tries < 3:
            self.say(f"again  {short(running.name)}: DVC could not record it, its lock was taken")
            self._start(running.name, running.tries + 1)
        else:
            self.failed.append(running)
            self.say(f"FAILED {short(running.name)} after {clock(took)}; the end of {running.log}:")
            print("\n".join(f"  | {line}" for line in text.splitlines()[-TAIL_LINES:]), flush=True)
            if self.running:
                self.say(f"finishing {', '.join(map(short, sorted(self.running)))} (Ctrl-C stops)")

    def _left(self) -> str:
        rest = self.waiting | set(self.running)
        if not rest:
            return ""
        now = time.monotonic()
        left = {name: self.seconds[name] for name in rest}
        for running in self.running.values():
            left[running.name] = max(1.0, left[running.name] - (now - running.started))
        longest = max(remaining_path(self.plan, rest, left).values())
        return f", about {clock(max(longest, sum(left.values()) / self.jobs))} left"

    def _end_children(self) -> None:
        """End what still runs, politely first; nothing is left behind."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for running in self.running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.process.pid, number)
            deadline = time.monotonic() + _GRACE_SECONDS
            while time.monotonic() < deadline and any(_group_lives(r.process) for r in self.running.values()):
                time.sleep(0.05)

    def say(self, text: str) -> None:
        """One line with the time since the start."""
        print(f"[{clock(time.monotonic() - self.started):>6}] {text}", flush=True)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reap the leader, so that its group can end
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def short(name: str) -> str:
    """A stage for people: `experiments/x/dvc.yaml:train@a-0` → `x train@a-0`."""
    return name.removeprefix("experiments/").replace("/dvc.yaml:", " ")


def clock(seconds: float) -> str:
    """`75` → `1:15`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


@contextlib.contextmanager
def only_launcher() -> Iterator[None]:
    """Hold the project's launcher lock; while another launcher has it (its terminal may be gone), say so and wait."""
    WORK.mkdir(exist_ok=True)
    with (WORK / "repro.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            print(f"another `harness repro` runs here (process {holder}): waiting for it to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def signals_stop() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Stopped` in the block; further ones are ignored while it cleans up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_declarations(root: Path = Path(".")) -> None:
    """Refuse an experiment with a hidden second difference or unequal budgets before anything is trained.

    Raises:
        HarnessError: a declaration is wrong.
    """
    for path in sorted(root.glob("experiments/*/experiment.yaml")):
        load_declaration(path.parent.name, root)


def repro(targets: Sequence[str] = (), jobs: int = 2, experiments: Sequence[str] = ()) -> int:
    """Bring the targets, or some experiments and the report (default: everything), up to date; returns the number of
    stages that were stale.

    Raises:
        HarnessError: if a declaration is wrong, a stage failed, or some are still stale at the end.
    """
    check_declarations()
    clear_dead_locks()
    without_git()
    plan = read_plan(targets, experiments)
    todo = stale(plan)
    if not todo:
        print(f"up to date: {len(plan)} stages, nothing to run", flush=True)
        return 0
    launcher = Launcher(plan, jobs, set(todo), estimate_seconds(plan))
    longest = max(remaining_path(plan, todo, launcher.seconds).values())
    about = clock(max(longest, sum(launcher.seconds[name] for name in todo) / jobs))
    launcher.say(f"{len(todo)} of {len(plan)} stages to run, {jobs} at once, about {about}; logs in {WORK / 'logs'}")
    launcher.run()
    left = sorted(stale(read_plan(targets, experiments)))
    if left:
        raise HarnessError(
            f"still stale: {', '.join(map(short, left))}; files changed during the run: run the same command again"
        )
    launcher.say("all up to date")
    return len(todo)


def main(argv: Sequence[str] | None = None) -> int:
    """`repro`: run all stale stages, several at once, and say what was found. Ends in the same state as `dvc repro`."""
    parser = argparse.ArgumentParser(prog="python -m harness repro", description=main.__doc__)
    parser.add_argument("targets", nargs="*", help="stages or dvc.yaml files, as for `dvc repro` (default: everything)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="stages at once (default: 2)")
    parser.add_argument(
        "--experiments", nargs="+", default=[], metavar="NAME", help="only these experiments, and the report"
    )
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        raise HarnessError(f"--jobs: expected at least 1, got {arguments.jobs}")
    known = sorted(path.parent.name for path in Path("experiments").glob("*/experiment.yaml"))
    if unknown := sorted(set(arguments.experiments) - set(known)):
        raise HarnessError(f"--experiments {' '.join(unknown)}: no such experiment; there are {', '.join(known)}")
    try:
        with signals_stop(), only_launcher():
            repro(arguments.targets, arguments.jobs, arguments.experiments)
            if not arguments.targets and any(Path("comparisons").glob("*/comparison.json")):
                print_verdicts()
    except Stopped as stop:
        print(f"stopped ({stop}); everything finished is kept: run the same command again to go on", file=sys.stderr)
        return stop.status
    return 0
