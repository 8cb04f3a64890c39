import numpy as np
import pytest
import torch

from harness.errors import HarnessError
from harness.evaluation.prompts import (
    fixed_noise,
    fixed_prompts,
    latent_shape,
    prompt_numbers,
    text_length_of,
)

SHAPE = (2, 3, 4, 4)


def test_noise_of_a_clip_depends_on_its_index_and_repeat_only():
    every = fixed_noise(5, range(8), SHAPE)
    assert torch.equal(fixed_noise(5, [6, 2], SHAPE), every[[6, 2]])
    assert len({clip.sum().item() for clip in every}) == 8
    assert not torch.equal(fixed_noise(5, range(8), SHAPE, repeat=1), every)
    assert not torch.equal(fixed_noise(6, range(8), SHAPE), every)
    assert every.std().item() == pytest.approx(1, abs=0.1)


def test_one_clip_in_four_repeats_a_prompt():
    numbers = prompt_numbers(256)
    assert numbers.max() + 1 == 192
    assert (np.bincount(numbers) == 2).sum() == 64
    assert prompt_numbers(1).tolist() == [0]


def test_fixed_prompts_are_the_first_of_the_split(root):
    prompts = fixed_prompts(root / "data/encoded", "test", 16, 3)
    assert len(prompts) == 16
    assert prompts.captions[12:] == prompts.captions[:4]
    assert prompts.attributes[0]["digit"] == int(prompts.captions[0].split()[2])
    condition = prompts.condition(4, 7)
    assert condition.text.shape == (3, 12, 64)
    assert condition.unconditional_text.shape == (1, 12, 64)
    assert condition.positions.shape == (3, 5, 3, 6, 6)
    assert torch.equal(condition.text[0], prompts.condition(0, 16).text[4])
    assert prompts.pooled_text.shape == (16, 64)


def test_the_identity_of_prompts_is_their_order_too(root):
    one, other = (fixed_prompts(root / "data/encoded", split, 12, 3) for split in ("test", "validation"))
    assert one.sha256 == fixed_prompts(root / "data/encoded", "test", 12, 3).sha256
    assert one.sha256 != other.sha256


def test_geometry_comes_from_the_fingerprint(root):
    assert latent_shape(root / "data/encoded", 5) == (16, 5, 6, 6)
    assert text_length_of(root / "data/encoded") == 12


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(HarnessError, match="18 samples wanted, it has 16"):
        fixed_prompts(root / "data/encoded", "validation", 24, 3)
    with pytest.raises(HarnessError, match=r"fingerprint\.json: no such file"):
        latent_shape(tmp_path, 3)
