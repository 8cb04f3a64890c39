import math

import numpy as np
import pytest
import torch
from attrs import evolve

from harness.config.load import resolve_target
from harness.data.mds import load_split
from harness.errors import HarnessError
from harness.evaluation.evaluators import load_evaluators
from harness.evaluation.monitor import build_monitor, sampler_for
from harness.models.checkpoint import load_model


def monitor_of(root, target: str):
    return build_monitor(
        resolve_target(target, root),
        data_folder=root / "data/encoded",
        evaluators_folder=root / "checkpoints/evaluators",
        encoders_folder=root / "checkpoints/encoders",
    )


@pytest.fixture(scope="module")
def student(root):
    return monitor_of(root, "toy/low/seed0")


def test_it_gives_finite_numbers_and_the_same_ones_twice(root, student):
    model = load_model(root / "checkpoints/toy/low/seed0/model")
    values = student(model)
    assert {
        "fvd",
        "conditional_distance",
        "caption_accuracy",
        "recall",
        "ink",
        "motion_energy",
        "latent_std_ratio",
        "diversity",
    } <= set(values)
    assert all(math.isfinite(value) for value in values.values())
    assert student(model) == values
    assert student(load_model(root / "checkpoints/toy/low/seed0/init")) != values


def test_the_first_clips_can_be_looked_at(root, student):
    student(load_model(root / "checkpoints/toy/low/seed0/model"))
    first = student.shown
    assert first.dtype == np.uint8
    assert first.shape[0] == min(4, len(student.prompts))
    assert first.shape[-1] == 3
    student(load_model(root / "checkpoints/toy/low/seed0/init"))
    assert not np.array_equal(first, student.shown)


def test_it_leaves_the_model_and_the_global_random_state_alone(root, student):
    model = load_model(root / "checkpoints/toy/low/seed0/model").train()
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    student(model)
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    student(model)
    assert not model.training


def test_every_method_has_the_sampler_of_its_kind(root):
    teacher = sampler_for(resolve_target("teacher", root))
    assert (teacher.kind, teacher.cfg_scale > 1, teacher.steps < 10) == ("euler", True, True)
    assert sampler_for(resolve_target("causal_sft/seed0", root)).kind == "few_step"
    assert sampler_for(resolve_target("toy/low/seed0", root)).kind == "few_step"


def test_real_latents_are_at_the_codecs_ceiling(root):
    """A "generator" that plays back the validation latents of the prompts asked for is as good as can be."""
    monitor = monitor_of(root, "toy/low/seed0")
    stored = torch.from_numpy(load_split(root / "data/encoded/validation")["latent"].copy()).float()
    played = iter(stored[monitor.prompts.prompts].split(monitor.batch_size))
    monitor.sampler = lambda model, noise, condition, rng: next(played)
    values = monitor(torch.nn.Linear(1, 1))
    assert values["motion_accuracy"] == 1
    assert values["recall"] > 0.6
    assert values["rigid_error"] < 0.1
    assert values["latent_std_ratio"] == pytest.approx(1, abs=0.05)
    assert values["latent_mean_shift"] == pytest.approx(0, abs=0.05)
    assert values["ink"] == pytest.approx(1, abs=0.2)  # the codec brightens the background of such short clips


def test_a_shift_and_a_stretch_of_the_latents_are_told_apart(root):
    monitor = monitor_of(root, "toy/low/seed0")
    stored = torch.from_numpy(load_split(root / "data/encoded/validation")["latent"].copy()).float()
    clips = stored[monitor.prompts.prompts]

    def values(change):
        played = iter(change(clips).split(monitor.batch_size))
        monitor.sampler = lambda model, noise, condition, rng: next(played)
        return monitor(torch.nn.Linear(1, 1))

    plain, shifted, stretched = values(lambda x: x), values(lambda x: x + 0.3), values(lambda x: 1.2 * x)
    std = float(stored.std())
    assert shifted["latent_mean_shift"] - plain["latent_mean_shift"] == pytest.approx(0.3 / std, rel=1e-3)
    assert shifted["latent_std_ratio"] == pytest.approx(plain["latent_std_ratio"], rel=1e-5)
    assert stretched["latent_std_ratio"] == pytest.approx(1.2 * plain["latent_std_ratio"], rel=1e-5)


def test_too_few_validation_clips_are_told(root):
    run = resolve_target("teacher", root)
    with pytest.raises(HarnessError, match="it has 16"):
        build_monitor(
            evolve(run, monitor=evolve(run.monitor, clips=64)),
            data_folder=root / "data/encoded",
            evaluators_folder=root / "checkpoints/evaluators",
            encoders_folder=root / "checkpoints/encoders",
        )


def test_the_reference_is_the_source_clips_and_not_what_the_codec_makes_of_them(root, student):
    videos = np.stack(load_split(root / "data/clips/validation")["video"])
    source = load_evaluators(root / "checkpoints/evaluators").measure(videos)
    assert np.allclose(student.reference.measured.features, source.features, atol=1e-6)
    assert np.allclose(student.reference.measured.brightness, source.brightness, atol=1e-9)


def test_as_many_clips_at_once_as_the_run_says(root):
    run = resolve_target("toy/low/seed0", root)
    monitor = build_monitor(
        evolve(run, monitor=evolve(run.monitor, batch_size=3)),
        data_folder=root / "data/encoded",
        evaluators_folder=root / "checkpoints/evaluators",
        encoders_folder=root / "checkpoints/encoders",
    )
    stored = torch.from_numpy(load_split(root / "data/encoded/validation")["latent"].copy()).float()
    sizes = []

    def sampler(model, noise, condition, rng):
        sizes.append(len(noise))
        return stored[: len(noise)]

    monitor.sampler = sampler
    monitor(torch.nn.Linear(1, 1))
    assert max(sizes) == 3
    assert len(monitor.shown) == 4
    assert sum(sizes) == run.monitor.clips
