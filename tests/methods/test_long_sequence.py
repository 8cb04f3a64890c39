"""A long sequence: how far it goes, what its clips are made of, where gradients flow, that it can be saved anywhere."""

import io
import math
from itertools import pairwise

import pytest
import torch
from attrs import evolve

from harness.config.schema import LongTuningConfig, RolloutConfig
from harness.methods.draws import Draws
from harness.methods.long_sequence import LongSequence
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.rollout.stream import Stream

CONFIG = LongTuningConfig(enabled=True, max_frames=14, min_new_frames=2, switch_probability=0.5)
ROLLOUT = RolloutConfig(
    frames_per_block=2,
    window=6,
    sink=2,
    rope="relative",
    denoising_steps=(1000, 500),
    exit_step="uniform_per_block",
    context_sigma=0.1,
)
FRAMES = 6
LIKE = torch.zeros(2, 4, FRAMES, 4, 4)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    network = CausalWan(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        ffn_dim=32,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
    )
    torch.nn.init.normal_(network.proj_out.weight, std=0.2)
    return network


def prompt(number):
    rng = torch.Generator().manual_seed(number)
    return Condition(text=torch.randn(2, 5, 8, generator=rng), unconditional_text=torch.zeros(1, 5, 8))


class Images:
    """Stands in for the VAE: the last latent frame, marked; `given` are the latents that were to be encoded."""

    def __init__(self):
        self.given = []

    def __call__(self, latents):
        assert not latents.requires_grad
        self.given.append(latents)
        return latents[:, :, -1:] + 100.0


def make(images=None, config=CONFIG, rollout=ROLLOUT):
    return LongSequence(config, rollout, FRAMES, images or Images())


def updates(sequence, generator, numbers, seed=0):
    """Go on with the batches of these numbers, without gradient."""
    with torch.no_grad():
        return [sequence.extend(generator, LIKE, prompt(number), Draws.at(seed, number)) for number in numbers]


def lengths_and_switches(monkeypatch, config, batches):
    """Frames before each chunk, its new frames, and whether the prompt changed before it; no network is called."""
    seen = []
    monkeypatch.setattr(Stream, "switch", lambda self, model, condition, rng: setattr(self, "condition", condition))

    def block(self, model, noise, rng, exit_step, *, with_gradient):
        self._remember(noise, given=False)
        return noise

    monkeypatch.setattr(Stream, "block", block)
    sequence, like = make(config=config), LIKE[:1, :1, :, :1, :1]
    for number in range(batches):
        condition = Condition(text=torch.zeros(1, 1, 1))
        before, old = sequence.made, None if sequence.stream is None else sequence.stream.condition
        clip = sequence.extend(None, like, condition, Draws.at(3, number))
        begins = old is None or sequence.made <= before
        start = 0 if begins else before
        assert clip.x.shape == like.shape
        assert clip.condition is (condition if begins or clip.condition is not old else old)
        seen.append((start, sequence.made - start, not begins and clip.condition is condition))
    return seen


def test_the_law_of_lengths_and_prompts(monkeypatch):
    config = evolve(CONFIG, max_frames=20, switch_probability=0.75)
    seen = lengths_and_switches(monkeypatch, config, 6000)
    ends = [index for index, (start, _, _) in enumerate(seen) if start == 0]
    sequences = [seen[a:b] for a, b in pairwise(ends)]
    assert len(sequences) > 1000
    switched = []
    for chunks in sequences:
        assert chunks[0] == (0, FRAMES, False)
        assert all(new in (2, 4, 6) for _, new, _ in chunks)
        assert 20 - config.min_new_frames < chunks[-1][0] + chunks[-1][1] <= 20  # none that fits was left out
        assert sum(switch for *_, switch in chunks) <= 1
        switched += [(start, new) for start, new, switch in chunks if switch]
    assert len(switched) / len(sequences) == pytest.approx(0.75, abs=0.04)
    later = [new for chunks in sequences for start, new, _ in chunks[1:] if start <= 14]
    for new in (2, 4, 6):
        assert later.count(new) / len(later) == pytest.approx(1 / 3, abs=0.04)
    # Of the places 6, 8, … 18 each is as likely: a seventh of the switches is for frame 6, where chunk two begins.
    assert sum(start == FRAMES for start, _ in switched) / len(switched) == pytest.approx(
        (1 + 2 / 3 + 1 / 3) / 7, abs=0.04
    )
    assert any(start >= 16 for start, _ in switched)


def test_no_prompt_changes_unless_asked_and_every_one_does_if_asked(monkeypatch):
    assert not any(s for *_, s in lengths_and_switches(monkeypatch, evolve(CONFIG, switch_probability=0.0), 200))
    seen = lengths_and_switches(monkeypatch, evolve(CONFIG, switch_probability=1.0), 200)
    begun = [start for start, *_ in seen].count(0)
    assert begun - 1 <= sum(s for *_, s in seen) <= begun


@pytest.mark.parametrize("window", [6, -1])
def test_the_chunks_make_one_video(generator, window):
    """The same as one stream that makes block after block, switches where the sequence does, and sees its own past."""
    rollout = evolve(ROLLOUT, window=window)
    images = Images()
    sequence = make(images, evolve(CONFIG, switch_probability=1.0), rollout)
    clips, video, stream = [], [], Stream(prompt(0), rollout)
    while not clips or sequence.made + CONFIG.min_new_frames <= CONFIG.max_frames:
        number, made = len(clips), sequence.made
        clips += updates(sequence, generator, [number])
        new, draws = sequence.made - made, Draws.at(0, number)
        with torch.no_grad():
            if clips[-1].condition is not stream.condition and number:
                stream.switch(generator, clips[-1].condition, draws.local)
            noise = draws.noise_like(LIKE[:, :, :new])
            video += [
                stream.block(generator, noise[:, :, 2 * n : 2 * n + 2], draws.local, exit_step)
                for n, exit_step in enumerate(clips[-1].exit_steps)
            ]
        whole = torch.cat(video, dim=2)
        x = clips[-1].x
        assert torch.equal(x[:, :, 1:], whole[:, :, -FRAMES + 1 :])
        if number:
            assert torch.equal(x[:, :, :1], whole[:, :, -FRAMES : 1 - FRAMES or None] + 100.0)
            known = images.given[-1].shape[2]
            end = whole.shape[2] - FRAMES + 1
            assert torch.equal(images.given[-1], whole[:, :, end - known : end])
            assert known == new + 1  # as far back as a window of a clip's length reached before
        else:
            assert torch.equal(x, whole)
    assert sequence.made in (13, 14)
    assert len(clips) > 2
    assert clips[-1].condition is not clips[0].condition


def test_a_sequence_that_is_at_its_end_begins_anew_with_the_prompts_at_hand(generator):
    sequence = make(config=LongTuningConfig(enabled=True, max_frames=8, min_new_frames=4))
    clips = updates(sequence, generator, [0, 1])
    assert [clip.condition.text[0, 0, 0] for clip in clips] == [prompt(n).text[0, 0, 0] for n in (0, 1)]
    assert sequence.made == FRAMES
    assert clips[1].new_from == 0
    again = updates(make(config=sequence.config), generator, [1])[0]
    assert torch.equal(clips[1].x, again.x), "nothing of the old sequence is left"


def test_gradient_is_in_the_new_frames_alone(generator):
    sequence = make(config=LongTuningConfig(enabled=True, max_frames=60, min_new_frames=2))
    seen = set()
    for number in range(12):
        before = sequence.made
        clip = sequence.extend(generator, LIKE, prompt(0), Draws.at(1, number))
        new = sequence.made - before
        seen.add(new)
        first = 0 if not before else max(FRAMES - new, 1)
        assert clip.new_from == clip.gradient_from == first
        for frame in range(FRAMES):
            x = clip.x[:, :, frame].square().sum()
            gradient = torch.autograd.grad(x, generator.proj_out.weight, retain_graph=True, allow_unused=True)[0]
            has = gradient is not None and bool(gradient.abs().sum() > 0)
            assert has == (frame >= first), (new, frame)
        sequence.detach()
    assert seen == {2, 4, 6}


def test_frames_earlier_than_the_last_gradient_frames_have_none(generator):
    sequence = make(
        config=LongTuningConfig(enabled=True, max_frames=60, min_new_frames=4),
        rollout=evolve(ROLLOUT, gradient_frames=3),
    )
    clips = [sequence.extend(generator, LIKE, prompt(0), Draws.at(1, number)) for number in range(8)]
    assert {(clip.new_from, clip.gradient_from) for clip in clips} == {(0, 4), (1, 4), (2, 4)}
    gradient = torch.autograd.grad(clips[3].x[:, :, :4].sum(), generator.proj_out.weight, allow_unused=True)[0]
    assert gradient is None or not gradient.any()


def test_an_update_does_not_reach_back_into_the_last_one(generator):
    """With `straight_through` the cache has a graph, which is gone after the backward pass: it has to be cut."""
    rollout = evolve(ROLLOUT, kv_grad="straight_through", exit_step="last")
    sequence = make(config=LongTuningConfig(enabled=True, max_frames=60, min_new_frames=4), rollout=rollout)
    for number in range(3):
        sequence.extend(generator, LIKE, prompt(0), Draws.at(1, number)).x.square().mean().backward()
        sequence.detach()
    sequence.extend(generator, LIKE, prompt(0), Draws.at(1, 3)).x.square().mean().backward()
    with pytest.raises(RuntimeError, match="second time"):
        sequence.extend(generator, LIKE, prompt(0), Draws.at(1, 4)).x.square().mean().backward()


def test_where_all_frames_of_a_later_clip_are_new_its_image_is_not_judged(generator):
    images = Images()
    sequence = make(images, LongTuningConfig(enabled=True, max_frames=60, min_new_frames=FRAMES))
    _, clip = updates(sequence, generator, [0, 1])
    assert (clip.new_from, clip.gradient_from) == (1, 1)
    assert images.given[0].shape[2] == FRAMES + 1, "the past of its first frame is there to decode it"


@pytest.mark.parametrize("stop", range(5))
def test_goes_on_bit_for_bit_from_a_saved_state(generator, stop):
    """Before it begins, before and after its prompt changes, and into the next sequence."""
    config = evolve(CONFIG, switch_probability=1.0)
    whole = make(config=config)
    clips = updates(whole, generator, range(7))
    assert len({id(clip.condition) for clip in clips}) > 2
    first = make(config=config)
    updates(first, generator, range(stop))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(config=config)
    second.load_state_dict(torch.load(file, weights_only=True), "cpu")
    assert (second.made, second.switch_at) == (first.made, first.switch_at)
    for one, other in zip(clips[stop:], updates(second, generator, range(stop, 7)), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.condition.text, other.condition.text)
        assert one.exit_steps == other.exit_steps
        assert (one.new_from, one.gradient_from) == (other.new_from, other.gradient_from)
    assert torch.equal(clips[-1].condition.unconditional_text, torch.zeros(1, 5, 8))


def test_ranks_take_the_same_steps_with_other_noise(generator):
    one, other = make(), make()
    for number in range(6):
        shared = Draws.at(0, number).shared
        draws = Draws(local=torch.Generator().manual_seed(number), shared=shared)
        first, second = updates(one, generator, [number])[0], other.extend(generator, LIKE, prompt(number), draws)
        assert (one.made, one.switch_at, first.exit_steps) == (other.made, other.switch_at, second.exit_steps)
        assert not torch.equal(first.x, second.x)


def test_what_is_carried_does_not_grow_with_the_sequence(generator):
    sequence = make(config=LongTuningConfig(enabled=True, max_frames=10**6, min_new_frames=4))
    sizes = []
    for number in range(12):
        updates(sequence, generator, [number])
        state = io.BytesIO()
        torch.save(sequence.state_dict(), state)
        sizes.append(len(state.getvalue()))
    assert sequence.made > 8 * FRAMES
    assert max(sizes[3:]) <= max(sizes[:3]) * 1.02
    assert math.isfinite(float(sequence.stream.last(FRAMES).abs().max()))
