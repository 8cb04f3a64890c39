import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attrs import evolve

from harness.config.load import resolve_target
from harness.config.metrics import OF_IMAGES
from harness.data.mds import load_split
from harness.errors import HarnessError
from harness.evaluation.evaluators import load_evaluators
from harness.evaluation.monitor import MEASURED_LONG, build_monitor, sampler_for
from harness.evaluation.panel import SMALLEST_SET
from harness.io import write_json
from harness.models.checkpoint import load_model
from harness.models.codec import from_pixels

OF_RUN = ("evaluate_frames", "captions_with", "frames")


def monitor_of(root, target: str, **changes):
    """A target's monitor; changes are of the section `monitor`, or `OF_RUN`."""
    run = resolve_target(target, root)
    of_run = {name: changes.pop(name) for name in OF_RUN if name in changes}
    return build_monitor(
        evolve(run, monitor=evolve(run.monitor, **changes), **of_run),
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


def test_a_network_that_has_diverged_is_told_of_and_measured_no_further(root, student):
    model = load_model(root / "checkpoints/toy/low/seed0/model")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(HarnessError, match="samples values that are not finite: it has diverged"):
        student(model)


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


def test_causal_sft_is_sampled_causally_whatever_the_students_are(root):
    run = resolve_target("causal_sft/seed0", root)
    assert sampler_for(evolve(run, rollout=evolve(run.rollout, attention="bidirectional"))).causal
    run = resolve_target("toy/low/seed0", root)
    assert not sampler_for(evolve(run, rollout=evolve(run.rollout, attention="bidirectional"))).causal


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


def monitor_with_card(tmp_path, source, target: str, late_motion: float | None, **changes):
    """The monitor of a run whose teacher has a card, in a project that shares its files with another."""
    for part in ("data", "experiments", "checkpoints", "params.yaml"):
        (tmp_path / part).symlink_to(source / part)
    run = resolve_target(target, tmp_path)
    if late_motion is not None:
        metrics = {"late_motion": {"value": late_motion, "low": late_motion, "high": late_motion}}
        name = run.teacher.removeprefix("checkpoints/")
        write_json(tmp_path / f"results/{name}/cards.json", {"models": {"teacher": {"metrics": metrics}}})
    return build_monitor(
        evolve(run, monitor=evolve(run.monitor, **changes)),
        data_folder=tmp_path / "data/encoded",
        evaluators_folder=tmp_path / "checkpoints/evaluators",
        encoders_folder=tmp_path / "checkpoints/encoders",
    )


class Player(torch.nn.Linear):
    """Stands for a network that reads no image."""

    def __init__(self):
        super().__init__(1, 1)
        self.config = {"image_dim": None}


def played(monitor, clips: np.ndarray) -> dict[str, float]:
    """What the monitor says of a generator that plays these clips, uint8 `[N, F, H, W, 3]`, without loss."""
    latents = iter(from_pixels(clips).split(monitor.batch_size))
    monitor.sampler = lambda model, noise, condition, rng: next(latents)
    return monitor(Player())


@pytest.fixture
def pixels(monkeypatch):
    """A codec whose latents are pixels."""
    monkeypatch.setattr("harness.evaluation.monitor.decode_latents", lambda vae, latents: latents)


@pytest.mark.parametrize("target", ["pictured/both/seed0", "causal_sft_i2v/first_latent/seed0"])
def test_clips_that_stand_still_are_far_below_the_teacher(image_root, tmp_path, pixels, target):
    monitor = monitor_with_card(tmp_path, image_root, target, late_motion=0.8)
    clips = np.stack(load_split(image_root / "data/clips/validation")["video"])[monitor.prompts.prompts]
    sound = played(monitor, clips)
    assert sound["static_collapse"] == pytest.approx(sound["late_motion"] / 0.8)
    assert sound["late_motion"] == pytest.approx(1, abs=0.2)
    assert sound["first_frame_psnr"] > 50
    assert sound["image_identity"] == pytest.approx(1, abs=0.1)
    frozen = played(monitor, np.broadcast_to(clips[:, :1], clips.shape))
    assert frozen["static_collapse"] == 0
    assert frozen["first_frame_psnr"] > 50
    other = played(monitor, np.roll(clips, 1, axis=0))
    assert other["first_frame_psnr"] < 25
    assert other["image_identity"] < 0.7
    assert other["static_collapse"] == pytest.approx(sound["static_collapse"], rel=0.1)
    assert played(monitor, np.zeros_like(clips))["static_collapse"] == 0


def test_networks_with_and_without_image_inputs_are_measured(image_root, tmp_path):
    for way in ("channels", "first_latent"):
        (tmp_path / way).mkdir()
        monitor = monitor_with_card(tmp_path / way, image_root, f"pictured/{way}/seed0", late_motion=1.0)
        values = monitor(load_model(image_root / f"checkpoints/pictured/{way}/seed0/model"))
        assert {*OF_IMAGES, "late_motion", "static_collapse"} <= set(values)
        assert all(math.isfinite(value) for value in values.values())


def test_without_an_image_or_a_teachers_card_their_metrics_are_left_out(root, tmp_path, student):
    values = student(load_model(root / "checkpoints/toy/low/seed0/model"))
    assert not {*OF_IMAGES, "static_collapse", "fvd_gap"} & set(values)
    monitor = monitor_with_card(tmp_path, root, "toy/low/seed0", late_motion=0.5)
    measured = monitor(load_model(root / "checkpoints/toy/low/seed0/model"))
    assert measured.pop("static_collapse") == pytest.approx(2 * values["late_motion"])
    assert measured == values  # a card of the teacher changes no other number


def test_short_clips_are_compared_with_real_clips_as_short(root):
    monitor = monitor_of(root, "toy/low/seed0", frames=2)
    assert monitor.reference.measured.brightness.shape[1] == 5
    values = monitor(load_model(root / "checkpoints/toy/low/seed0/model"))
    assert all(math.isfinite(value) for value in values.values())


def test_a_teacher_in_training_is_not_measured_against_its_earlier_self(root, tmp_path):
    assert monitor_with_card(tmp_path, root, "teacher", late_motion=0.5).teacher_motion is None


def test_a_teacher_that_stands_still_is_no_measure(root, tmp_path):
    monitor = monitor_with_card(tmp_path, root, "toy/low/seed0", late_motion=0.0)
    assert "static_collapse" not in monitor(load_model(root / "checkpoints/toy/low/seed0/model"))


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("fvd_gap", "of finished runs only"),
        ("image_identity", "against a given image"),
        ("static_collapse", "no card of the teacher checkpoints/teacher"),
        ("long_fvd", "a causal student and evaluate_frames"),
        ("switch_delay", "harness evaluate` only"),
        ("color_accuracy", "harness evaluate` only"),
    ],
)
def test_what_this_run_does_not_measure_cannot_choose_its_best_weights(root, tmp_path, metric, why):
    with pytest.raises(HarnessError, match=rf"monitor\.metric: {metric} .*{why}"):
        monitor_with_card(tmp_path, root, "toy/low/seed0", None, metric=metric)


def test_what_it_measures_can(image_root, tmp_path):
    monitor_with_card(tmp_path, image_root, "pictured/both/seed0", late_motion=1.0, metric="image_identity")
    (tmp_path / "b").mkdir()
    monitor_with_card(tmp_path / "b", image_root, "pictured/both/seed0", late_motion=1.0, metric="static_collapse")


class Digitless:
    """Stands for evaluators of clips without digits."""

    geometry = SimpleNamespace(has_digits=False)


@pytest.mark.parametrize("metric", ["caption_accuracy", "mode_coverage", "long_identity"])
def test_what_is_read_from_digits_cannot_choose_where_there_are_none(root, monkeypatch, metric):
    monkeypatch.setattr("harness.evaluation.monitor.load_evaluators", lambda folder: Digitless())
    with pytest.raises(HarnessError, match=rf"monitor\.metric: {metric} .*from digits, and these clips have none"):
        monitor_of(root, "toy/low/seed0", evaluate_frames=6, metric=metric)


def every(root) -> list[str]:
    return load_split(root / "data/clips/validation")["caption"]


def captions_of(root, clips: int) -> list[str]:
    """The captions of the monitor's first clips."""
    return monitor_of(root, "toy/low/seed0", clips=clips).prompts.captions


@pytest.mark.parametrize("metric", ["fvd", "recall", "diversity", "long_fvd", "fvd_drift"])
def test_too_few_clips_of_the_monitor_are_told_before_training(root, metric):
    few, enough = SMALLEST_SET - 1, SMALLEST_SET
    with pytest.raises(HarnessError) as caught:
        monitor_of(root, "toy/low/seed0", evaluate_frames=6, clips=few, metric=metric)
    told = str(caught.value)
    assert told.startswith(f"monitor.metric: {metric} is measured on sets of at least {enough} clips. ")
    assert f"The monitor has {few} among its {few} (monitor.clips), the validation split 16 among 16 " in told
    monitor = monitor_of(root, "toy/low/seed0", evaluate_frames=6, clips=enough, metric=metric)
    assert metric in monitor(load_model(root / "checkpoints/toy/low/seed0/model"))


@pytest.mark.parametrize("metric", ["long_fvd", "fvd_drift"])
def test_too_few_clips_with_the_words_of_a_run_are_told_before_training(root, metric):
    words = "slowly"
    made, real = (sum(words in caption for caption in captions) for captions in (captions_of(root, 12), every(root)))
    assert 0 < made < SMALLEST_SET
    with pytest.raises(HarnessError) as caught:
        monitor_of(root, "toy/low/seed0", evaluate_frames=6, captions_with=words, clips=12, metric=metric)
    told = str(caught.value)
    assert f"of at least {SMALLEST_SET} clips with '{words}' in their caption. The monitor has {made} among its" in told
    assert f"the validation split {real} among 16" in told
    assert "captions_with (null: all), or take another metric" in told
    others = {"evaluate_frames": 6, "captions_with": words, "clips": 12}
    for free in ("fvd", "long_ink"):  # a mean over clips, and what is measured on all of them
        assert free in monitor_of(root, "toy/low/seed0", metric=free, **others)(
            load_model(root / "checkpoints/toy/low/seed0/model")
        )


def test_captions_that_all_give_a_direction_cannot_choose_by_mode_coverage(root):
    with pytest.raises(HarnessError, match=r"whose caption leaves the direction open\..*has 0 among .*open_directions"):
        monitor_of(root, "toy/low/seed0", metric="mode_coverage")


def test_long_clips_are_measured_where_they_choose_the_best_weights(root, student):
    run = evolve(resolve_target("toy/low/seed0", root), evaluate_frames=6)

    def values(metric: str) -> dict[str, float]:
        monitor = build_monitor(
            evolve(run, monitor=evolve(run.monitor, metric=metric)),
            data_folder=root / "data/encoded",
            evaluators_folder=root / "checkpoints/evaluators",
            encoders_folder=root / "checkpoints/encoders",
        )
        return monitor(load_model(root / "checkpoints/toy/low/seed0/model").train())

    short, long = values("fvd"), values("long_fvd")
    assert set(long) - set(short) == set(MEASURED_LONG)
    assert {name: long[name] for name in short} == short
    assert all(math.isfinite(long[name]) for name in MEASURED_LONG)
    assert long["fvd_drift"] == pytest.approx(long["long_fvd"] - long["fvd"], abs=1e-3)  # the first segment is the clip
    assert values("long_identity") == long
