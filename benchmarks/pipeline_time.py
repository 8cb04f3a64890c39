"""Where the time of `make repro-all` goes: a table of every stage, from the durations that the launcher recorded.

Run `python benchmarks/pipeline_time.py > benchmarks/results/pipeline_time.md`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.io import read_json
from harness.stages import read_durations


def cpu_name() -> str:
    """The processor as the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def kind(stage: str) -> str:
    """A stage without its seed: `causal_sft@0` → `causal_sft`, `… train@one_stage-0` → `… train@one_stage`."""
    name, _, item = stage.partition("@")
    arm = item.rpartition("-")[0]
    return f"{name}@{arm}" if arm else name


def main() -> int:
    """Print the table in Markdown."""
    seconds = read_durations()
    if not seconds:
        print("no durations yet: run `make repro` first", file=sys.stderr)
        return 2
    groups: dict[str, list[float]] = defaultdict(list)
    for stage, value in seconds.items():
        groups[kind(stage)].append(value)
    total = sum(seconds.values())
    print(f"# Where the time of `make repro-all` goes\n\n{os.cpu_count()} cores ({cpu_name()}), two stages at once.\n")
    print("| stage | runs | seconds each | seconds in all | share |\n| --- | --- | --- | --- | --- |")
    for name, values in sorted(groups.items(), key=lambda item: -sum(item[1])):
        each = f"{min(values):.0f}–{max(values):.0f}" if len(values) > 1 else f"{values[0]:.0f}"
        print(f"| {name} | {len(values)} | {each} | {sum(values):.0f} | {sum(values) / total:.0%} |")
    print(f"| all, one after the other | {len(seconds)} | | {total:.0f} | |\n")
    print("Training runs, as their manifests counted them:\n")
    print("| run | wall seconds | CPU-seconds | TFLOP | denoiser forwards | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in sorted(Path("results").rglob("manifest.json")):
        manifest = read_json(path)
        compute = manifest["compute"]
        print(
            f"| {manifest['target']} | {manifest['wall_seconds']:.0f} | {compute['device_seconds']:.0f} "
            f"| {compute['teraflops']:.2f} | {compute['denoiser_forwards']:,} | {manifest['peak_memory_mib']:,.0f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
