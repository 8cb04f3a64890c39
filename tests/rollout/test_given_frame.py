import pytest
import torch

from harness.models.condition import Condition
from harness.rollout.given_frame import beside_given, given_frame

TEXT = torch.zeros(2, 3, 4)
FIRST = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_a_generated_first_frame_needs_nothing():
    assert given_frame(Condition(text=TEXT), torch.zeros(2, 3, 4, 2, 2), first_frame_given=False) is None
    given = Condition(text=TEXT, first_latent=FIRST)
    assert given_frame(given, torch.zeros(2, 3, 4, 2, 2), first_frame_given=False) is None


def test_the_given_frame_is_the_conditions_in_the_type_of_the_clip():
    first = FIRST.clone().requires_grad_()
    given = given_frame(Condition(text=TEXT, first_latent=first), torch.zeros(2, 3, 4, 2, 2), first_frame_given=True)
    assert torch.equal(given, FIRST)
    assert not given.requires_grad
    half = torch.zeros(2, 3, 4, 2, 2, dtype=torch.bfloat16)
    assert given_frame(Condition(text=TEXT, first_latent=FIRST), half, True).dtype == torch.bfloat16


def test_a_missing_first_latent_is_said():
    with pytest.raises(ValueError, match="no first_latent"):
        given_frame(Condition(text=TEXT), torch.zeros(2, 3, 4, 2, 2), first_frame_given=True)


def test_beside_a_clip_it_has_a_timestep_of_its_own():
    x, t = torch.randn(2, 3, 4, 2, 2), torch.tensor([1000.0, 250.0])
    seen, per_frame = beside_given(FIRST, x, t)
    assert torch.equal(seen, torch.cat([FIRST, x], dim=2))
    assert per_frame.tolist() == [[0.0, 1000, 1000, 1000, 1000], [0.0, 250, 250, 250, 250]]
    assert per_frame.dtype == torch.float32


def test_without_one_nothing_changes():
    x, t = torch.randn(2, 3, 4, 2, 2), torch.tensor([1000.0, 250.0])
    seen, same = beside_given(None, x, t)
    assert seen is x
    assert same is t
