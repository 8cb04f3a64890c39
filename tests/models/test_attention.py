import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from harness.models.attention import BlockCausal, TeacherForcing, block_bounds, collapse_padding


@pytest.mark.parametrize(
    ("frames", "sizes", "expected"),
    [
        (9, 3, ((0, 3), (3, 6), (6, 9))),
        (7, 3, ((0, 3), (3, 6), (6, 7))),
        (7, (1, 3), ((0, 1), (1, 4), (4, 7))),
        (2, 3, ((0, 2),)),
        (2, (5, 3), ((0, 2),)),
    ],
)
def test_block_bounds(frames, sizes, expected):
    assert block_bounds(frames, sizes) == expected


@pytest.mark.parametrize("sizes", [0, (0, 3), (1, 0), (1, 2, 3)])
def test_block_bounds_refuses_nonsense(sizes):
    with pytest.raises(ValueError, match="frames_per_block"):
        block_bounds(4, sizes)


def qkv(tokens):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, tokens, 2, 4, generator=rng).unbind()


def test_prefix_slices_equal_a_dense_mask():
    query, key, value = qkv(7)
    bounds = ((0, 2), (2, 5), (5, 7))
    block = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    expected = dispatch_attention_fn(query, key, value, attn_mask=block[:, None] >= block)
    assert torch.allclose(BlockCausal(bounds)(query, key, value, dispatch_attention_fn), expected, atol=1e-6)


@pytest.mark.parametrize("noisy_queries_only", [False, True])
def test_teacher_forcing_equals_a_dense_mask(noisy_queries_only):
    """Four clean tokens (the last clean block is left out), then six noisy ones."""
    bounds = ((0, 2), (2, 4), (4, 6))
    query, key, value = qkv(10)
    block = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 2, 2])
    noisy = torch.arange(10) >= 4
    clean_key = ~noisy & torch.where(noisy[:, None], block[:, None] > block, block[:, None] >= block)
    own = noisy & noisy[:, None] & (block[:, None] == block)
    expected = dispatch_attention_fn(query, key, value, attn_mask=clean_key | own)
    skip = 4 if noisy_queries_only else 0
    actual = TeacherForcing(bounds)(query[:, skip:], key, value, dispatch_attention_fn)
    assert torch.allclose(actual, expected[:, skip:], atol=1e-6)


def test_collapsed_padding_counts_as_many_positions():
    text = torch.zeros(2, 9, 3)
    text[0, :3], text[1, :5] = torch.randn(3, 3), torch.randn(5, 3)
    short, bias = collapse_padding(text)
    assert torch.equal(short, text[:, :6])
    assert torch.allclose(bias.flatten().exp(), torch.tensor([1.0, 1, 1, 1, 1, 4]))
    query = torch.randn(2, 4, 1, 3)
    expected = dispatch_attention_fn(query, text[:, :, None] + 1, text[:, :, None])
    actual = dispatch_attention_fn(query, short[:, :, None] + 1, short[:, :, None], attn_mask=bias)
    assert torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("length", [8, 9])
def test_text_with_nothing_to_collapse_is_left_alone(length):
    text = torch.zeros(1, length, 3)
    text[:, :8] = 1.0
    short, bias = collapse_padding(text)
    assert short is text
    assert bias is None


def test_an_empty_text_keeps_one_position():
    short, _ = collapse_padding(torch.zeros(2, 5, 3))
    assert short.shape == (2, 1, 3)
