"""Long clips without fault, the faults planted in their later parts, and what the segments' metrics make of both."""

import numpy as np
import pytest
import torch
from attrs import evolve
from digit_world import COUNT, SIZE, World
from torch import Tensor

from harness.config.metrics import METRICS, OF_LONG_CLIPS
from harness.data.digits import Attributes, render
from harness.errors import HarnessError
from harness.evaluation.continued import continued, segment_references
from harness.evaluation.corruptions import blur
from harness.evaluation.evaluators import unit_range
from harness.evaluation.panel import SMALLEST_SET, ClipSet
from harness.evaluation.segments import Segmented, cut, pixel_frames, segment_spans

TRAINED = 5  # latent frames: 17 pixel frames, as the evaluators were made for
SPANS = segment_spans(3 * TRAINED, TRAINED, 4)
TOTAL = pixel_frames(3 * TRAINED, 4)
HALF = 24  # frame of a fault; before it is the first segment and a little of the second
CLIPS = 64
OF_SEGMENTS = {name for name in OF_LONG_CLIPS if name.startswith("long_") and name != "long_cache"} | {"fvd_drift"}


def test_a_segment_begins_every_training_length_and_is_as_long_as_its_clip():
    assert pixel_frames(9, 4) == 33
    assert segment_spans(36, 9, 4) == [(0, 33), (36, 69), (72, 105), (108, 141)]
    assert segment_spans(9, 9, 4) == [(0, 33)]
    assert segment_spans(17, 9, 4) == [(0, 33)]
    assert segment_spans(18, 9, 4) == [(0, 33), (36, 69)]
    assert segment_spans(6, 3, 8) == [(0, 17), (24, 41)]
    with pytest.raises(HarnessError, match=r"evaluate_frames: 8 latent frames are less than the 9 .*run\.frames"):
        segment_spans(8, 9, 4)


@pytest.mark.parametrize("sizes", [[1, 4, 4, 4, 4, 4, 4], [25], [3, 1, 1, 13, 7], [9, 16]])
@pytest.mark.parametrize("spans", [[(0, 9), (12, 21)], [(2, 8), (4, 25)], [(7, 25)], [(0, 5), (0, 25)], []])
def test_spans_are_cut_from_whatever_chunks_come(sizes, spans):
    video = torch.arange(25.0).view(1, 1, 25, 1, 1).expand(2, 3, -1, 2, 2)
    found = list(cut(video.split(sizes, dim=2), spans))
    assert len(found) == len(spans)
    assert all(torch.equal(part, video[:, :, start:end]) for part, (start, end) in zip(found, spans, strict=True))


def test_no_frame_is_held_that_no_later_span_needs():
    """A span comes as soon as it is complete, and shares no memory with frames that were dropped long ago."""
    made = 0

    def chunks():
        nonlocal made
        for _ in range(100):
            made += 4
            yield torch.zeros(1, 1, 4, 1, 1)

    spans = [(40 * i, 40 * i + 10) for i in range(10)]
    for (_, end), part in zip(spans, cut(chunks(), spans), strict=True):
        assert made - end < 4
        assert part.untyped_storage().nbytes() < 4 * 20


@pytest.fixture(scope="module")
def long_video(world: World) -> Tensor:
    drawn = [render(Attributes(**a), frames=TOTAL, height=SIZE, width=SIZE) for a in world.attributes[:CLIPS]]
    return unit_range(np.stack(drawn))


@pytest.fixture(scope="module")
def references(world: World) -> list[ClipSet]:
    return segment_references(world.evaluators, world.reference, SPANS)


def segmented(world: World, references: list[ClipSet], video: Tensor) -> Segmented:
    sets = [
        ClipSet(
            measured=world.evaluators.measure(part * 2 - 1),
            prompts=world.prompts[: len(video)],
            attributes=world.attributes[: len(video)],
        )
        for part in cut([video], SPANS)
    ]
    return Segmented(spans=SPANS, clips=sets, references=references)


def later(video: Tensor, other: Tensor) -> Tensor:
    """`video` until `HALF`, `other` from there on."""
    return torch.cat([video[:, :, :HALF], other[:, :, HALF:]], dim=2)


def redrawn(world: World, **changes) -> Tensor:
    """The clips as they would be with other attributes, in the place where they are."""
    drawn = []
    for a in world.attributes[:CLIPS]:
        new = Attributes(**a | {name: change(a) for name, change in changes.items()})
        drawn.append(render(new, frames=TOTAL, height=SIZE, width=SIZE))
    return unit_range(np.stack(drawn))


def moved_on(video: Tensor, how: str) -> Tensor:
    """From `HALF` on the object of each clip stands still, or goes back as it came."""
    frames = torch.arange(TOTAL)
    index = frames.clamp(max=HALF) if how == "stops" else torch.where(frames < HALF, frames, 2 * HALF - frames).abs()
    return video[:, :, index]


def planted(world: World, video: Tensor) -> dict[str, Tensor]:
    ramp = torch.linspace(-0.2, 1, TOTAL).clamp_min(0)[None, None, :, None, None]  # none in the first segment's start
    images = {a["digit"]: [b["image"] for b in world.attributes if b["digit"] == a["digit"]] for a in world.attributes}
    others = {digit: dict(zip(same, np.roll(same, 1), strict=True)) for digit, same in images.items()}
    gray = video.mean(1, keepdim=True).expand_as(video)
    return {
        "fading": video * (1 - 0.7 * ramp),
        "brightening": (video * (1 + 1.5 * ramp)).clamp(0, 1),
        "blurring": torch.lerp(video, blur(video, 3), ramp),
        "graying": torch.lerp(video, gray, ramp),
        "motion stops": moved_on(video, "stops"),
        "motion turns back": moved_on(video, "turns"),
        "other handwriting": later(video, redrawn(world, image=lambda a: int(others[a["digit"]][a["image"]]))),
        "other object": later(video, video.roll(1, 0)),
        "object lost": later(video, torch.zeros_like(video)),
    }


@pytest.fixture(scope="module")
def sound(world, references, long_video) -> Segmented:
    return segmented(world, references, long_video)


@pytest.fixture(scope="module")
def faults(world, references, long_video) -> dict[str, Segmented]:
    return {name: segmented(world, references, video) for name, video in planted(world, long_video).items()}


@pytest.fixture(scope="module")
def summaries(faults, sound) -> dict[str, dict[str, float]]:
    """The card's metrics of every fault, and of clips without one."""
    return {name: segments.summary() for name, segments in {"sound": sound, **faults}.items()}


CAUGHT = [  # fault, metric of the card, by how much it is at least worse than without the fault
    ("fading", "long_ink", 0.4),
    ("fading", "long_fvd", 5.0),
    ("fading", "fvd_drift", 5.0),
    ("brightening", "long_ink", 0.3),
    ("brightening", "long_fvd", 3.0),
    ("blurring", "long_fvd", 2.0),
    ("blurring", "fvd_drift", 2.0),
    ("graying", "long_saturation", 0.5),
    ("motion stops", "long_motion_accuracy", 0.9),
    ("motion stops", "long_caption_accuracy", 0.8),
    ("motion stops", "fvd_drift", 20.0),
    ("motion turns back", "long_motion_accuracy", 0.9),
    ("motion turns back", "fvd_drift", 5.0),
    ("other handwriting", "long_identity", 0.25),
    ("other object", "long_identity", 0.6),
    ("other object", "long_caption_accuracy", 0.8),
    ("object lost", "long_identity", 0.6),
    ("object lost", "long_ink", 0.8),
    ("object lost", "long_caption_accuracy", 0.8),
    ("object lost", "fvd_drift", 20.0),
]


def worse_by(metric: str, found: float, without: float) -> float:
    match METRICS[metric].direction:
        case "lower":
            return found - without
        case "higher":
            return without - found
        case "one":
            return abs(found - 1) - abs(without - 1)


@pytest.mark.parametrize(("fault", "metric", "least"), CAUGHT)
def test_the_fault_is_caught(fault, metric, least, summaries):
    found, without = summaries[fault][metric], summaries["sound"][metric]
    assert worse_by(metric, found, without) > least, f"{metric}: {found:.3f} with the fault, {without:.3f} without"


def test_every_fault_is_caught_by_a_metric_and_every_metric_catches_one(faults):
    assert {fault for fault, _, _ in CAUGHT} == set(faults)
    assert {metric for _, metric, _ in CAUGHT} == OF_SEGMENTS


def test_sound_clips_stay_sound_to_the_end(summaries):
    values = summaries["sound"]
    assert set(values) == OF_SEGMENTS
    assert abs(values["long_fvd"]) < 6
    assert abs(values["fvd_drift"]) < 3
    assert values["long_caption_accuracy"] > 0.85
    assert values["long_motion_accuracy"] > 0.97
    assert values["long_identity"] > 0.95
    assert values["long_ink"] == pytest.approx(1, abs=0.1)
    assert values["long_saturation"] == pytest.approx(1, abs=0.1)


def test_what_a_metric_is_blind_to(summaries):
    """Documented blindness: a panel is needed because of it."""
    without = summaries["sound"]
    assert summaries["graying"]["long_caption_accuracy"] == without["long_caption_accuracy"]
    for fault in ("fading", "motion stops", "motion turns back"):
        assert summaries[fault]["long_identity"] > 0.9
    assert summaries["other handwriting"]["long_caption_accuracy"] > without["long_caption_accuracy"] - 0.1
    assert summaries["other object"]["long_fvd"] == pytest.approx(without["long_fvd"], abs=2)


def test_the_segments_say_when_it_goes_wrong(faults, sound):
    for fault in ("motion stops", "motion turns back", "other object", "other handwriting", "object lost"):
        assert faults[fault].values(0) == pytest.approx(sound.values(0)), fault
        identity = [faults[fault].values(i)["identity"] for i in range(3)]
        assert identity[0] > 0.95
        if fault in ("other object", "object lost"):
            assert identity[0] > identity[1] > identity[2] - 0.05
    ink = [faults["fading"].values(i)["ink"] for i in range(3)]
    assert ink[0] > ink[1] + 0.1 > ink[2] + 0.2
    motion = [faults["motion stops"].values(i)["motion_accuracy"] for i in range(3)]
    assert motion[0] > 0.97
    assert motion[2] == 0


def test_the_curves_say_when_it_goes_wrong(faults):
    curves = faults["other object"].by_frame()
    assert set(curves) == {"frame", "identity", "rigid_error", "ink"}
    assert curves["frame"] == [*range(17), *range(20, 37), *range(40, 57)]
    assert {len(curve) for curve in curves.values()} == {len(curves["frame"])}
    identity = dict(zip(curves["frame"], curves["identity"], strict=True))
    assert min(identity[frame] for frame in range(17)) > 0.95
    assert identity[HALF - 1] > 0.95
    assert max(identity[frame] for frame in curves["frame"] if frame >= HALF) < 0.4
    ink = faults["fading"].by_frame()["ink"]
    assert ink[0] == pytest.approx(1, abs=0.1)
    assert ink[-1] == pytest.approx(0.3, abs=0.1)


def test_intervals_hold_their_value_and_separate_a_fault(faults, sound, summaries):
    good, bad = sound.estimates(), faults["motion turns back"].estimates()
    assert set(good) == OF_SEGMENTS
    for name, value in summaries["sound"].items():
        assert good[name].value == pytest.approx(value), name
        assert good[name].low <= value <= good[name].high, name
    for name in ("long_fvd", "fvd_drift"):
        assert bad[name].low > good[name].high
    assert bad["long_motion_accuracy"].high < good["long_motion_accuracy"].low


def test_the_drift_is_paired(sound):
    """Its interval is that of the difference: the error that both segments share is no part of it."""
    estimates = sound.estimates()
    width = {name: estimates[name].high - estimates[name].low for name in ("long_fvd", "fvd_drift")}
    assert width["fvd_drift"] < 1.4 * width["long_fvd"]
    assert estimates["fvd_drift"].value == pytest.approx(sound.values(2)["fvd"] - sound.values(0)["fvd"])


def test_every_segment_has_real_clips_of_its_own_place(world, references, sound):
    """An object that moves on is elsewhere later; against clips of another place sound ones would seem worse."""
    assert references[0] is world.reference
    swapped = Segmented(spans=SPANS, clips=sound.clips, references=[references[0]] * 3)
    assert swapped.values(2)["fvd"] > sound.values(2)["fvd"] + 5
    some = world.reference.attributes[:3]
    drawn = [render(Attributes(**a), frames=TOTAL, height=SIZE, width=SIZE)[40:57] for a in some]
    expected = world.evaluators.measure(np.stack(drawn))
    assert np.array_equal(continued(world.evaluators, some, SPANS[2]).features, expected.features)
    assert len(references[2]) == COUNT


def test_few_clips_have_no_distance(world, references, long_video):
    few = segmented(world, references, long_video[: SMALLEST_SET - 1])
    assert OF_SEGMENTS - set(few.summary()) == {"long_fvd", "fvd_drift"}
    assert set(few.estimates()) == set(few.summary())
    assert "fvd" not in few.values(0)


def test_clips_without_digits_have_no_attribute_metrics(sound):
    def bare(clips: list[ClipSet]) -> list[ClipSet]:
        return [c.with_measured(evolve(c.measured, digits=None)) for c in clips]

    segments = Segmented(spans=SPANS, clips=bare(sound.clips), references=bare(sound.references))
    assert set(segments.summary()) == {"long_fvd", "fvd_drift", "long_ink", "long_saturation"}
    assert set(segments.by_frame()) == {"frame", "ink"}
