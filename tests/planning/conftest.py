"""Scenes of networks so small that a rehearsal takes a tenth of a second."""

from pathlib import Path

import pytest
from attrs import evolve

from harness.config.load import resolve_preset
from harness.models.presets import WanGeometry
from harness.planning.scene import Scene

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
SMALL = WanGeometry(
    num_attention_heads=2, attention_head_dim=12, num_layers=3, ffn_dim=40, text_dim=8, freq_dim=8, in_channels=16
)


@pytest.fixture
def small():
    """Makes a scene: method, settings as they are typed, layers of (generator, critic, teacher), devices."""

    def make(method="dmd", *settings, layers=(3, 3, 3), frames=6, world_size=1, size=4, batch=4):
        given = [f"{method}.batch_size={batch}", "precision=fp32", "rollout.denoising_steps=[1000, 500]"]
        given += ["dmd.rollouts_ahead=false", *settings]
        config = evolve(resolve_preset("tiny", method, given, PARAMS), frames=frames)
        roles = ("generator", "critic", "teacher") if method == "dmd" else ("generator",)
        networks = tuple((role, evolve(SMALL, num_layers=number)) for role, number in zip(roles, layers, strict=False))
        return Scene(config=config, networks=networks, height=size, width=size, text_length=5, world_size=world_size)

    return make
