import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.data.mds import ENCODED_COLUMNS, IMAGE_COLUMNS, load_split, write_mds
from harness.errors import HarnessError
from harness.evaluation.prompts import (
    fixed_noise,
    fixed_prompts,
    latent_shape,
    prompt_numbers,
    text_length_of,
)
from harness.io import write_json

SHAPE = (2, 3, 4, 4)
FRAMES, SIZE = 5, 4


@pytest.fixture(scope="module")
def with_images(tmp_path_factory):
    """Encoded data for image to video, of random numbers."""
    folder, rng = tmp_path_factory.mktemp("encoded"), np.random.default_rng(0)
    rows = [
        {
            "key": f"clip{n}",
            "latent": rng.standard_normal((2, FRAMES, SIZE, SIZE)).astype(np.float16),
            "text": rng.standard_normal((2 + n % 3, 8)).astype(np.float16),
            "first_frame": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
            "caption": f"caption {n}",
            "attributes": {"digit": n},
            "image_tokens": rng.standard_normal((3, 8)).astype(np.float16),
            "y": rng.standard_normal((6, FRAMES, SIZE, SIZE)).astype(np.float16),
        }
        for n in range(8)
    ]
    write_mds(folder / "test", ENCODED_COLUMNS | IMAGE_COLUMNS, rows)
    save_file({"text": torch.zeros(1, 8, dtype=torch.float16)}, folder / "unconditional.safetensors")
    shape = {"latent_shape": [2, FRAMES, SIZE, SIZE], "text_length": 6, "image_tokens": [3, 8]}
    write_json(folder / "fingerprint.json", {"schema": 1, **shape, "position_channels": True})
    return folder


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


def test_every_clip_is_given_the_first_frame_of_its_own_prompt(with_images):
    stored = load_split(with_images / "test")
    prompts = fixed_prompts(with_images, "test", 8, 3, image=True)
    assert prompts.prompts.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    for clip, row in enumerate(prompts.prompts):
        assert prompts.captions[clip] == f"caption {row}"
        assert np.array_equal(prompts.first_frames[clip], stored["first_frame"][row])
        assert np.array_equal(prompts.image_tokens[clip], stored["image_tokens"][row])
        assert np.array_equal(prompts.y[clip], stored["y"][row][:, :3])
        assert np.array_equal(prompts.first_latents[clip], stored["latent"][row][:, :1])
    condition = prompts.condition(5, 8)
    rows = prompts.prompts[5:8]
    for part, expected in (
        (condition.image_tokens, stored["image_tokens"]),
        (condition.y, stored["y"][:, :, :3]),
        (condition.first_latent, stored["latent"][:, :, :1]),
    ):
        assert part.dtype == torch.float32
        assert np.array_equal(part.numpy(), expected[rows].astype(np.float32))
    assert condition.positions.shape == (3, 5, 3, SIZE, SIZE)
    assert torch.equal(condition.y, prompts.condition(0, 8).y[5:])


def test_without_an_image_nothing_is_given(with_images):
    prompts = fixed_prompts(with_images, "test", 8, 3)
    assert (prompts.image_tokens, prompts.y, prompts.first_latents, prompts.first_frames) == (None,) * 4
    condition = prompts.condition(0, 4)
    assert (condition.image_tokens, condition.y, condition.first_latent) == (None, None, None)
    assert prompts.sha256 == fixed_prompts(with_images, "test", 8, 3, image=True).sha256, "the prompts are the same"


def test_image_conditions_that_are_missing_or_too_short(with_images, tmp_path):
    write_json(tmp_path / "fingerprint.json", {"schema": 1, "latent_shape": [2, FRAMES, SIZE, SIZE]})
    with pytest.raises(HarnessError, match=r"encoders\.image_encoder.*dvc repro encode"):
        fixed_prompts(tmp_path, "test", 8, 3, image=True)
    with pytest.raises(HarnessError, match="of 6 latent frames wanted, those of the data have 5"):
        fixed_prompts(with_images, "test", 8, 6, image=True)
    assert fixed_prompts(with_images, "test", 8, 6).positions.shape[1] == 6


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
