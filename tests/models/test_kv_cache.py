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
    keys, values = cache.past(layer, frames)
    if not keys:
        return []
    key, value = torch.cat(keys, dim=1).flatten(), torch.cat(values, dim=1).flatten()
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
)
def test_eviction_never_changes_what_is_seen(sizes, frames, sink, extra, start):
    """Against the rule applied to everything that was ever committed."""
    window, held = sink + extra, sum(sizes)
    cache = KVCache(window, sink)
    commit(cache, *sizes, start=start)
    everything = list(range(start, start + held))
    if held + frames > window:
        recent = max(window - sink - frames, 0)
        everything = [f for i, f in enumerate(everything) if i < sink or i >= held - recent]
    assert seen(cache, frames) == everything


def test_memory_is_bounded_by_the_window():
    cache = KVCache(window=9, sink=3)
    commit(cache, *[3] * 50)
    assert sum(piece.frames for piece in cache._pieces) <= 3 + 9
    assert seen(cache, 3) == [0, 1, 2, 147, 148, 149]


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


def test_commits_are_detached_and_detach_cuts_straight_through():
    def with_gradient(start):
        return [(k.clone().requires_grad_(), v.clone().requires_grad_()) for k, v in frames_of(start, 2)]

    plain = KVCache()
    plain.commit(0, 2, with_gradient(0))
    assert not plain.past(0, 1)[0][0].requires_grad
    cache = KVCache(kv_grad="straight_through")
    exit_pass = with_gradient(0)
    cache.remember(0, 2, exit_pass)
    with torch.no_grad():
        cache.commit(0, 2, [(k + 1, v - 1) for k, v in frames_of(0, 2)])
    key = cache.past(1, 1)[0][0]
    assert torch.equal(key.detach(), exit_pass[1][0].detach() + 1)
    (key * 3).sum().backward()
    assert torch.equal(exit_pass[1][0].grad, torch.full_like(key, 3.0))
    cache.remember(2, 2, with_gradient(2))
    cache.detach()
    assert not cache.past(1, 1)[0][0].requires_grad
    cache.commit(2, 2, frames_of(2, 2))
    assert not cache.past(0, 1)[0][1].requires_grad


def test_a_pass_over_other_frames_lends_no_gradient():
    cache = KVCache(kv_grad="straight_through")
    commit(cache, 2)
    cache.remember(0, 2, [(k.requires_grad_(), v.requires_grad_()) for k, v in frames_of(0, 2)])
    cache.commit(2, 2, frames_of(2, 2))
    assert not any(k.requires_grad for k in cache.past(0, 1)[0])


def test_the_condition_is_kept_for_the_same_objects_and_weights_only():
    cache, text, same_values = KVCache(), torch.ones(2), torch.ones(2)
    cache.store_condition((text, None), 4, "stored")
    assert cache.condition((text, None), 4) == "stored"
    assert cache.condition((same_values, None), 4) is None
    assert cache.condition((text, text), 4) is None
    assert cache.condition((text, None), 5) is None
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
    ],
)
def test_impossible_settings_are_refused(arguments, words):
    with pytest.raises(HarnessError, match=words):
        KVCache(**arguments)
