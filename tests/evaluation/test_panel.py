"""Every metric on planted faults. The evaluators have seen neither these clips nor five of the faults."""

import numpy as np
import pytest
from attrs import evolve
from digit_world import FRAMES, planted, planted_with_image, softened

from harness.config.metrics import AGAINST_TEACHER, METRICS, OF_IMAGES, OF_LONG_CLIPS
from harness.evaluation.intervals import Estimate
from harness.evaluation.panel import SMALLEST_SET, ClipSet, by_frame, measure_card, measure_values

CAUGHT = [  # fault, metric that must show it, least difference from clips without fault
    ("wrong captions", "caption_accuracy", 0.8),
    ("wrong captions", "digit_accuracy", 0.6),
    ("wrong captions", "color_accuracy", 0.5),
    ("wrong captions", "motion_accuracy", 0.6),
    ("wrong captions", "conditional_distance", 0.5),
    ("ignored prompt", "caption_accuracy", 0.8),
    ("ignored prompt", "conditional_distance", 0.5),
    ("shuffled frames", "fvd", 20.0),
    ("shuffled frames", "motion_accuracy", 0.9),
    ("shuffled frames", "precision", 0.5),
    ("shuffled frames", "conditional_distance", 1.0),
    ("frozen frames", "fvd", 20.0),
    ("frozen frames", "motion_accuracy", 0.9),
    ("frozen frames", "recall", 0.8),
    ("frozen frames", "motion_energy", 0.5),
    ("collapsed copies", "fvd", 20.0),
    ("collapsed copies", "recall", 0.8),
    ("collapsed copies", "conditional_distance", 0.5),
    ("noise", "fvd", 20.0),
    ("noise", "rigid_error", 0.1),
    ("noise", "precision", 0.5),
    ("fading", "ink", 0.3),
    ("fading", "rigid_error", 0.05),
    ("fading", "fvd", 3.0),
    ("blur", "fvd", 3.0),
    ("blur", "recall", 0.15),
    ("over-bright", "ink", 0.3),
    ("over-bright", "fvd", 1.0),
    ("morphing", "identity", 0.3),
    ("morphing", "rigid_error", 0.05),
    ("morphing", "fvd", 8.0),
    ("morphing", "digit_accuracy", 0.2),
    ("one handwriting per digit", "diversity", 0.8),
    ("one handwriting per digit", "fvd", 5.0),
    ("one mode of four", "mode_coverage", 0.4),
    ("one mode of four", "conditional_distance", 0.05),
    ("one handwriting per digit", "recall", 0.15),
]


CAUGHT_WITH_IMAGE = [  # as above, for clips that were given an image
    ("frozen clip", "late_motion", 0.8),
    ("a jump, then frozen", "late_motion", 0.8),
    ("a loop of four frames", "late_motion", 0.8),
    ("ignored image", "first_frame_psnr", 8.0),
    ("ignored image", "first_frame_ssim", 0.2),
    ("ignored image", "image_identity", 0.25),
    ("image left after the first frame", "image_identity", 0.25),
    ("wrong image", "first_frame_psnr", 12.0),
    ("wrong image", "first_frame_ssim", 0.5),
    ("wrong image", "image_identity", 0.8),
    ("black frames", "first_frame_psnr", 12.0),
    ("black frames", "first_frame_ssim", 0.6),
    ("black frames", "image_identity", 0.8),
    ("black frames", "late_motion", 0.8),
    ("black after the image", "image_identity", 0.8),
    ("black after the image", "late_motion", 0.8),
    ("a flash", "first_frame_psnr", 8.0),
    ("a flash", "first_frame_ssim", 0.3),
]
ON_CARDS = set(METRICS) - set(OF_IMAGES) - set(AGAINST_TEACHER) - set(OF_LONG_CLIPS)  # of any clips


@pytest.fixture(scope="module")
def with_image(world) -> dict[str, dict[str, float]]:
    """The metrics of clips that were given an image: without fault, and of every fault."""
    clips = {"sound": softened(world.good)} | planted_with_image(world)
    return {name: measure_values(world.clip_set(video, given=True), world.reference) for name, video in clips.items()}


def worse_by(metric: str, found: float, sound: float) -> float:
    match METRICS[metric].direction:
        case "lower":
            return found - sound
        case "higher":
            return sound - found
        case "one":
            return abs(found - 1) - abs(sound - 1)


@pytest.mark.parametrize(("fault", "metric", "least"), CAUGHT)
def test_the_fault_is_caught(fault, metric, least, faults, floor):
    found, sound = faults[fault][metric], floor[metric]
    assert worse_by(metric, found, sound) > least, f"{metric}: {found:.3f} with the fault, {sound:.3f} without"


@pytest.mark.parametrize(("fault", "metric", "least"), CAUGHT_WITH_IMAGE)
def test_the_fault_of_clips_with_an_image_is_caught(fault, metric, least, with_image):
    found, sound = with_image[fault][metric], with_image["sound"][metric]
    assert worse_by(metric, found, sound) > least, f"{metric}: {found:.3f} with the fault, {sound:.3f} without"


def test_sound_clips_keep_to_their_image(with_image):
    sound = with_image["sound"]
    assert sound["first_frame_psnr"] > 33
    assert sound["first_frame_ssim"] > 0.95
    assert sound["image_identity"] > 0.95
    assert sound["late_motion"] == pytest.approx(1, abs=0.2)


def test_what_the_metrics_of_an_image_are_blind_to(with_image):
    """Each is blind to something, alone: no one of them can be taken for the others."""
    sound = with_image["sound"]
    for metric in OF_IMAGES:
        assert with_image["frozen clip"][metric] >= sound[metric]
    assert with_image["image left after the first frame"]["first_frame_psnr"] >= sound["first_frame_psnr"]
    assert with_image["a flash"]["image_identity"] > 0.95
    assert with_image["ignored image"]["late_motion"] == pytest.approx(1, abs=0.1)
    assert with_image["a jump, then frozen"]["motion_energy"] > 0.1  # the jump is motion too: hence the other metric
    assert with_image["a loop of four frames"]["motion_energy"] > 0.9


def test_an_image_changes_no_other_metric(world, floor):
    values = measure_values(world.clip_set(world.good, given=True), world.reference)
    assert {name: values[name] for name in floor} == floor
    assert set(values) - set(floor) == set(OF_IMAGES)


def test_clips_without_digits_have_no_identity_of_the_image(world):
    measured = world.clip_set(world.good, given=True).measured
    bare = evolve(measured, digits=None, image=evolve(measured.image, identity=None))
    clips = ClipSet(measured=bare, prompts=world.prompts, attributes=[{}] * len(world.prompts))
    values = measure_values(clips, clips)
    assert {"first_frame_psnr", "first_frame_ssim", "late_motion"} <= set(values)
    assert "image_identity" not in values
    assert "image_identity" not in by_frame(clips, clips)


def test_every_fault_is_caught_by_a_metric_and_every_metric_catches_one():
    assert {fault for fault, _, _ in CAUGHT} >= {
        "wrong captions",
        "ignored prompt",
        "shuffled frames",
        "frozen frames",
        "collapsed copies",
        "noise",
        "fading",
        "blur",
        "over-bright",
        "morphing",
        "one mode of four",
        "one handwriting per digit",
    }
    assert {metric for _, metric, _ in CAUGHT} >= ON_CARDS - {"saturation", "late_motion"}


def test_every_fault_with_an_image_is_caught_and_every_metric_of_images_catches(world):
    assert {fault for fault, _, _ in CAUGHT_WITH_IMAGE} == set(planted_with_image(world))
    assert {metric for _, metric, _ in CAUGHT_WITH_IMAGE} == {*OF_IMAGES, "late_motion"}


def test_the_panel_has_every_metric_of_the_table(floor):
    assert set(floor) == ON_CARDS


def test_sound_clips_of_other_handwriting_are_near_perfect(floor):
    assert abs(floor["fvd"]) < 3
    assert abs(floor["conditional_distance"]) < 0.2
    assert floor["caption_accuracy"] > 0.85
    assert min(floor[name] for name in ("color_accuracy", "motion_accuracy", "identity")) > 0.97
    assert min(floor["recall"], floor["precision"]) > 0.85
    assert floor["rigid_error"] < 0.01
    assert floor["ink"] == pytest.approx(1, abs=0.1)


def test_what_a_metric_is_blind_to(faults, floor):
    """Documented blindness: a panel is needed because of it."""
    assert faults["wrong captions"]["fvd"] == pytest.approx(floor["fvd"])
    assert faults["frozen frames"]["identity"] > 0.99
    assert faults["over-bright"]["caption_accuracy"] > 0.8


def test_gray_clips_lose_saturation(world, floor):
    gray = world.good.mean(1, keepdim=True).expand_as(world.good)
    values = world.values(gray.contiguous())
    assert values["saturation"] < 0.1
    assert values["color_accuracy"] < 0.1


def test_intervals_hold_their_value_and_separate_a_fault(world, floor):
    good = measure_card(world.clip_set(world.good), world.reference)
    assert set(good) == ON_CARDS
    for name, estimate in good.items():
        assert isinstance(estimate, Estimate)
        assert estimate.value == pytest.approx(floor[name]), name
        assert estimate.low <= estimate.value <= estimate.high, name
    video, _ = planted(world)["fading"]
    faded = measure_card(world.clip_set(video), world.reference)
    assert faded["fvd"].low > good["fvd"].high
    assert faded["ink"].high < good["ink"].low


def test_curves_say_when_it_goes_wrong(world):
    faults = planted(world)
    sound = by_frame(world.clip_set(world.good), world.reference)
    assert {name: len(curve) for name, curve in sound.items()} == dict.fromkeys(
        ("ink", "identity", "rigid_error"), FRAMES
    )
    morphing = by_frame(world.clip_set(faults["morphing"][0]), world.reference)["identity"]
    assert morphing[0] > 0.95
    assert morphing[-1] < 0.5
    fading = by_frame(world.clip_set(faults["fading"][0]), world.reference)["ink"]
    assert fading[0] == pytest.approx(sound["ink"][0], abs=0.01)
    assert fading[-1] < 0.4


def test_the_curve_of_the_image_says_when_it_is_left(world):
    clips = planted_with_image(world)
    made = world.clip_set(clips["image left after the first frame"], given=True)
    left = by_frame(made, world.reference)
    assert len(left["image_identity"]) == FRAMES
    later = sum(left["image_identity"][1:]) / (FRAMES - 1)  # the first frame is given, and no merit
    assert measure_values(made, world.reference)["image_identity"] == pytest.approx(later, abs=1e-5)
    assert left["image_identity"][0] == pytest.approx(1, abs=0.01)
    assert max(left["image_identity"][1:]) < 0.75
    assert "image_identity" not in by_frame(world.clip_set(world.good), world.reference)


def test_clips_without_digits_have_no_attribute_metrics(world):
    def bare(clips: ClipSet, text: np.ndarray) -> ClipSet:
        return ClipSet(
            measured=evolve(clips.measured, digits=None), prompts=clips.prompts, attributes=[{}] * len(clips), text=text
        )

    def text(attributes: list[dict]) -> np.ndarray:
        colors = ("red", "green", "blue", "yellow")
        return np.array([[colors.index(a["color"]) == i for i in range(4)] for a in attributes], float)

    reference = bare(world.reference, text(world.reference.attributes))
    right = measure_values(bare(world.clip_set(world.good), text(world.attributes)), reference)
    assert not {"caption_accuracy", "identity", "rigid_error"} & set(right)
    assert {"fvd", "recall", "precision", "diversity", "conditional_distance", "ink"} <= set(right)
    swapped = np.roll(text(world.attributes), 3, axis=0)
    wrong = measure_values(bare(world.clip_set(world.good), swapped), reference)
    assert wrong["conditional_distance"] > right["conditional_distance"] + 0.05
    assert "conditional_distance" not in measure_values(
        evolve(bare(world.clip_set(world.good), swapped), text=None), reference
    )


def test_few_clips_have_no_set_distances(world):
    few = world.clip_set(world.good).select(np.arange(SMALLEST_SET - 1))
    values = measure_values(few, world.reference)
    assert "fvd" not in values
    assert "digit_accuracy" in values
