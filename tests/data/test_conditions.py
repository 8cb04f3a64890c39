"""What a picture gives: one function for the encode stage and for sampling."""

import numpy as np
import pytest
import torch

from harness.data.conditions import image_condition
from harness.data.encode import Encoders
from harness.data.mds import load_split
from harness.errors import HarnessError
from harness.models.codec import encode_video, fit_pca, from_pixels
from harness.models.image import encode_images, random_clip
from harness.models.reference_latent import reference_latent


def pictures(count, height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def encoders(image_data):
    return Encoders.load(image_data.encoders, text_length=image_data.text_length, image=True)


@pytest.mark.parametrize("latent_frames", [1, 3, 8])
def test_parts_are_those_of_the_networks(encoders, latent_frames):
    """Beyond the clips' own length too."""
    images = pictures(3, 16, 24)
    made = image_condition(encoders.vae, encoders.image, images, latent_frames)
    assert {part.dtype for part in (made.image_tokens, made.y, made.first_latent)} == {torch.float32}
    assert made.y.shape == (3, 20, latent_frames, 4, 6)
    assert torch.equal(made.image_tokens, encode_images(encoders.image, images))
    pixels = from_pixels(images.numpy()[:, None])
    assert torch.equal(made.y, reference_latent(encoders.vae, pixels[:, :, 0], 4 * latent_frames - 3))
    assert torch.allclose(made.first_latent, encode_video(encoders.vae, pixels), atol=1e-6)
    assert torch.equal(made.first_latent, made.y[:, 4:, :1])


def test_the_stored_conditions_are_those_of_the_picture(image_data, encoders):
    """So that a picture given in sampling is what was trained on."""
    stored = load_split(image_data.encoded / "test")
    made = image_condition(encoders.vae, encoders.image, torch.from_numpy(stored["first_frame"]), 3)
    for ours, theirs in (
        (made.image_tokens, stored["image_tokens"]),
        (made.y, stored["y"]),
        (made.first_latent, stored["latent"][:, :, :1]),
    ):
        assert theirs.dtype == np.float16
        assert np.allclose(ours.numpy(), theirs, atol=5e-3, rtol=2e-3)


def test_a_batch_of_pictures_is_each_alone(encoders):
    images = pictures(4, 16, 24)
    together = image_condition(encoders.vae, encoders.image, images, 2)
    for number in range(4):
        alone = image_condition(encoders.vae, encoders.image, images[number : number + 1], 2)
        for part in ("image_tokens", "y", "first_latent"):
            assert torch.allclose(getattr(together, part)[number], getattr(alone, part)[0], atol=1e-5), part
    assert not torch.allclose(together.image_tokens[0], together.image_tokens[1], atol=0.1)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (40, 16)])
def test_any_resolution(height, width):
    clips = torch.rand(20, 3, 5, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae, tower = fit_pca(clips, channels=4), random_clip(min(height, width), dim=8, layers=2, seed=0)
    made = image_condition(vae, tower, pictures(2, height, width), 3)
    assert made.image_tokens.shape == (2, (min(height, width) // 4) ** 2 + 1, 8)
    assert made.y.shape == (2, 8, 3, height // 4, width // 4)
    assert made.first_latent.shape == (2, 4, 1, height // 4, width // 4)


def test_the_precision_of_the_codec_does_not_reach_the_result(encoders):
    images = pictures(1, 16, 24)
    exact = image_condition(encoders.vae, encoders.image, images, 2)
    halved = Encoders.load(encoders.folder, text_length=12).vae.to(torch.bfloat16)
    rounded = image_condition(halved, encoders.image, images, 2)
    assert rounded.y.dtype == torch.float32
    assert torch.allclose(rounded.y, exact.y, atol=0.1)


def test_what_does_not_fit_is_refused(encoders):
    with pytest.raises(HarnessError, match="does not fit the VAE"):
        image_condition(encoders.vae, encoders.image, pictures(1, 16, 22), 2)
    with pytest.raises(HarnessError, match=r"uint8 \[B, H, W, 3\]"):
        image_condition(encoders.vae, encoders.image, pictures(1, 16, 24).float(), 2)
