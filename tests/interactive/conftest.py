"""One small project for all tests of interactive video."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_project import make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return make_project(tmp_path_factory.mktemp("project"))
