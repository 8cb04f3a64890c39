import pytest
import torch

from harness.methods.draws import Draws


def test_a_place_always_gives_the_same_numbers():
    like = torch.zeros(2, 3)
    assert torch.equal(Draws.at(1, 2, 3).noise_like(like), Draws.at(1, 2, 3).noise_like(like))


@pytest.mark.parametrize("other", [(2, 2, 3), (1, 3, 3), (1, 2, 4)])
def test_another_place_gives_other_noise(other):
    like = torch.zeros(2, 3)
    assert not torch.equal(Draws.at(1, 2, 3).noise_like(like), Draws.at(*other).noise_like(like))


def test_only_the_shared_generator_is_equal_for_all_pieces_of_a_batch():
    zero, one = Draws.at(1, 2, 3), Draws.at(1, 2, 4)
    assert torch.equal(torch.rand(5, generator=zero.shared), torch.rand(5, generator=one.shared))
    assert not torch.equal(torch.rand(5, generator=zero.local), torch.rand(5, generator=one.local))


def test_local_and_shared_are_not_the_same_stream():
    draws = Draws.at(1, 2)
    assert not torch.equal(torch.rand(5, generator=draws.local), torch.rand(5, generator=draws.shared))


def test_kinds_of_draws():
    draws = Draws.at(0, 0)
    assert draws.noise_like(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    integers = draws.integers(1000, 500)
    assert integers.min() >= 0
    assert 900 < integers.max() < 1000
    assert draws.chances(0.25, 1000).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert not draws.chances(0.0, 100).any()
    assert draws.chances(1.0, 100).all()
