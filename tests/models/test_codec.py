"""The codec: Wan's layout, a faithful round trip on what it was fitted to, the real VAE behind the same functions."""

import json

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from harness.config.schema import DataConfig, Splits
from harness.data.digits import iter_clips
from harness.errors import HarnessError
from harness.models.codec import (
    as_first_latent,
    check_geometry,
    decode_latents,
    encode_video,
    fit_pca,
    from_pixels,
    latent_scale,
    load_vae,
    to_pixels,
)

DATA = DataConfig(
    source="moving_digits", height=24, width=24, frames=17, clips=Splits(train=200, validation=32, test=32)
)


def videos(split: str) -> torch.Tensor:
    return from_pixels(np.stack([clip.video for clip in iter_clips(DATA, split)]))


@pytest.fixture(scope="module")
def codec():
    return fit_pca(videos("train"), channels=16)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def test_round_trip_of_unseen_clips(codec):
    video = videos("test")
    latents = encode_video(codec, video)
    assert latents.shape == (32, 16, 5, 6, 6)
    assert psnr(decode_latents(codec, latents), video) > 25


def test_more_channels_lose_less(codec):
    video = videos("test")
    full = fit_pca(videos("train"), channels=48)
    better, worse = (psnr(decode_latents(c, encode_video(c, video)), video) for c in (full, codec))
    assert better > worse + 3


def test_latents_are_normalised_on_what_was_fitted(codec):
    latents = encode_video(codec, videos("train"))
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-3
    assert torch.allclose(latents.std((0, 2, 3, 4)), torch.ones(16), atol=1e-3)


def test_causal_a_later_frame_changes_no_earlier_latent(codec):
    video = videos("test")[:2]
    changed = video.clone()
    changed[:, :, 9:] = -1
    a, b = encode_video(codec, video), encode_video(codec, changed)
    assert torch.equal(a[:, :, :3], b[:, :, :3])
    assert not torch.equal(a[:, :, 3:], b[:, :, 3:])


def test_first_frame_is_coded_alone_and_like_what_follows(codec):
    video = videos("test")
    still = video[:, :, :1].expand(-1, -1, 5, -1, -1)
    latents = encode_video(codec, still)
    similarity = torch.nn.functional.cosine_similarity(latents[:, :, 0].flatten(1), latents[:, :, 1].flatten(1))
    assert similarity.mean() > 0.6  # 0 for bases that know nothing of each other
    assert torch.allclose(encode_video(codec, video[:, :, :1])[:, :, 0], latents[:, :, 0], atol=1e-5)


def test_saved_and_loaded_it_is_the_same(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    latents = encode_video(codec, videos("validation"))
    assert torch.equal(decode_latents(loaded, latents), decode_latents(codec, latents))
    assert latent_scale(loaded) == latent_scale(codec)


def test_fitting_is_deterministic(codec):
    again = fit_pca(videos("train"), channels=16)
    assert all(torch.equal(a, b) for a, b in zip(codec.parameters(), again.parameters(), strict=True))


def test_pixels_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1).repeat(3, -1)
    assert (to_pixels(from_pixels(pixels)) == pixels).all()


@pytest.mark.parametrize(("frames", "height"), [(8, 24), (9, 23)])
def test_what_does_not_fit_is_refused(codec, frames, height):
    with pytest.raises(HarnessError, match="does not fit the VAE"):
        codec.encode(torch.zeros(1, 3, frames, height, 24))
    with pytest.raises(HarnessError, match=r"frames must be 1 \+ 4k"):
        check_geometry(80, 480, 832)


def test_a_folder_without_a_vae(tmp_path):
    with pytest.raises(HarnessError, match="no such file"):
        load_vae(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    with pytest.raises(HarnessError, match="AutoencoderTiny"):
        load_vae(tmp_path)


def test_the_real_vae_class_goes_through_the_same_functions(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[2.0] * 4
    )
    vae.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    assert isinstance(loaded, AutoencoderKLWan)
    video = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    latents = encode_video(loaded, video)
    raw = vae.encode(video).latent_dist.mode()
    assert torch.allclose(latents, (raw - 0.1) / 2, atol=1e-5)
    assert decode_latents(loaded, latents).shape == video.shape


def test_the_vae_of_wan_2_2_goes_through_the_same_functions(tmp_path):
    """16×16 pixels per latent: residual blocks, and patches of 2×2 pixels as channels."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=6,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.1] * 6,
        latents_std=[2.0] * 6,
    )
    vae.save_pretrained(tmp_path)
    loaded, video = load_vae(tmp_path), torch.rand(1, 3, 9, 32, 64) * 2 - 1
    latents = encode_video(loaded, video)
    assert latents.shape == (1, 6, 3, 2, 4)
    assert decode_latents(loaded, latents).shape == video.shape


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_frame_from_the_middle_becomes_the_first_of_a_clip(codec, length):
    latents = encode_video(codec, videos("test"))
    image = as_first_latent(codec, latents[:, :, :length])
    last = videos("test")[:, :, [4 * (length - 1)]]
    assert image.shape == (32, 16, 1, 6, 6)
    assert psnr(decode_latents(codec, image), last) > 22
    if length > 1:  # the latent itself stands for four frames: read as an image it is another
        assert psnr(decode_latents(codec, latents[:, :, length - 1 : length]), last) < 21


def test_a_clip_that_begins_with_such_a_frame_is_like_a_real_one(codec):
    """Frames 4…16 of a clip, encoded as a clip, against the same frames cut out of the latents of the whole."""
    video = videos("test")
    latents, wanted = encode_video(codec, video), encode_video(codec, video[:, :, 4:])
    clip = torch.cat([as_first_latent(codec, latents[:, :, :2]), latents[:, :, 2:]], dim=2)
    assert torch.allclose(clip[:, :, 1:], wanted[:, :, 1:], atol=1e-5)
    distance = (clip[:, :, 0] - wanted[:, :, 0]).square().mean()
    assert distance < 0.5 * (latents[:, :, 1] - wanted[:, :, 0]).square().mean()


def test_an_image_is_made_in_the_codecs_precision_and_type(codec):
    latents = encode_video(codec, videos("test"))[:2, :, :3]
    with torch.autocast("cpu", torch.bfloat16):
        under = as_first_latent(codec, latents)
    assert torch.equal(under, as_first_latent(codec, latents))
    assert as_first_latent(codec, latents.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_the_real_vae_makes_an_image_too():
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    latents = torch.randn(1, 4, 2, 4, 4)
    vae.register_to_config(latents_mean=[0.1] * 4, latents_std=[2.0] * 4)
    image = as_first_latent(vae, latents)
    assert image.shape == (1, 4, 1, 4, 4)
    assert torch.equal(image, encode_video(vae, decode_latents(vae, latents)[:, :, 4:]))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("config.json", b"[1]", r"config\.json: holds \[1\], expected an object"),
        ("config.json", b"{}", r"config\.json: has no _class_name"),
        ("config.json", b"\xff\xfe", r"config\.json: cannot be read"),
        ("diffusion_pytorch_model.safetensors", b"garbage", "the VAE cannot be read .*Run `dvc checkout`"),
        ("diffusion_pytorch_model.safetensors", None, "the VAE cannot be read .*Run `dvc checkout`"),
    ],
)
def test_a_damaged_vae_is_named(codec, tmp_path, name, content, what):
    codec.save_pretrained(str(tmp_path), safe_serialization=True)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HarnessError, match=what):
        load_vae(tmp_path)
