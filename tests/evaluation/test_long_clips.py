"""Clips that go on: they begin as the short ones, are bounded in memory, and fork where the prompt is switched."""

import numpy as np
import pytest
import torch
from attrs import evolve

from harness.config.load import load_params, resolve_target
from harness.config.schema import RolloutConfig
from harness.data.digits import ANY_DIRECTION
from harness.evaluation import long_clips
from harness.evaluation.evaluators import load_evaluators
from harness.evaluation.long_clips import LONG_SHOWN, LongBench, long_frames
from harness.evaluation.run import build_bench
from harness.evaluation.samplers import Sampler, Stopwatch
from harness.evaluation.segments import cut
from harness.models.checkpoint import load_model
from harness.models.codec import decode_latents, to_pixels
from harness.rollout.stream import Stream

FRAMES = 9  # latent; a training clip has 3
ROLLOUT = RolloutConfig(frames_per_block=1, denoising_steps=(1000,), shift=3.0)  # nothing is drawn after the noise


@pytest.fixture(scope="module")
def model(root):
    return load_model(root / "checkpoints/toy/low/seed0/model")


@pytest.fixture(scope="module")
def bench(root):
    run, params = resolve_target("toy/low/seed0", root), load_params(root / "params.yaml")
    built = build_bench(run, params, load_evaluators(root / "checkpoints/evaluators"), root)
    return evolve(built, prompts=built.prompts.select(range(8)), batch_size=4, silent=True)


def long_bench(bench, frames: int = FRAMES, **changes) -> LongBench:
    measured = bench.evaluators.measure(np.zeros((8, 9, 24, 24, 3), np.uint8))
    return LongBench(bench=bench, frames=frames, references=[bench.clip_set(measured)] * 3, **changes)


def features(outcome) -> np.ndarray:
    return np.stack([clips.measured.features for clips in outcome.segments.clips])


def test_only_causal_students_with_a_length_have_long_clips(root):
    run = resolve_target("toy/low/seed0", root)
    assert long_frames(run) is None
    assert long_frames(evolve(run, evaluate_frames=7)) == 7
    bidirectional = evolve(run, evaluate_frames=7, rollout=evolve(run.rollout, attention="bidirectional"))
    assert long_frames(bidirectional) is None
    assert long_frames(evolve(run, evaluate_frames=7, method="causal_sft")) is None


@pytest.mark.parametrize("steps", [(1000,), (1000, 500)])
def test_the_first_segment_is_the_short_clip(bench, model, steps):
    rollout = evolve(ROLLOUT, denoising_steps=steps)
    short = bench.latents(model.eval(), Sampler.few_step(rollout), 0, Stopwatch(bench.device))
    latents = torch.cat([made for _, made in short])
    outcome = long_bench(bench).run(model, rollout, "x")
    expected = to_pixels(decode_latents(bench.vae, latents))
    assert len(outcome.shown) == LONG_SHOWN
    for clip, wanted in zip(outcome.shown, expected, strict=False):
        assert clip.shape == (33, 24, 24, 3)
        assert np.abs(clip[:9].astype(int) - wanted).max() <= 1
    assert outcome.frames == 33


def test_segments_are_those_frames_of_the_clips(bench, model):
    outcome = long_bench(bench).run(model, ROLLOUT, "x")
    assert outcome.segments.spans == [(0, 9), (12, 21), (24, 33)]
    shown = np.stack(outcome.shown)
    for (start, end), clips in zip(outcome.segments.spans, outcome.segments.clips, strict=True):
        seen = bench.evaluators.measure(shown[:, start:end]).brightness
        assert clips.measured.brightness[:LONG_SHOWN] == pytest.approx(seen, abs=2e-3)
        assert len(clips) == 8


def test_batches_change_nothing_and_a_repetition_gives_the_same(bench, model):
    whole = long_bench(evolve(bench, batch_size=8)).run(model, ROLLOUT, "x")
    parts = long_bench(evolve(bench, batch_size=3)).run(model, ROLLOUT, "x")
    assert features(parts) == pytest.approx(features(whole), abs=1e-3)
    again = long_bench(evolve(bench, batch_size=3)).run(model, ROLLOUT, "x")
    assert np.array_equal(features(again), features(parts))
    assert all(np.array_equal(a, b) for a, b in zip(again.shown, parts.shown, strict=True))
    assert len(parts.shown) == len(whole.shown) == LONG_SHOWN


def test_later_segments_have_noise_of_their_own(bench, model):
    """The window hides the first segment: with the same noise a clip of one block's window would repeat itself."""
    outcome = long_bench(bench).run(model, evolve(ROLLOUT, window=1, rope="relative"), "x")
    clip = outcome.shown[0].astype(int)
    assert np.abs(clip[12 + 1 : 21] - clip[24 + 1 : 33]).max() > 0


def test_the_cache_is_bounded_by_the_window_and_told_per_clip(bench, model):
    whole = long_bench(bench).run(model, ROLLOUT, "x").cache_mib
    window = long_bench(bench).run(model, evolve(ROLLOUT, window=3, sink=1, rope="relative"), "x").cache_mib
    assert len(whole) == len(window) == FRAMES
    assert whole == pytest.approx([i * whole[1] for i in range(FRAMES)])
    assert window[3:] == [window[3]] * (FRAMES - 3)
    assert window[:3] == whole[:3]
    config = model.config
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = (24 // 4 // config["patch_size"][1]) * (24 // 4 // config["patch_size"][2])
    assert whole[1] == pytest.approx(2 * config["num_layers"] * tokens * width * 4 / 2**20)
    other = long_bench(evolve(bench, batch_size=3)).run(model, ROLLOUT, "x").cache_mib
    assert other == pytest.approx(whole)


def test_pixels_are_let_go_as_segments_are_done(bench, model, monkeypatch):
    held = []

    def watched(chunks, spans):
        for part in cut(chunks, spans):
            held.append(part.untyped_storage().nbytes() // (4 * part.shape[0] * 3 * 24 * 24))
            yield part

    monkeypatch.setattr(long_clips, "cut", watched)
    long = evolve(long_bench(bench, frames=30), references=[long_bench(bench).references[0]] * 10)
    assert len(long.run(model, ROLLOUT, "x").segments.spans) == 10
    assert 9 <= max(held) <= 9 + 4  # of 117: a segment, and what its last block went beyond it


def test_the_switch_is_where_the_second_half_begins(bench):
    def at(frames: int, **changes) -> int:
        return long_bench(bench, frames=frames).switch_at(evolve(ROLLOUT, **changes))

    assert at(36, frames_per_block=3) == 18
    assert at(9, frames_per_block=1) == 4
    assert at(9, frames_per_block=3) == 6
    assert at(10, frames_per_block=3, image_conditioning="first_latent") == 7
    assert at(9, frames_per_block=9) == 0  # one block: nothing comes before


def test_under_the_same_prompt_a_fork_is_the_clip_itself(bench, model):
    """What is measured over the switch are the frames around it, and what is not changed there does not change."""
    for rollout in (ROLLOUT, evolve(ROLLOUT, window=3, sink=1, rope="relative")):
        same = long_bench(bench, switched=bench.prompts)
        outcome = same.run(model, evolve(rollout, on_switch="keep"), "x")
        at = 1 + 4 * (4 - 1)
        assert outcome.switched.before == 4
        assert outcome.switched.after == 33 - at
        seen = bench.evaluators.measure(np.stack(outcome.shown)[:, at - 4 :]).digits
        found = outcome.switched.digits
        assert found.handwriting.shape[:2] == (8, 4 + 33 - at)
        assert found.probabilities[:LONG_SHOWN] == pytest.approx(seen.probabilities, abs=0.02)
        assert np.array_equal(features(outcome), features(long_bench(bench).run(model, rollout, "x")))


def test_the_switched_prompts_and_the_declared_way_reach_the_stream(bench, model, monkeypatch):
    switches = []
    original = Stream.switch

    def record(self, network, condition, rng):
        switches.append((self.frames, self.config.on_switch, condition.text))
        return original(self, network, condition, rng)

    monkeypatch.setattr(Stream, "switch", record)
    other = evolve(bench.prompts, text=bench.prompts.text[::-1], attributes=bench.prompts.attributes[::-1])
    outcome = long_bench(bench, switched=other).run(model, evolve(ROLLOUT, on_switch="clear"), "x")
    assert [(frames, way) for frames, way, _ in switches] == [(4, "clear")] * 2
    told = torch.cat([text for *_, text in switches])
    assert torch.equal(told, other.condition(0, 8).text)
    assert not torch.equal(told, bench.prompts.condition(0, 8).text)
    assert outcome.switched.wanted == [a["direction"] for a in other.attributes]


def test_a_clip_whose_first_prompt_gives_no_direction_is_not_judged_over_the_switch(bench, model):
    """It may move in the new direction from the start."""

    def opened(numbers) -> LongBench:
        attributes = [a | {"direction": ANY_DIRECTION} if i in numbers else a for i, a in enumerate(stated)]
        prompts = evolve(bench.prompts, attributes=attributes)
        return long_bench(evolve(bench, prompts=prompts), switched=bench.prompts)

    stated = [a | {"direction": a["moves"]} for a in bench.prompts.attributes]
    whole = opened([]).run(model, ROLLOUT, "x").switched
    some = opened([0, 5, 6]).run(model, ROLLOUT, "x").switched
    told = [1, 2, 3, 4, 7]
    assert some.wanted == [whole.wanted[i] for i in told]
    assert np.array_equal(some.digits.displacements, whole.digits.displacements[told])
    assert len(some.per_clip(9)["switch_obeyed"]) == 5
    assert opened(range(8)).run(model, ROLLOUT, "x").switched is None


def test_a_clip_of_one_block_is_not_switched(bench, model):
    outcome = long_bench(bench, switched=bench.prompts).run(model, evolve(ROLLOUT, frames_per_block=FRAMES), "x")
    assert outcome.switched is None
    assert outcome.cache_mib == [0.0]


def test_gradients_and_training_caches_are_left_out(bench, model):
    long_bench(bench).run(model, evolve(ROLLOUT, kv_grad="straight_through"), "x")
    assert all(parameter.grad is None for parameter in model.parameters())
