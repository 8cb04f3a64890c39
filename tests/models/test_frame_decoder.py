"""Frames decoded a few at a time are those of the whole clip, bit for bit, for both VAEs."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan

from harness.errors import HarnessError
from harness.models.codec import PCACodec, decode_latents
from harness.models.frame_decoder import FrameDecoder, decode_clip


def pca() -> PCACodec:
    torch.manual_seed(0)
    codec = PCACodec(z_dim=4, latents_mean=[0.1, 0.0, -0.2, 0.3], latents_std=[1.0, 2.0, 0.5, 1.5])
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return codec


def wan(channels: int = 4, **other) -> AutoencoderKLWan:
    torch.manual_seed(0)
    sizes = {"base_dim": 8, "z_dim": channels, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    repeats = channels // 4
    scale = {"latents_mean": [0.1, -0.2, 0.3, 0.0] * repeats, "latents_std": [2.0, 1.5, 0.7, 1.0] * repeats}
    return AutoencoderKLWan(**sizes, **scale, **other).eval()


WAN_2_2 = {"is_residual": True, "decoder_base_dim": 8, "patch_size": 2, "in_channels": 12, "out_channels": 12}
VAES = {"pca": pca, "wan": wan, "wan16": lambda: wan(16), "wan2.2": lambda: wan(**WAN_2_2)}


@pytest.mark.parametrize("kind", VAES)
@pytest.mark.parametrize("sizes", [(1, 2, 2), (3, 2), (2, 1, 1, 1), (5,)])
def test_pieces_are_the_whole(kind, sizes):
    vae = VAES[kind]()
    channels = vae.config["z_dim"]
    latents = torch.randn(2, channels, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = decode_clip(vae, latents)
    assert torch.allclose(whole, decode_latents(vae, latents), atol=1e-5)
    decoder, pieces = FrameDecoder(vae), []
    for block in latents.split(sizes, dim=2):
        pieces.append(decoder.decode(block))
        decode_latents(vae, torch.randn(1, channels, 2, 4, 4))  # another clip in between changes nothing
    assert [piece.shape[2] for piece in pieces] == [4 * sizes[0] - 3, *(4 * size for size in sizes[1:])]
    assert torch.equal(torch.cat(pieces, dim=2), whole)
    assert whole.std() > 0.01
    assert not whole.requires_grad


def test_a_clip_depends_on_its_past():
    """Were the past dropped between the pieces, the test above could not see it in a VAE that looks at one latent."""
    latents = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    decoder = FrameDecoder(wan())
    decoder.decode(latents[:, :, :2])
    fresh = FrameDecoder(wan())
    fresh.decode(latents[:, :, 1:2])
    assert not torch.allclose(decoder.decode(latents[:, :, 2:]), fresh.decode(latents[:, :, 2:]), atol=1e-4)


@pytest.mark.parametrize("turn_on", ["enable_tiling", "enable_slicing"])
def test_a_vae_in_tiles_or_slices_is_refused(turn_on):
    vae = wan()
    getattr(vae, turn_on)()
    with pytest.raises(HarnessError, match="decodes in tiles or slices"):
        FrameDecoder(vae)
    latents = torch.randn(2, 4, 3, 4, 4)
    assert torch.allclose(decode_clip(vae, latents), FrameDecoder(wan()).decode(latents), atol=1e-5)


def test_a_vae_that_waits_in_host_memory_is_fetched():
    vae, fetched = wan(), []
    vae._hf_hook = SimpleNamespace(pre_forward=fetched.append)
    FrameDecoder(vae).decode(torch.randn(1, 4, 1, 4, 4))
    assert fetched == [vae]
