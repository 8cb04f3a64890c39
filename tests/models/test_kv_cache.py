"""The cache's contract on tensors whose values are their frame numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.models.kv_cache import KVCache

TOKENS = 2


def frames_of(start, frames):
    """Keys (frame number) and values (its negative) of two layers, `[1, frames · tokens, 1, 1]`."""
    numbers = torch.arange(start, start + frames, dtype=torch.float32).repeat_interleave(TOKENS).view(1, -1, 1, 1)
    return [(numbers + 100 * layer, -numbers - 100 * layer) for layer in range(2)]


def commit(cache, *sizes, start=0):
    for size in sizes:
        cache.commit(start, size, frames_of(start, size))
        start += size


def seen(cache, frames, layer=0):
    past = cache.past(layer, frames)
    if not past.keys:
        return []
    key, value = torch.cat(past.keys, dim=1).flatten(), torch.cat(past.values, dim=1).flatten()
    assert torch.equal(key, -value)
    numbers = (key - 100 * layer).int().tolist()
    assert numbers[::TOKENS] == numbers[1::TOKENS]
    return numbers[::TOKENS]


@pytest.mark.parametrize(
    ("window", "sink", "expected"),
    [
        (-1, 0, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (12, 3, [0, 1, 2, 3, 4, 5, 6, 7, 8]),  # 9 + 3 fit
        (9, 0, [3, 4, 5, 6, 7, 8]),
        (9, 3, [0, 1, 2, 6, 7, 8]),  # sink and current block count
        (6, 3, [0, 1, 2]),
        (7, 2, [0, 1, 7, 8]),  # no multiple of the block
        (2, 1, [0]),  # smaller than a block, which still sees itself
    ],
)
def test_window_counts_sink_and_current_block(window, sink, expected):
    cache = KVCache(window, sink)
    commit(cache, 3, 3, 3)
    assert seen(cache, 3) == expected
    assert seen(cache, 3, layer=1) == expected
    assert cache.visible_frames(3) == len(expected)
    assert cache.num_frames == 9


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 4), max_size=6),
    frames=st.integers(1, 4),
    sink=st.integers(0, 4),
    extra=st.integers(1, 8),
    start=st.sampled_from([0, 5]),
    buffered=st.booleans(),
)
def test_eviction_never_changes_what_is_seen(sizes, frames, sink, extra, start, buffered):
    """Against the rule applied to everything that was ever committed."""
    window, held = sink + extra, sum(sizes)
    cache = KVCache(window, sink, buffer_frames=max(window, sink + 4) if buffered else None)
    commit(cache, *sizes, start=start)
    everything = list(range(start, start + held))
    if held + frames > window:
        recent = max(window - sink - frames, 0)
        everything = [f for i, f in enumerate(everything) if i < sink or i >= held - recent]
    assert seen(cache, frames) == everything


def test_memory_is_bounded_by_the_window():
    cache = KVCache(window=9, sink=3)
    commit(cache, *[3] * 50)
    assert sum(piece.frames for piece in cache._store.pieces) <= 3 + 9
    assert seen(cache, 3) == [0, 1, 2, 147, 148, 149]


@pytest.mark.parametrize("buffer_frames", [None, 9])
def test_window_and_sink_take_constant_memory_per_block(buffer_frames):
    """Measured in bytes of distinct storages, at every block of a long video, once the window is full."""
    cache, start, measured = KVCache(window=9, sink=3, buffer_frames=buffer_frames), 0, []
    with torch.no_grad():
        for _ in range(50):
            for layer, (key, value) in enumerate(frames_of(start, 3)):
                cache.past(layer, 3).join(key, value)
            commit(cache, 3, start=start)
            start += 3
            measured.append(cache.num_bytes)
    frame = 2 * 2 * TOKENS * 4  # layers, keys and values, tokens, bytes
    if buffer_frames is None:
        assert measured == [3 * frame, 6 * frame] + [9 * frame] * 48
    else:
        assert measured == [9 * frame] * 50
    assert seen(cache, 3) == [0, 1, 2, 147, 148, 149]


def test_a_piece_is_dropped_as_soon_as_no_block_can_see_it():
    cache = KVCache(window=10, sink=3)
    commit(cache, *[3] * 5)
    assert [piece.start for piece in cache._store.pieces] == [0, 9, 12]  # a block of one frame sees the last six


def test_without_a_window_the_memory_grows():
    cache = KVCache()
    commit(cache, 3, 3)
    before = cache.num_bytes
    commit(cache, 3, start=6)
    assert cache.num_bytes == before * 3 // 2 > 0


def test_a_pass_writes_behind_what_the_buffer_keeps():
    """The current block's place is not part of the past, and a copy is made where gradients could see a later write."""
    cache = KVCache(window=6, sink=1, buffer_frames=6)
    commit(cache, 2, 2)
    with torch.no_grad():
        joined = cache.past(1, 2).join(*frames_of(4, 2)[1])
        assert torch.equal(joined[0].flatten()[::TOKENS], torch.arange(6.0) + 100)
        assert torch.equal(joined[1], -joined[0])
        assert seen(cache, 2) == [0, 1, 2, 3]
        past = cache.past(0, 2)
    copied = cache.past(0, 2)
    commit(cache, 2, start=4)
    with torch.no_grad():
        cache.past(0, 2)
    assert copied.keys[0].flatten()[::TOKENS].tolist() == [0, 1, 2, 3]
    assert past.keys[0].flatten()[::TOKENS].tolist() == [0, 3, 4, 5]  # a view of what has moved up since


def test_a_buffer_refuses_what_it_cannot_hold():
    cache = KVCache(window=6, sink=1, buffer_frames=6)
    commit(cache, 2, 2, 2)
    assert seen(cache, 3) == [0, 4, 5]
    with pytest.raises(ValueError, match=r"frames 3…5 have left the cache's buffer"):
        cache.past(0, 2)
    full = KVCache(buffer_frames=4)
    commit(full, 2)
    with pytest.raises(ValueError, match="holds 4 frames, 5 are needed"):
        full.past(0, 3)
    with pytest.raises(ValueError, match="holds 4 frames, 5 are needed"):
        KVCache(buffer_frames=4).commit(0, 5, frames_of(0, 5))


def test_blocks_must_follow_each_other_unless_the_cache_is_empty():
    cache = KVCache()
    commit(cache, 3, start=6)
    assert cache.num_frames == 9
    with pytest.raises(ValueError, match="ends at frame 9, a block at frame 0"):
        commit(cache, 3)
    cache.reset()
    assert cache.is_empty
    assert cache.num_frames == 0
    commit(cache, 3)
    assert seen(cache, 1) == [0, 1, 2]


@pytest.mark.parametrize("buffer_frames", [None, 9])
def test_going_back_keeps_the_sink_and_forgets_the_rest(buffer_frames):
    """To the start of a block, into one, and to the end; what is committed again is seen once and goes on as before."""
    cache = KVCache(window=9, sink=2, buffer_frames=buffer_frames)
    commit(cache, 3, 3, 3)
    for frame in (6, 5, 4):
        cache.rewind(frame)
        assert cache.num_frames == frame
        assert seen(cache, 3) == [0, 1]
        commit(cache, 9 - frame, start=frame)
        assert seen(cache, 3) == [0, 1, *range(max(5, frame), 9)]
    commit(cache, 3, start=9)
    assert seen(cache, 3) == [0, 1, 8, 9, 10, 11]
    cache.rewind(12)
    assert seen(cache, 1) == [0, 1]
    with pytest.raises(ValueError, match="cannot go back to frame 1: the sink ends at 2, the cache at 12"):
        cache.rewind(1)
    with pytest.raises(ValueError, match="frame 13"):
        cache.rewind(13)


@pytest.mark.parametrize("buffer_frames", [None, 6])
def test_going_back_without_a_sink_starts_there(buffer_frames):
    cache = KVCache(window=6, buffer_frames=buffer_frames)
    commit(cache, 2, 2, 2)
    cache.rewind(3)
    assert cache.is_empty
    assert seen(cache, 2) == []
    commit(cache, 1, 2, start=3)
    assert seen(cache, 2) == [3, 4, 5]


def test_going_back_forgets_the_prompt_and_the_pass_that_waits():
    cache, text = KVCache(sink=1, kv_grad="straight_through"), torch.ones(2)
    commit(cache, 2)
    cache.store_condition((text, None), 4, "stored")
    cache.remember(2, 2, [(k.requires_grad_(), v.requires_grad_()) for k, v in frames_of(2, 2)])
    cache.rewind(2)
    assert not cache.knows_condition((text, None))
    cache.commit(2, 2, frames_of(2, 2))
    assert not any(k.requires_grad for k in cache.past(0, 1).keys)


def test_a_saved_cache_goes_on_as_the_one_that_was_saved():
    """After going back, too, where frames between sink and past are missing."""
    cache, again = KVCache(window=9, sink=2), KVCache(window=9, sink=2)
    commit(cache, 3, 3, 3)
    cache.rewind(6)
    commit(cache, 1, start=6)
    commit(again, 5)  # to be forgotten
    again.load_state_dict(cache.state_dict())
    for one in (cache, again):
        assert seen(one, 2) == [0, 1, 6]
        commit(one, 4, start=7)
        assert seen(one, 2) == [0, 1, 6, 7, 8, 9, 10]
    commit(cache, 3, start=11)
    assert seen(again, 2) == [0, 1, 6, 7, 8, 9, 10]
    with pytest.raises(ValueError, match="ends at frame 11"):
        commit(again, 1)


def test_buffers_have_no_state():
    with pytest.raises(ValueError, match="leave buffer_frames out"):
        KVCache(buffer_frames=4).state_dict()
    with pytest.raises(ValueError, match="leave buffer_frames out"):
        KVCache(buffer_frames=4).load_state_dict(KVCache().state_dict())


def test_commits_are_detached_and_detach_cuts_straight_through():
    def with_gradient(start):
        return [(k.clone().requires_grad_(), v.clone().requires_grad_()) for k, v in frames_of(start, 2)]

    plain = KVCache()
    plain.commit(0, 2, with_gradient(0))
    assert not plain.past(0, 1).keys[0].requires_grad
    cache = KVCache(kv_grad="straight_through")
    exit_pass = with_gradient(0)
    cache.remember(0, 2, exit_pass)
    with torch.no_grad():
        cache.commit(0, 2, [(k + 1, v - 1) for k, v in frames_of(0, 2)])
    key = cache.past(1, 1).keys[0]
    assert torch.equal(key.detach(), exit_pass[1][0].detach() + 1)
    (key * 3).sum().backward()
    assert torch.equal(exit_pass[1][0].grad, torch.full_like(key, 3.0))
    cache.remember(2, 2, with_gradient(2))
    cache.detach()
    assert not cache.past(1, 1).keys[0].requires_grad
    cache.commit(2, 2, frames_of(2, 2))
    assert not cache.past(0, 1).keys[1].requires_grad


def test_a_pass_over_other_frames_lends_no_gradient():
    cache = KVCache(kv_grad="straight_through")
    commit(cache, 2)
    cache.remember(0, 2, [(k.requires_grad_(), v.requires_grad_()) for k, v in frames_of(0, 2)])
    cache.commit(2, 2, frames_of(2, 2))
    assert not any(k.requires_grad for k in cache.past(0, 1).keys)


def test_the_condition_is_kept_for_the_same_objects_and_weights_only():
    cache, text, same_values = KVCache(), torch.ones(2), torch.ones(2)
    cache.store_condition((text, None), 4, "stored")
    assert cache.condition((text, None), 4) == "stored"
    assert cache.condition((same_values, None), 4) is None
    assert cache.condition((text, text), 4) is None
    assert cache.condition((text, None), 5) is None
    assert cache.condition((text,), 4) is None
    assert cache.knows_condition((text, None))
    assert not cache.knows_condition((text,))
    assert not cache.knows_condition((same_values, None))
    cache.detach()
    assert cache.condition((text, None), 4) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"window": 0}, "window: must be"),
        ({"window": 3, "sink": 3}, "below the window"),
        ({"sink": -1}, "sink: must be"),
        ({"rope": "none"}, "unknown rope"),
        ({"kv_grad": "leak"}, "kv_grad"),
        ({"buffer_frames": 0}, "buffer_frames: must be at least 1"),
        ({"buffer_frames": 9, "kv_grad": "straight_through"}, "carry no gradient"),
    ],
)
def test_impossible_settings_are_refused(arguments, words):
    with pytest.raises(HarnessError, match=words):
        KVCache(**arguments)
