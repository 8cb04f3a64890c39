"""The one training entry.

`python harness/train.py --target T [--wait]` trains a declared run (`teacher`, `causal_sft/seed0`, `teacher_i2v`,
`causal_sft_i2v/<way>/seed<N>`, `<experiment>/<arm>/seed<N>`); `composer harness/train.py CONFIG.yaml key.sub=value …`
trains an ad hoc one into `runs/<name>/`. Both train in `.work/runs/<fingerprint>/`, go on there after an interruption,
and copy the finished run to where it was asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):  # a script: modules are found from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from harness.config.load import resolve_file, resolve_target
from harness.errors import UNFORESEEN, HarnessError
from harness.training.fingerprint import fingerprint
from harness.training.inputs import TEACHERS, input_digests
from harness.training.request import Request
from harness.training.run_store import follow, held, launch_name, materialize, run_folder


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="harness/train.py", description=__doc__)
    parser.add_argument("--target", help="a declared run: teacher, causal_sft/seed0, <experiment>/<arm>/seed<N>")
    parser.add_argument("--wait", action="store_true", help="if the run is being trained already, wait for it")
    parser.add_argument("--name", help="folder name of an ad hoc run (default: the file's name)")
    parser.add_argument("config", nargs="?", help="YAML file of an ad hoc run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    arguments = parser.parse_intermixed_args(argv)
    if (arguments.target is None) == (arguments.config is None):
        parser.error("give either --target or a configuration file")
    return arguments


def read_request(arguments: argparse.Namespace, root: Path) -> Request:
    """What is to be trained. Raises HarnessError for a wrong configuration."""
    if arguments.target is not None:
        return Request.declared(arguments.target, resolve_target(arguments.target, root))
    config = resolve_file(arguments.config, arguments.overrides, root / "params.yaml")
    return Request.ad_hoc(
        arguments.name or Path(arguments.config).stem, config, [arguments.config, *arguments.overrides]
    )


def run(request: Request, root: Path, *, wait: bool, rank: int, world_size: int) -> None:
    """Train, unless it is done already, and give out. A declared teacher that is pretrained is imported instead.

    Raises HarnessError for whatever the user can mend.
    """
    trained_here = TEACHERS.get(request.target, request.config.teacher)
    if not request.is_ad_hoc and request.config.teacher != trained_here:
        if rank == 0:
            from harness.training.pretrained import import_teacher  # needs torch

            import_teacher(request, root)
        return
    inputs = input_digests(request.config, root)
    identity = fingerprint(request.config, inputs, world_size)
    folder = run_folder(root, identity)

    def train() -> None:
        if not folder.finished:  # torch and composer are imported only where there is something to train
            from harness.training.session import train

            train(request, folder, fingerprint=identity, inputs=inputs, root=root)

    launch = launch_name(os.environ)
    if rank > 0:
        follow(folder, launch)
        return train()
    with held(folder, wait=wait, what=request.target, launch=launch):
        train()
        materialize(folder, root / request.checkpoints, root / request.results, own=request.own_manifest())
    print(f"{request.target}: {request.checkpoints}, {request.results}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 2 for a mistake that the user can mend."""
    arguments, root = parse(argv), Path(".")
    try:
        rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        run(read_request(arguments, root), root, wait=arguments.wait, rank=rank, world_size=world_size)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved state", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print(UNFORESEEN, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
