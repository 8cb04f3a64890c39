"""A small encoded data set, made once by the real stages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve

from harness.config.schema import DataConfig, EncodersConfig, Splits
from harness.data.encode import encode
from harness.data.encoders import make_encoders
from harness.data.prepare import prepare

TEXT_LENGTH = 12


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> SimpleNamespace:
    """Folders `clips`, `encoders`, `encoded` of 46 + 5 + 5 moving digits, and the settings that made them."""
    torch.set_num_threads(1)
    root: Path = tmp_path_factory.mktemp("data")
    config = DataConfig(
        source="moving_digits", height=16, width=24, frames=9, clips=Splits(train=46, validation=5, test=5)
    )
    encoders = EncodersConfig(text_length=TEXT_LENGTH, text_dim=32)
    prepare(config, root / "clips")
    make_encoders(encoders, root / "clips", root / "encoders")
    encode(root / "clips", root / "encoders", root / "encoded", text_length=TEXT_LENGTH, work=root / "work")
    return SimpleNamespace(
        root=root,
        clips=root / "clips",
        encoders=root / "encoders",
        encoded=root / "encoded",
        config=config,
        encoders_config=encoders,
        text_length=TEXT_LENGTH,
    )


@pytest.fixture(scope="session")
def image_data(data, tmp_path_factory) -> SimpleNamespace:
    """The same clips encoded for image to video, by a random CLIP tower of 17 tokens, 16 wide."""
    root: Path = tmp_path_factory.mktemp("image-data")
    config = evolve(data.encoders_config, image_encoder="random_clip", image_dim=16, image_layers=3)
    make_encoders(config, data.clips, root / "encoders")
    encode(data.clips, root / "encoders", root / "encoded", text_length=TEXT_LENGTH, image=True, work=root / "work")
    return SimpleNamespace(
        clips=data.clips,
        encoders=root / "encoders",
        encoded=root / "encoded",
        config=data.config,
        encoders_config=config,
        text_length=TEXT_LENGTH,
    )
