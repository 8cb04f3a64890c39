"""Both ways of holding frames, on tensors whose values are their frame numbers; see the cache's tests for its rules."""

import pytest
import torch

from harness.models.kv_storage import Buffer, Past, Pieces, merged

TOKENS = 2


def numbers(start, frames):
    """Keys and values of one layer."""
    key = torch.arange(start, start + frames, dtype=torch.float32).repeat_interleave(TOKENS).view(1, -1, 1, 1)
    return [(key, -key)]


def held(store, *ranges, frames=1):
    past = store.read(0, ranges, frames)
    assert all(torch.equal(key, -value) for key, value in zip(past.keys, past.values))
    return torch.cat([torch.empty(1, 0, 1, 1), *past.keys], dim=1).flatten()[::TOKENS].tolist()


STORES = {"pieces": Pieces, "buffer": lambda: Buffer(9)}


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_what_is_written_is_read_cut_to_the_ranges(store):
    store = store()
    store.write(0, 3, numbers(0, 3), (), ((0, 3),))
    store.write(3, 3, numbers(3, 3), ((0, 3),), ((0, 6),))
    assert held(store, (0, 6)) == [0, 1, 2, 3, 4, 5]
    assert held(store, (0, 2), (4, 6)) == [0, 1, 4, 5]
    store.write(6, 2, numbers(6, 2), ((0, 2), (4, 6)), ((0, 2), (5, 8)))
    assert held(store, (1, 2), (5, 8)) == [1, 5, 6, 7]


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_forgotten_frames_can_be_written_again_and_are_there_once(store):
    store = store()
    store.write(0, 3, numbers(0, 3), (), ((0, 3),))
    store.write(3, 3, numbers(3, 3), ((0, 3),), ((0, 6),))
    store.forget_from(4)
    again = [(key + 100, value - 100) for key, value in numbers(4, 2)]
    store.write(4, 2, again, ((0, 4),), ((0, 6),))
    assert held(store, (0, 6)) == [0, 1, 2, 3, 104, 105]
    store.forget_from(0)
    assert held(store) == []


def test_a_buffer_stays_where_it_is_and_pieces_are_dropped_unseen():
    buffer, pieces = Buffer(4), Pieces()
    for store in (buffer, pieces):
        store.write(0, 2, numbers(0, 2), (), ((0, 2),))
    place = buffer.layers[0][0].data_ptr()
    for start in range(2, 12, 2):
        for store in (buffer, pieces):
            store.write(start, 2, numbers(start, 2), ((start - 2, start),), ((start, start + 2),))
            assert held(store, (start, start + 2)) == [start, start + 1]
    assert buffer.layers[0][0].data_ptr() == place
    assert len(pieces.pieces) == 1
    with torch.no_grad():
        assert buffer.read(0, ((10, 12),), 1).keys[0].data_ptr() == place


def test_a_state_is_what_pieces_hold():
    pieces, again = Pieces(), Pieces()
    pieces.write(3, 2, numbers(3, 2), (), ((3, 5),))
    again.load(pieces.state())
    assert held(again, (3, 5)) == [3, 4]


def test_an_empty_past_joins_nothing():
    key, value = numbers(0, 1)[0]
    assert Past().join(key, value) == (key, value)


def test_neighbors_are_merged():
    assert merged(((0, 2), (2, 5), (7, 8))) == ((0, 5), (7, 8))
    assert merged(()) == ()
