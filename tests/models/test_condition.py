import pytest
import torch

from harness.models.condition import POSITION_CHANNELS, Condition, pad_text, position_channels


def full(batch=3, shared=True):
    return Condition(
        text=torch.randn(batch, 4, 2),
        image_tokens=torch.randn(batch, 5, 3),
        y=torch.randn(batch, 6, 2, 2, 2),
        unconditional_text=torch.randn(1 if shared else batch, 4, 2),
    )


def test_unconditional_drops_the_text_only():
    condition = full()
    empty = condition.unconditional()
    assert torch.equal(empty.text, condition.unconditional_text.expand(3, 4, 2))
    assert empty.image_tokens is condition.image_tokens
    assert empty.y is condition.y
    assert not Condition(text=condition.text).unconditional().text.any()


def test_caption_dropout_touches_only_the_masked_samples():
    condition = full()
    dropped = condition.drop_text(torch.tensor([False, True, False]))
    assert torch.equal(dropped.text[[0, 2]], condition.text[[0, 2]])
    assert torch.equal(dropped.text[1], condition.unconditional_text[0])
    assert dropped.y is condition.y


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, 3)])
@pytest.mark.parametrize("shared", [True, False])
def test_select_takes_every_part(index, shared):
    condition = full(shared=shared)
    part = condition.select(index)
    assert torch.equal(part.text, condition.text[index])
    assert torch.equal(part.y, condition.y[index])
    assert torch.equal(part.image_tokens, condition.image_tokens[index])
    assert torch.equal(part.unconditional().text, condition.unconditional().text[index])


@pytest.mark.parametrize("shared", [True, False])
def test_repeat_and_cat_agree(shared):
    condition = full(shared=shared)
    for name in ("text", "y", "image_tokens"):
        expected = torch.cat([getattr(condition, name)] * 2)
        assert torch.equal(getattr(condition.repeat(2), name), expected)
        assert torch.equal(getattr(Condition.cat([condition, condition]), name), expected)
    expected = torch.cat([condition.unconditional().text] * 2)
    assert torch.equal(condition.repeat(2).unconditional().text, expected)
    assert torch.equal(Condition.cat([condition, condition]).unconditional().text, expected)


def test_cat_of_different_unconditional_texts_keeps_both():
    first, second = full(1), full(2)
    joined = Condition.cat([first, second]).unconditional().text
    assert torch.equal(joined, torch.cat([first.unconditional().text, second.unconditional().text]))
    with pytest.raises(ValueError, match="y is present in some"):
        Condition.cat([first, Condition(text=first.text, image_tokens=first.image_tokens)])


def test_to_casts_every_part():
    cast = full().to(dtype=torch.float64)
    assert {x.dtype for x in (cast.text, cast.y, cast.image_tokens, cast.unconditional_text)} == {torch.float64}


def test_parts_that_do_not_fit_are_refused():
    text = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match="y has batch 3"):
        Condition(text=text, y=torch.zeros(3, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="unconditional_text must be"):
        Condition(text=text, unconditional_text=torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"text must be \[B, L, D\]"):
        Condition(text=text[0])


def test_pad_text_pads_with_zeros_and_never_cuts():
    padded = pad_text(torch.ones(1, 3, 2), 5)
    assert padded.shape == (1, 5, 2)
    assert padded.sum() == 6
    with pytest.raises(ValueError, match="3 tokens, more than the 2"):
        pad_text(torch.ones(1, 3, 2), 2)


def test_position_channels_tell_every_pixel_and_the_first_frame_apart():
    channels = position_channels(3, 4, 6)
    assert channels.shape == (POSITION_CHANNELS, 3, 4, 6)
    assert channels[4].flatten(1)[:, 0].tolist() == [1, 0, 0]
    assert torch.pdist(channels[:4, 0].flatten(1).T).min() > 0.5
    assert torch.equal(channels[:4, 0], channels[:4, 2])
