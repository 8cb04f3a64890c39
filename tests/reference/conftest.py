"""Projects whose results are made-up runs."""

from pathlib import Path

import pytest
from made_up_runs import write_run


@pytest.fixture
def arm(tmp_path, monkeypatch) -> Path:
    """The root of a project with an arm of three seeds, `x/a`; it is the working directory."""
    for seed in range(3):
        write_run(tmp_path / f"results/x/a/seed{seed}", seed=seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path
