import pytest
import torch

from harness.models.block import EmbeddedCondition
from harness.models.condition import Condition
from harness.models.kv_cache import KVCache
from harness.rollout.cache_rows import CacheRows, embedded_rows, prompt_of


def filled(**settings):
    """A cache of three samples with one layer and three frames of one token each; values tell sample and frame."""
    cache = KVCache(**settings)
    for frame in range(3):
        values = torch.tensor([[[[100.0 * sample + frame]]] for sample in range(3)])
        cache.commit(frame, 1, [(values, -values)])
    return cache


def make_condition():
    return Condition(text=torch.randn(3, 4, 2), image_tokens=torch.randn(3, 2, 2))


@pytest.mark.parametrize("rows", [slice(0, 2), torch.tensor([0, 2])])
def test_the_rows_of_the_past(rows):
    condition = make_condition()
    cache = CacheRows(filled(window=3, sink=1), rows, condition, condition.select(rows))
    past = cache.past(0, 1)
    samples = [0, 1] if isinstance(rows, slice) else [0, 2]
    assert torch.cat(past.keys, dim=1).flatten(1).tolist() == [[100.0 * s, 100.0 * s + 2] for s in samples]
    assert torch.equal(torch.cat(past.values, dim=1), -torch.cat(past.keys, dim=1))
    assert cache.visible_frames(1) == 2


def test_later_commits_are_seen_and_own_ones_refused():
    whole, condition = filled(), make_condition()
    cache = CacheRows(whole, slice(0, 1), condition, condition.select(slice(0, 1)))
    assert cache.visible_frames(1) == 3
    whole.commit(3, 1, [(torch.zeros(3, 1, 1, 1), torch.zeros(3, 1, 1, 1))])
    assert cache.visible_frames(1) == 4
    with pytest.raises(ValueError, match="commit to the whole"):
        cache.commit(4, 1, [])


def test_rows_of_a_prefix_are_views():
    whole, condition = filled(), make_condition()
    cache = CacheRows(whole, slice(0, 2), condition, condition.select(slice(0, 2)))
    for mine, theirs in zip(cache.past(0, 1).keys, whole.past(0, 1).keys):
        assert mine.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()


def test_positions_inside_the_window_are_kept():
    condition = make_condition()
    assert CacheRows(filled(rope="relative"), slice(0, 1), condition, condition.select(slice(0, 1))).rope == "relative"


def test_the_prompt_is_cut_once_and_for_its_own_rows_and_weights_only():
    whole, condition = filled(), make_condition()
    rows = torch.tensor([2, 0])
    own = condition.select(rows)
    cache = CacheRows(whole, rows, condition, own)
    assert not cache.knows_condition(prompt_of(own))
    assert cache.condition(prompt_of(own), 7) is None
    pair = (torch.randn(3, 4, 1, 2), torch.randn(3, 4, 1, 2))
    bias = torch.zeros(1, 1, 1, 4)
    stored = EmbeddedCondition(
        text=torch.randn(3, 4, 2), image=torch.randn(3, 2, 2), text_bias=bias, key_values=((pair,), None)
    )
    whole.store_condition(prompt_of(condition), 7, stored)
    assert cache.knows_condition(prompt_of(own))
    assert cache.condition(prompt_of(own), 8) is None  # the weights have changed
    known = cache.condition(prompt_of(own), 7)
    assert torch.equal(known.text, stored.text[rows])
    assert torch.equal(known.image, stored.image[rows])
    assert known.text_bias is bias
    assert torch.equal(known.key_values[0][0][0], pair[0][rows])
    assert torch.equal(known.key_values[0][0][1], pair[1][rows])
    assert known.key_values[1] is None
    assert cache.condition(prompt_of(own), 7) is known
    other = make_condition()
    assert not cache.knows_condition(prompt_of(other))
    assert cache.condition(prompt_of(other), 7) is None


def test_nothing_embedded_stays_nothing():
    stored = embedded_rows(EmbeddedCondition(text=None), slice(0, 1))
    assert (stored.text, stored.image, stored.key_values) == (None, None, None)
