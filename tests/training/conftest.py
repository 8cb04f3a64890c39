"""A project folder with a little encoded data and a teacher, and processes that train in it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.config.load import resolve_file
from harness.data.mds import ENCODED_COLUMNS, write_mds
from harness.io import write_json
from harness.models.checkpoint import save_model
from harness.models.presets import build_model

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
CLIPS, FRAMES, SIZE, TEXT_LENGTH, TEXT_DIM = 16, 3, 4, 8, 64


def _write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [
        {
            "key": f"clip{n}",
            "latent": rng.standard_normal((16, FRAMES, SIZE, SIZE)).astype(np.float16),
            "text": rng.standard_normal((3 + n % 4, TEXT_DIM)).astype(np.float16),
            "first_frame": np.zeros((8, 8, 3), np.uint8),
            "caption": f"caption {n}",
            "attributes": {},
        }
        for n in range(CLIPS)
    ]
    for split in ("train", "validation"):
        write_mds(folder / split, ENCODED_COLUMNS, samples)
    save_file({"text": torch.zeros(1, TEXT_DIM, dtype=torch.float16)}, folder / "unconditional.safetensors")
    shape = {"latent_shape": [16, FRAMES, SIZE, SIZE], "text_length": TEXT_LENGTH, "position_channels": True}
    write_json(folder / "fingerprint.json", {"schema": 1, **shape})


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The root of a project that tests copy."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("project")
    _write_data(root / "data/encoded")
    torch.manual_seed(0)
    save_model(build_model("tiny", zero_output=False), root / "checkpoints/teacher/model")
    shutil.copy(PARAMS, root / "params.yaml")
    return root


@pytest.fixture
def project(prepared, tmp_path, monkeypatch) -> Path:
    """The root of a project of its own, which is also the working directory."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def small_run() -> Callable[..., Any]:
    """Makes a RunConfig of the smoke preset with `key=value` overrides, without a monitor unless they say otherwise."""

    def make(root: Path, method: str, *overrides: str) -> Any:
        path = root / f"{method}.yaml"
        init = "random" if method == "sft" else "teacher"
        path.write_text(f"preset: smoke\nmethod: {method}\nseed: 0\ninit: {{kind: {init}}}\n")
        return resolve_file(path, [f"{method}.monitor_every_updates=null", *overrides], root / "params.yaml")

    return make


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="session")
def in_processes() -> Callable[..., list[int]]:
    """`in_processes(call, ranks=1)` runs `call(rank)` in as many processes; their exit codes (negative: a signal).

    They are forks: everything is imported already.
    """

    def run(call: Callable[[int], Any], ranks: int = 1) -> list[int]:
        port = _free_port()
        children = []
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(ranks),
                    LOCAL_WORLD_SIZE=str(ranks),
                    NODE_RANK="0",
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )
                signal.alarm(240)
                code = 1
                try:
                    call(rank)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    return run
