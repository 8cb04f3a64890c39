"""Evaluators fitted on training clips, and a small project folder with real files for the verbs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from attrs import evolve
from digit_world import BATCH, COUNT, DATA, STEPS, World, planted, stacked

from harness.config.schema import EvaluatorsConfig
from harness.data.digits import Clip, iter_clips
from harness.evaluation.evaluators import unit_range
from harness.evaluation.fit_evaluators import fit_evaluators
from harness.evaluation.panel import ClipSet


@pytest.fixture(scope="session")
def training_clips() -> list[Clip]:
    return list(iter_clips(DATA, "train"))


@pytest.fixture(scope="session")
def world(training_clips: list[Clip]) -> World:
    evaluators = fit_evaluators(
        stacked(training_clips),
        [clip.attributes for clip in training_clips],
        EvaluatorsConfig(steps=STEPS, batch_size=BATCH, lr=4e-3),
        source="moving_digits",
    )
    test = list(iter_clips(DATA, "test"))
    good, real = test[:COUNT], test[COUNT:]
    reference = ClipSet(
        measured=evaluators.measure(stacked(real)),
        prompts=np.arange(COUNT),
        attributes=[clip.attributes for clip in real],
    )
    digits = np.array([clip.attributes["digit"] for clip in good])
    return World(evaluators, unit_range(stacked(good)), [c.attributes for c in good], digits, reference)


@pytest.fixture(scope="session")
def floor(world: World) -> dict[str, float]:
    """The metrics of clips without fault."""
    return world.values(world.good)


@pytest.fixture(scope="session")
def faults(world: World) -> dict[str, dict[str, float]]:
    """The metrics of every planted fault."""
    return {name: world.values(video, captions) for name, (video, captions) in planted(world).items()}


PARAMS = {
    "preset": "small",
    "seeds": [0],
    "presets": {
        "small": {
            "data": {
                "source": "moving_digits",
                "height": 24,
                "width": 24,
                "frames": 9,
                "clips": {"train": 48, "validation": 16, "test": 24},
            },
            "encoders": {"text_length": 12, "text_dim": 64, "position_channels": True},
            "evaluators": {"steps": 2, "batch_size": 16},
            "evaluation": {
                "clips": 16,
                "repeats": 2,
                "batch_size": 8,
                "teacher_steps": 3,
                "gate": {"caption_accuracy": 0.0, "motion_accuracy": 0.0},
            },
            "run": {
                "model": "tiny",
                "frames": 3,
                "rollout": {"frames_per_block": 1, "denoising_steps": [1000, 500], "shift": 3.0},
                "sft": {"updates": 1, "optimizer": {"lr": 0.001}},
                "causal_sft": {"updates": 1, "optimizer": {"lr": 0.001}},
                "dmd": {
                    "generator_updates": 1,
                    "generator_optimizer": {"lr": 0.001},
                    "critic_optimizer": {"lr": 0.001},
                },
                "monitor": {"clips": 16},
            },
        }
    },
}

WITH_IMAGE = {  # of the preset, for image to video
    "encoders": PARAMS["presets"]["small"]["encoders"] | {"image_encoder": "random_clip"},
    "i2v": {"model": "tiny-i2v", "teacher": "checkpoints/teacher_i2v"},
}

EXPERIMENT = {
    "schema": 1,
    "name": "toy",
    "seeds": [0],
    "varied": ["dmd.cfg_scale"],
    "fixed": {"method": "dmd"},
    "arms": {
        "low": {"label": "Low", "set": {"dmd.cfg_scale": 1.5}},
        "high": {"label": "High", "set": {"dmd.cfg_scale": 3}},
    },
}

IMAGE_EXPERIMENT = EXPERIMENT | {
    "name": "pictured",
    "varied": ["rollout.image_conditioning"],
    "arms": {
        way: {"label": way, "set": {"rollout.image_conditioning": way}} for way in ("channels", "first_latent", "both")
    },
}


def save_random(folder: Path, name: str, seed: int) -> None:
    from harness.models.checkpoint import save_model
    from harness.models.presets import build_model

    torch.manual_seed(seed)
    model = build_model(name)
    with torch.no_grad():  # the output layer starts at zero: without this every model would make the same clips
        torch.nn.init.normal_(model.proj_out.weight, std=0.02)
    save_model(model, folder)


@pytest.fixture(scope="session")
def image_root(root, tmp_path_factory) -> Path:
    """A project folder as `root`, whose data has image conditions, with random models for image to video."""
    from harness.config.load import load_params
    from harness.data.encode import encode
    from harness.data.encoders import make_encoders

    folder = tmp_path_factory.mktemp("image_project")
    params = PARAMS | {"presets": {"small": PARAMS["presets"]["small"] | WITH_IMAGE}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "experiments/pictured").mkdir(parents=True)
    (folder / "experiments/pictured/experiment.yaml").write_text(yaml.safe_dump(IMAGE_EXPERIMENT))
    for shared in ("data/clips", "checkpoints/evaluators", "checkpoints/teacher"):
        (folder / shared).parent.mkdir(exist_ok=True)
        (folder / shared).symlink_to(root / shared)
    clips, encoders = folder / "data/clips", folder / "checkpoints/encoders"
    make_encoders(load_params(folder / "params.yaml").preset.encoders, clips, encoders)
    encode(
        clips,
        encoders,
        folder / "data/encoded",
        text_length=12,
        position_channels=True,
        image=True,
        work=folder / ".work",
    )
    networks = {
        "teacher_i2v/model": "tiny-i2v",
        "causal_sft_i2v/first_latent/seed0/model": "tiny",
        "pictured/channels/seed0/model": "tiny-i2v",
        "pictured/channels/seed0/init": "tiny-i2v",
        "pictured/first_latent/seed0/model": "tiny",
        "pictured/first_latent/seed0/init": "tiny",
        "pictured/both/seed0/model": "tiny-i2v",
        "pictured/both/seed0/init": "tiny-i2v",
    }
    for seed, (place, name) in enumerate(networks.items()):
        save_random(folder / "checkpoints" / place, name, seed)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A project folder with data, encoders, evaluators and random models for every kind of target."""
    from harness.config.load import load_params
    from harness.data.encode import encode
    from harness.data.encoders import make_encoders
    from harness.data.prepare import prepare
    from harness.evaluation.fit_evaluators import main

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (root / "experiments/toy").mkdir(parents=True)
    (root / "experiments/toy/experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    preset = load_params(root / "params.yaml").preset
    clips, encoders = root / "data/clips", root / "checkpoints/encoders"
    prepare(preset.data, clips)
    make_encoders(preset.encoders, clips, encoders)
    encode(clips, encoders, root / "data/encoded", text_length=12, position_channels=True, work=root / ".work")
    out = root / "checkpoints/evaluators"
    main(["--params", str(root / "params.yaml"), "--clips", str(clips), "--out", str(out)])
    for seed, folder in enumerate(
        ("teacher/model", "causal_sft/seed0/model", "toy/low/seed0/model", "toy/low/seed0/init")
    ):
        save_random(root / "checkpoints" / folder, "tiny", seed)
    return root


@pytest.fixture(scope="session")
def ad_hoc(root: Path, tmp_path_factory) -> Path:
    """A project that shares its files with `root`, with an ad hoc run `mine` of three denoising steps."""
    from harness.config.load import resolve_target, to_dict
    from harness.io import write_json

    folder = tmp_path_factory.mktemp("ad_hoc")
    for part in ("params.yaml", "data", "checkpoints", "experiments"):
        (folder / part).symlink_to(root / part)
    run = resolve_target("toy/low/seed0", root)
    run = evolve(run, rollout=evolve(run.rollout, denoising_steps=(1000, 700, 300)))
    write_json(folder / "runs/mine/manifest.json", {"config": to_dict(run), "fingerprint": "f", "ad_hoc": True})
    shutil.copytree(root / "checkpoints/toy/low/seed0", folder / "runs/mine/checkpoints")
    return folder
