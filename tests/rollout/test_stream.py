"""A stream against its specification, against fresh caches, and against itself after a stop."""

import io

import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_stream import PlainStream
from small_wan import small_wan
from torch import nn

from harness.config.schema import RolloutConfig
from harness.diffusion.flow import velocity_to_x0
from harness.models.condition import Condition, pad_text
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.rollout.causal import causal_rollout
from harness.rollout.stream import Stream, cache_for

WAYS = ("recache_keep_sink", "recache", "keep", "clear")
SIZE, GIVEN_FRAMES = 4, 5  # latent pixels; frames of `y`, fewer than most of the videos have


@pytest.fixture(scope="module")
def model():
    return small_wan(in_channels=7, image_dim=6, added_kv_proj_dim=24).requires_grad_(False)


def make_condition(seed=3, batch=2):
    """Padded text, image tokens, `y` and a first latent."""
    rng = torch.Generator().manual_seed(seed)
    return Condition(
        text=pad_text(torch.randn(batch, 5, 6, generator=rng), 9),
        image_tokens=torch.randn(batch, 3, 6, generator=rng),
        y=torch.randn(batch, 3, GIVEN_FRAMES, SIZE, SIZE, generator=rng),
        first_latent=torch.randn(batch, 4, 1, SIZE, SIZE, generator=rng),
    )


def make_noise(frames, seed=4, batch=2):
    return torch.randn(batch, 4, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def make_config(**changes):
    return RolloutConfig(**{"frames_per_block": 2, "denoising_steps": (1000,)} | changes)


def rng(seed=7):
    return torch.Generator().manual_seed(seed)


def made(model, stream, blocks, frames=2, seed=0):
    """Make some blocks; each one's noise is told by its place and `seed`."""
    return [stream.block(model, make_noise(frames, seed=100 * seed + i), rng()) for i in range(blocks)]


def seen(stream, frames=2):
    """What the next block sees, all layers' keys and values, once everything is committed."""
    with torch.no_grad():
        pasts = [stream.cache.past(layer, frames) for layer in range(2)]
        return [torch.cat(part, dim=1).clone() for past in pasts for part in (past.keys, past.values) if part]


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


def saved_and_loaded(stream):
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    return Stream.from_state(torch.load(io.BytesIO(file.getvalue()), weights_only=True), stream.config, "cpu")


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=7),
    switches=st.lists(st.integers(0, 7), max_size=3),
    window=st.one_of(st.just(-1), st.integers(1, 8)),
    sink=st.integers(0, 4),
    rope=st.sampled_from(["absolute", "relative"]),
    way=st.sampled_from(WAYS),
    first_given=st.booleans(),
    context_sigma=st.sampled_from([0.0, 0.1]),
    buffered=st.booleans(),
    stop=st.integers(0, 7),
)
def test_a_stream_computes_what_is_specified(
    model, sizes, switches, window, sink, rope, way, first_given, context_sigma, buffered, stop
):
    """Any block sizes, window and sink; several prompt switches, two in one place among them, before and after the
    sink is full; text, image tokens and `y` beyond its end, a given frame; saved and loaded on the way.
    """
    if window != -1 and sink >= window:
        sink = window - 1
    config = make_config(
        window=window,
        sink=sink,
        rope=rope,
        on_switch=way,
        denoising_steps=(1000, 500),
        context_sigma=context_sigma,
        image_conditioning="both" if first_given else "channels",
    )
    total = sum(sizes) + first_given
    room = total if window == -1 else max(window, sink + max(sizes))
    stream = Stream(make_condition(), config, buffer_frames=room if buffered else None)
    plain, stream_rng, plain_rng = PlainStream(make_condition(), config), rng(), rng()
    if first_given:
        given_frame = stream.give_first(make_noise(1))
        assert torch.equal(given_frame, plain.give_first(model, plain_rng))
    with torch.no_grad():
        for number, frames in enumerate(sizes):
            for _ in range(switches.count(number)):
                other = make_condition(seed=10 + number)
                stream.switch(model, other, stream_rng)
                plain.switch(model, other, plain_rng)
            if number == stop and not buffered:
                stream = saved_and_loaded(stream)
            noise = make_noise(frames, seed=number)
            block, expected = stream.block(model, noise, stream_rng), plain.block(model, noise, plain_rng)
            assert torch.allclose(block, expected, atol=1e-5 * expected.std().item())
    assert stream.frames == plain.frames == total
    everything = torch.cat([x0 for _, x0, _ in plain.blocks], dim=2)
    kept = total if window == -1 else min(window, total)
    assert torch.allclose(stream.last(kept), everything[:, :, -kept:], atol=1e-4)


def test_blocks_of_a_stream_are_the_rollout(model):
    """A clip at once, and block by block with a given frame first, with the same draws."""
    config = make_config(denoising_steps=(1000, 500), image_conditioning="both", context_sigma=0.1, window=5, sink=1)
    noise, one, other = make_noise(6), rng(), rng()
    with torch.no_grad():
        clip = causal_rollout(model, noise, make_condition(), config, one, [1, 1, 1])
        stream = Stream(make_condition(), config, buffer_frames=5)
        blocks = [stream.give_first(noise)]
        blocks += [stream.block(model, noise[:, :, a:b], other) for a, b in ((1, 3), (3, 5), (5, 6))]
    assert torch.equal(torch.cat(blocks, dim=2), clip)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("rope", ["absolute", "relative"])
def test_without_a_window_a_stream_is_one_masked_pass(model, rope):
    """Against teacher forcing on the finished video; text, image tokens and `y`, the given frame, an uneven end."""
    frames, config = 8, make_config(image_conditioning="both", rope=rope, frames_per_block=3)
    condition = make_condition()
    condition = evolve(condition, y=torch.cat([condition.y, condition.y[:, :, -1:].repeat(1, 1, 3, 1, 1)], dim=2))
    noise, t = make_noise(frames), torch.full((2, frames), 1000.0)
    stream = Stream(make_condition(), config)
    with torch.no_grad():
        x = [stream.give_first(noise)]
        x += [stream.block(model, noise[:, :, a:b], rng()) for a, b in ((1, 4), (4, 7), (7, 8))]
        clip = torch.cat(x, dim=2)
        velocity = predict_velocity(model, noise, t, condition, frames_per_block=(1, 3), clean=clip)
    expected = velocity_to_x0(velocity, noise, t / 1000)[:, :, 1:]
    assert torch.allclose(clip[:, :, 1:], expected, atol=1e-4 * expected.std().item())


@pytest.mark.parametrize("buffer_frames", [None, 6])
@pytest.mark.parametrize("window", [6, -1])
def test_recache_leaves_what_a_fresh_cache_would_hold(model, window, buffer_frames):
    """Bit for bit: the last frames were never seen under another prompt."""
    if window == -1 and buffer_frames:
        buffer_frames = 12
    config = make_config(window=window, sink=2, on_switch="recache")
    stream = Stream(make_condition(), config, buffer_frames)
    blocks = made(model, stream, 5)
    other = make_condition(seed=5)
    stream.switch(model, other, rng())
    fresh = cache_for(config)
    with torch.no_grad():
        for number in range(2 if window == 6 else 0, 5):
            arguments = {"cache": fresh, "write_cache": True, "frame_offset": 2 * number}
            predict_velocity(model, blocks[number], torch.zeros(2), other, **arguments)
        again = [
            torch.cat(part, 1) for i in range(2) for past in [fresh.past(i, 2)] for part in (past.keys, past.values)
        ]
    assert equal(seen(stream), again)
    assert stream.cache.visible_frames(2) == (4 if window == 6 else 10)


@pytest.mark.parametrize("way", ["recache", "recache_keep_sink"])
@pytest.mark.parametrize("buffer_frames", [None, 7])
def test_a_recache_reads_the_new_prompt(model, way, buffer_frames):
    """A switch to the prompt at hand runs the same frames; to another one, what is cached must differ, in each frame
    that is not the old sink's.
    """
    caches = []
    for seed in (3, 5):
        stream = Stream(make_condition(), make_config(window=7, sink=1, on_switch=way), buffer_frames)
        made(model, stream, 5)
        stream.switch(model, make_condition(seed), rng())
        caches.append(seen(stream))
    same, other = caches
    tokens = same[0].shape[1] // stream.cache.visible_frames(2)
    kept = tokens if way == "recache_keep_sink" else 0
    deep = [(a - b).abs().amax(dim=(0, 2, 3)) for a, b in zip(same[2:], other[2:])]  # the second layer has read a text
    for difference in deep:
        assert difference[kept:].min() > 1e-3
        assert not difference[:kept].any()


@pytest.mark.parametrize("buffer_frames", [None, 6])
def test_the_sink_stays_as_it_is_over_many_switches(model, buffer_frames):
    """Bit for bit what the first prompt wrote, never zeros, at its first place, while blocks go on."""
    stream = Stream(make_condition(), make_config(window=6, sink=2), buffer_frames)
    made(model, stream, 2)
    stream.commit(model, rng())
    tokens = seen(stream)[0].shape[1] // 4
    sink = [part[:, : 2 * tokens] for part in seen(stream)]
    for number in range(4):
        stream.switch(model, make_condition(seed=20 + number), rng())
        now = [part[:, : 2 * tokens] for part in seen(stream)]
        assert equal(now, sink)
        assert all(part.abs().amax(dim=(0, 2, 3)).min() > 0 for part in now)
        assert stream.cache.visible_frames(2) == 4
        made(model, stream, number + 1, seed=number + 1)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_visible_after_a_switch(model, way):
    """Window 7, sink 2, blocks of 2, at frame 12: the sink, and the three newest other frames that fit beside a block;
    nothing at all after `clear`, whose sink are the next frames.
    """
    stream = Stream(make_condition(), make_config(window=7, sink=2, on_switch=way))
    made(model, stream, 6)
    stream.switch(model, make_condition(seed=5), rng())
    ranges = {
        "recache_keep_sink": ((0, 2), (9, 12)),
        "recache": ((5, 7), (9, 12)),
        "keep": ((0, 2), (9, 12)),
        "clear": (),
    }
    assert stream.cache._ranges(2) == ranges[way]
    made(model, stream, 3, seed=1)
    stream.commit(model, rng())
    sink = {"recache": (5, 7), "clear": (12, 14)}.get(way, (0, 2))
    assert stream.cache._ranges(2) == (sink, (15, 18))


def test_a_switch_before_the_sink_is_full_leaves_the_sink_alone(model):
    stream = Stream(make_condition(), make_config(window=8, sink=4))
    stream.switch(model, make_condition(seed=6), rng())  # before the first frame: nothing to run again
    assert stream.cache.is_empty
    made(model, stream, 2)
    stream.commit(model, rng())
    before = seen(stream)
    stream.switch(model, make_condition(seed=5), rng())
    assert equal(seen(stream), before)
    assert equal([stream.condition.text], [make_condition(seed=5).text])


def test_no_frame_is_lost_between_the_sink_and_the_frames_that_are_run_again(model):
    """A given frame, blocks of 2 and a sink of 2: the sink ends within the first block, whose rest is run again."""
    config = make_config(sink=2, image_conditioning="both")
    stream = Stream(make_condition(), config)
    stream.give_first(make_noise(1))
    made(model, stream, 2)
    stream.switch(model, make_condition(seed=5), rng())
    assert stream.cache._ranges(2) == ((0, 5),)
    assert seen(stream)[0].shape[1] == 5 * 4  # 2 × 2 tokens a frame: none twice


def test_a_switch_sends_the_given_frame_through_clean(model):
    """Whatever the noise of the context, and with both samples' own image."""
    config = make_config(image_conditioning="both", context_sigma=0.5, on_switch="recache")
    stream = Stream(make_condition(), config)
    stream.give_first(make_noise(1))
    made(model, stream, 1)
    other = make_condition(seed=5)
    stream.switch(model, other, rng())
    fresh = KVCache()
    arguments = {"cache": fresh, "write_cache": True}
    with torch.no_grad():
        predict_velocity(model, make_condition().first_latent, torch.zeros(2), other, **arguments)
        tokens = fresh.past(1, 1).keys[0].shape[1]
        assert torch.equal(seen(stream)[2][:, :tokens], fresh.past(1, 1).keys[0])


@pytest.mark.parametrize("buffer_frames", [None, 9])
@pytest.mark.parametrize("rope", ["absolute", "relative"])
def test_memory_and_work_are_the_same_at_any_length(model, rope, buffer_frames):
    config = make_config(window=9, sink=3, rope=rope, frames_per_block=3)
    stream = Stream(make_condition(), config, buffer_frames)
    measured = []
    for number in range(16):
        stream.block(model, make_noise(3, seed=number), rng())
        stream.commit(model, rng())
        kept = sum(one.x0.shape[2] for one in stream._made)
        measured.append((stream.cache.num_bytes, stream.cache.visible_frames(3), kept))
        if number % 5 == 3:
            stream.switch(model, make_condition(seed=number), rng())
    assert len(set(measured[2:])) == 1
    assert measured[-1][1:] == (6, 9)


def moved(state, by):
    """The same video `by` frames later."""
    state["frames"] += by
    for name in ("origin", "next"):
        state["cache"][name] += by
    for one in (*state["cache"]["held"], *state["made"], state["waiting"]):
        one["start"] += by
    return state


def test_positions_in_the_window_are_the_same_at_frame_10_000_bit_for_bit(model):
    config = make_config(window=6, sink=2, rope="relative")
    here = Stream(make_condition(), config)
    made(model, here, 5)
    there = Stream.from_state(moved(here.state_dict(), 10_000), config, "cpu")
    condition = evolve(make_condition(), y=make_condition().y[:, :, -1:].repeat(1, 1, 11, 1, 1))
    for stream in (here, there):
        stream.switch(model, condition, rng())
    for _ in range(3):
        blocks = [stream.block(model, make_noise(2, seed=9), rng()) for stream in (here, there)]
        assert torch.equal(*blocks)
    assert there.frames == 10_016


def test_absolute_positions_reach_frame_10_000(model):
    """Attention reads differences of positions: to rounding, the place in the video does not matter."""
    blocks = []
    condition = evolve(make_condition(), y=make_condition().y[:, :, -1:])
    for offset in (0, 10_000):
        cache = KVCache(window=6, sink=2)
        with torch.no_grad():
            for number in range(5):
                x = make_noise(2, seed=number)
                arguments = {"cache": cache, "frame_offset": offset + 2 * number}
                velocity = predict_velocity(model, x, torch.full((2,), 700.0), condition, **arguments)
                predict_velocity(model, x, torch.zeros(2), condition, write_cache=True, **arguments)
        blocks.append(velocity)
    assert torch.isfinite(blocks[1]).all()
    assert torch.allclose(*blocks, atol=1e-4 * blocks[0].std().item())


def test_a_saved_stream_is_independent_of_the_one_that_goes_on(model):
    stream = Stream(make_condition(), make_config(window=6, sink=2))
    made(model, stream, 4)
    again = saved_and_loaded(stream)
    expected = made(model, stream, 3, seed=1)
    stream.switch(model, make_condition(seed=5), rng())
    blocks = made(model, again, 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(expected, blocks))


def test_buffers_are_not_saved(model):
    stream = Stream(make_condition(), make_config(window=6), buffer_frames=6)
    made(model, stream, 1)
    with pytest.raises(ValueError, match="leave buffer_frames out"):
        stream.state_dict()


def test_an_interrupted_commit_can_be_made_up_for(model):
    class Broken(nn.Module):
        def forward(self, **arguments):
            raise KeyboardInterrupt

    stream, whole = (Stream(make_condition(), make_config()) for _ in range(2))
    for one in (stream, whole):
        made(model, one, 2)
    with pytest.raises(KeyboardInterrupt):
        stream.block(Broken(), make_noise(2), rng())
    assert all(torch.equal(a, b) for a, b in zip(made(model, stream, 2, seed=1), made(model, whole, 2, seed=1)))


def test_the_last_frames(model):
    stream = Stream(make_condition(), make_config(window=5))
    with pytest.raises(ValueError, match="last 3 frames of a video of 0"):
        stream.last(3)
    clip = torch.cat(made(model, stream, 4), dim=2)
    assert torch.equal(stream.last(3), clip[:, :, -3:])
    assert torch.equal(stream.last(99), clip[:, :, -6:])  # whole blocks are kept
    with pytest.raises(ValueError, match="last 0 frames"):
        stream.last(0)


def test_only_the_first_frame_is_given(model):
    stream = Stream(make_condition(), make_config(image_conditioning="both"))
    made(model, stream, 1)
    with pytest.raises(ValueError, match="has begun"):
        stream.give_first(make_noise(1))


@pytest.mark.parametrize("kv_grad", ["detach", "straight_through"])
def test_gradient_is_in_the_new_block_and_nothing_of_it_is_carried_on(model, kv_grad):
    """Two updates of one video: the graph of the first is gone when the second goes back."""
    stream = Stream(make_condition(), make_config(window=6, sink=2, kv_grad=kv_grad))
    for number in range(4):
        noise = make_noise(2, seed=number).requires_grad_()
        x = stream.block(model, noise, rng(), with_gradient=True)
        (gradient,) = torch.autograd.grad(x.sum(), noise)
        assert gradient.abs().min() > 0
        stream.detach()
        assert not stream.last(2).requires_grad
        stream.commit(model, rng())
        assert not any(part.requires_grad for part in stream.cache.past(0, 2).keys)
