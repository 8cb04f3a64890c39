from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from harness.diffusion.schedule import sampling_sigmas, shift_sigma, sigma_table, training_weights, warp_steps

GOLDEN = Path(__file__).parents[1] / "golden" / "schedule_shift5.safetensors"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


def test_the_table_is_the_references(golden):
    table = sigma_table(5.0)
    assert table.dtype == torch.float64
    assert torch.allclose(table, golden["sigmas"].double(), rtol=2e-7, atol=1e-8)
    assert torch.allclose(1000 * table, golden["timesteps"].double(), rtol=2e-7, atol=1e-5)


def test_the_training_weights_are_the_references(golden):
    weights = training_weights(5.0)
    assert torch.allclose(weights, golden["training_weights"].double(), rtol=1e-5, atol=1e-5)
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[0].item() == 0.0


def test_the_few_step_list_is_warped_as_the_references(golden):
    warped = torch.tensor(warp_steps((1000, 750, 500, 250), 5.0), dtype=torch.float32)
    assert torch.equal(warped, golden["warped_steps"])


def test_warped_steps_are_rows_of_the_table():
    table = 1000 * sigma_table(3.0)
    for k in (1000, 999, 500, 1):
        assert warp_steps((k,), 3.0)[0] == pytest.approx(table[1000 - k].item(), rel=1e-12)


@given(st.floats(0, 1), st.floats(0.1, 20))
def test_shift_keeps_the_interval_and_its_inverse_undoes_it(u, shift):
    sigma = shift_sigma(u, shift)
    assert 0.0 <= sigma <= 1.0 + 1e-12  # rounding
    assert shift_sigma(sigma, 1.0 / shift) == pytest.approx(u, abs=1e-9)


def test_a_shift_above_one_moves_toward_noise():
    assert shift_sigma(0.5, 5.0) == pytest.approx(2.5 / 3.0)
    assert shift_sigma(0.5, 1.0) == 0.5


def test_sampling_levels_go_from_noise_to_data():
    levels = sampling_sigmas(4, 5.0)
    assert len(levels) == 5
    assert levels[0] == 1.0
    assert levels[-1] == 0.0
    assert list(levels) == sorted(levels, reverse=True)
    assert levels[1] == pytest.approx(0.9375)
