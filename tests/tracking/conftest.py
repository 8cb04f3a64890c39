"""A small project with finished results, and a W&B server that is this machine's own."""

import os
from pathlib import Path

import pytest
from small_project import ARMS, EXPERIMENT, SEEDS, lock_text, make_comparison, make_target, md5, write
from stub_server import KEY, StubServer


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A root with two arms of two seeds, compared, and a lock file that knows the first arm's first seed."""
    for arm in ARMS:
        for seed in SEEDS:
            make_target(tmp_path, f"{EXPERIMENT}/{arm}/seed{seed}", seed)
    make_comparison(tmp_path)
    target = f"{EXPERIMENT}/first/seed0"
    write(tmp_path / "dvc.lock", lock_text({"data/encoded": "1" * 32 + ".dir", "checkpoints/teacher": "2" * 32}))
    outputs = {f"checkpoints/{target}": "3" * 32 + ".dir"}
    for name in ("manifest.json", "cards.json"):
        outputs[f"results/{target}/{name}"] = md5(tmp_path / "results" / target / name)
    write(tmp_path / "experiments" / EXPERIMENT / "dvc.lock", lock_text(outputs))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(monkeypatch):
    """A W&B server; the environment points to it, with a key, as if it were the real one."""
    with StubServer() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setenv("WANDB_CONFIG_DIR", os.devnull)
        yield stub
