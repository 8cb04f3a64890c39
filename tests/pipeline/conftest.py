"""One small project for all tests of the pipeline, and its pipelines by way of conditioning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_project import WAYS, make_project, target

from harness.pipeline import CausalWanPipeline


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def pipelines(project) -> dict[str, CausalWanPipeline]:
    return {way: CausalWanPipeline.from_target(target(way), project) for way in WAYS}
