"""`y` against diffusers' pipeline, and all conditioning of image to video against what its transformer is given."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_i2v import CHANNELS, save_tiny_i2v

from harness.errors import HarnessError
from harness.models.codec import encode_video, fit_pca, from_pixels, load_vae
from harness.models.condition import pad_text
from harness.models.image import encode_images, load_image_encoder
from harness.models.reference_latent import factors, reference_latent, reference_mask, still_and_nothing
from harness.models.text import encode_prompt, load_text_encoder

ROUNDING = 1e-5  # pixels are scaled, and latents divided, in another order of operations


@pytest.fixture(scope="module")
def pipeline_and_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i2v")
    return save_tiny_i2v(folder), folder


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(image):
    return from_pixels(image[None, None])[:, :, 0]


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (5, 16, 48), (13, 32, 16)])
def test_y_is_that_of_the_wan_pipeline(pipeline_and_folder, frames, height, width):
    """Mask bit for bit, latent within float rounding, for any resolution and frame count."""
    pipeline, folder = pipeline_and_folder
    image = picture(height, width)
    prepared = pipeline.video_processor.preprocess(Image.fromarray(image), height=height, width=width)
    _, expected = pipeline.prepare_latents(
        prepared, 1, CHANNELS, height, width, frames, torch.float32, torch.device("cpu"), torch.Generator()
    )
    y = reference_latent(load_vae(folder / "vae"), pixels(image), frames)
    assert y.shape == expected.shape == (1, 4 + CHANNELS, 1 + (frames - 1) // 4, height // 8, width // 8)
    assert torch.equal(y[:, :4], expected[:, :4])
    assert torch.allclose(y[:, 4:], expected[:, 4:], rtol=ROUNDING, atol=ROUNDING)


def test_the_transformer_is_given_what_the_pipeline_gives_it(pipeline_and_folder):
    """Text of 512 positions, CLIP tokens and `y` through our loaders are those of the pipeline's own call."""
    pipeline, folder = pipeline_and_folder
    image, given = picture(32, 48, seed=1), {}
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    pipeline(
        Image.fromarray(image),
        "a  cat surfs &amp; a dog",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=1,
        guidance_scale=1.0,
        output_type="latent",
    )
    hook.remove()
    text = encode_prompt(load_text_encoder(folder / "text_encoder"), "a  cat surfs &amp; a dog").vectors
    assert text.shape[0] == 7  # six words and the end
    assert torch.allclose(pad_text(text[None], 512), given["encoder_hidden_states"], atol=ROUNDING)
    tokens = encode_images(load_image_encoder(folder / "image_encoder"), torch.from_numpy(image)[None])
    assert torch.equal(tokens, given["encoder_hidden_states_image"])
    y = reference_latent(load_vae(folder / "vae"), pixels(image), 9)
    assert torch.allclose(y, given["hidden_states"][:, CHANNELS:], rtol=ROUNDING, atol=ROUNDING)


def test_a_batch_has_an_image_each(pipeline_and_folder):
    vae = load_vae(pipeline_and_folder[1] / "vae")
    first, second = pixels(picture(16, 16)), pixels(picture(16, 16, seed=2))
    y = reference_latent(vae, torch.cat([first, second]), 5)
    assert torch.allclose(y[:1], reference_latent(vae, first, 5), atol=1e-5)
    assert torch.allclose(y[1:], reference_latent(vae, second, 5), atol=1e-5)
    assert not torch.allclose(y[0, 4:], y[1, 4:], atol=1e-3)
    assert factors(vae) == (8, 4)


def test_the_first_latent_is_that_of_the_still(pipeline_and_folder):
    """The VAE is causal: what follows does not reach the first latent frame."""
    vae = load_vae(pipeline_and_folder[1] / "vae")
    image = pixels(picture(16, 32))
    assert torch.allclose(reference_latent(vae, image, 9)[:, 4:, :1], encode_video(vae, image[:, :, None]), atol=1e-5)


@pytest.mark.parametrize("vae", ["wan", "pca"])
def test_a_shorter_clip_has_the_beginning_of_a_longer_ones(pipeline_and_folder, vae):
    """So stored conditions may be cut to a run's number of frames."""
    if vae == "wan":
        vae = load_vae(pipeline_and_folder[1] / "vae")
    else:
        vae = fit_pca(from_pixels(np.stack([[picture(16, 32, seed=n)] * 5 for n in range(20)])), channels=CHANNELS)
    image = pixels(picture(16, 32))
    long, short = (reference_latent(vae, image, frames) for frames in (17, 9))
    assert torch.allclose(long[:, :, :3], short, atol=1e-5)


def test_mask_and_video():
    mask = reference_mask(3, 2, 5)
    assert mask.shape == (4, 3, 2, 5)
    assert mask[:, 0].eq(1).all()
    assert not mask[:, 1:].any()
    image = torch.rand(2, 3, 4, 6)
    video = still_and_nothing(image, 5)
    assert torch.equal(video[:, :, 0], image)
    assert not video[:, :, 1:].any()


def test_the_factors_are_the_codecs():
    """The small codec has patches of 4×4 pixels: the same function serves it."""
    clips = torch.rand(20, 3, 9, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = fit_pca(clips, channels=16)
    assert reference_latent(codec, clips[:2, :, 0], 9).shape == (2, 20, 3, 6, 6)
    assert factors(codec) == (4, 4)
    assert factors(fit_pca(clips, channels=2, spatial_factor=8, temporal_factor=2)) == (8, 2)
    with pytest.raises(HarnessError, match="multiples of 4"):
        reference_latent(codec, clips[:2, :, 0, :22], 9)


@pytest.mark.parametrize(("frames", "height"), [(8, 16), (9, 12)])
def test_what_does_not_fit_the_vae_is_refused(pipeline_and_folder, frames, height):
    with pytest.raises(HarnessError, match="does not fit the VAE"):
        reference_latent(load_vae(pipeline_and_folder[1] / "vae"), torch.zeros(1, 3, height, 16), frames)
