import pytest
import torch

from harness.seeding import generator_for, seed_for


def draw(*names: int | str) -> torch.Tensor:
    return torch.rand(4, generator=generator_for(*names))  # type: ignore[arg-type]


def test_the_same_place_draws_the_same_numbers():
    assert torch.equal(draw(0, "noise", 3, 1), draw(0, "noise", 3, 1))


@pytest.mark.parametrize(
    "other", [(1, "noise", 3), (0, "exit", 3), (0, "noise", 4), (0, "noise", 3, 0), (0, "noise", "3")]
)
def test_any_other_place_draws_others(other):
    assert not torch.equal(draw(0, "noise", 3), draw(*other))


def test_seeds_do_not_change_between_versions():
    assert seed_for(0) == 7520536977032167579  # first 8 bytes of sha256("[0]"), halved
    assert seed_for(0, "noise", 3, 1) == seed_for(0, "noise", 3, 1)
    assert seed_for(0, "a,b") != seed_for(0, "a", "b")
    assert 0 <= seed_for(2**70, "x") < 2**63


@pytest.mark.parametrize("bad", [True, 1.0, None])
def test_what_would_collide_silently_is_refused(bad):
    with pytest.raises(TypeError, match="int or str"):
        generator_for(0, bad)
