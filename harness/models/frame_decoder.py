"""Latents → frames, a few at a time: what a whole clip's decoding gives, as soon as each part of it is known.

Both VAEs are causal: a frame depends on its own latent and on earlier ones. So a clip can be decoded while it is being
made. Every latent frame goes through the VAE alone, so the result does not depend on where the clip was cut, to the
last bit; against `decode_latents`, which maps all frames at once before it goes through them, it differs by rounding.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from torch import Tensor

from harness.errors import HarnessError
from harness.models.codec import VAE, PCACodec, decode_latents, latent_scale


def in_tiles(vae: VAE) -> bool:
    """Whether tiling or slicing is turned on, which decodes whole clips only."""
    return isinstance(vae, AutoencoderKLWan) and (vae.use_tiling or vae.use_slicing)


def decode_clip(vae: VAE, latents: Tensor) -> Tensor:
    """Whole clips `[B, C, F', h, w]`, bit for bit as they are streamed; in tiles where the VAE is set to."""
    return decode_latents(vae, latents) if in_tiles(vae) else FrameDecoder(vae).decode(latents)


class FrameDecoder:
    """Decodes one batch of clips in order. It keeps the past that it needs itself, so the VAE stays free for others.

    Raises HarnessError for a VAE with tiling or slicing turned on, whose decoding is not frame by frame.
    """

    def __init__(self, vae: VAE) -> None:
        if in_tiles(vae):
            raise HarnessError(
                "the VAE decodes in tiles or slices, which needs the whole clip: call disable_tiling() and "
                "disable_slicing() on it, or make the whole clip instead of streaming it"
            )
        self.vae = vae
        self.frames = 0  # latent frames decoded so far
        self._first: Tensor | None = None
        self._past: list[Tensor | str | None] = []

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The next latents `[B, C, f, h, w]`, normalised → video `[B, 3, F, H, W]` in [−1, 1].

        F is 4 f, less 3 at the start of the clip: its first latent frame is one frame of video.
        """
        pieces = self._wan(latents) if isinstance(self.vae, AutoencoderKLWan) else self._pca(self.vae, latents)
        self.frames += latents.shape[2]
        return pieces

    def _pca(self, vae: PCACodec, latents: Tensor) -> Tensor:
        if self._first is None:
            self._first = latents[:, :, :1]
            return decode_latents(vae, latents)
        return decode_latents(vae, torch.cat([self._first, latents], dim=2))[:, :, 1:]

    def _wan(self, latents: Tensor) -> Tensor:
        """As `AutoencoderKLWan.decode`, with the convolutions' past kept from one call to the next."""
        vae = cast(Any, self.vae)
        mean, std = latent_scale(self.vae).tensors(latents)
        if hook := getattr(vae, "_hf_hook", None):  # what `decode` does for a VAE that waits in host memory
            hook.pre_forward(vae)
        raw = latents * std + mean
        if self.frames == 0:
            self._past = [None] * vae._cached_conv_counts["decoder"]
        pieces = [
            vae.decoder(
                vae.post_quant_conv(raw[:, :, i : i + 1]),
                feat_cache=self._past,
                feat_idx=[0],
                first_chunk=self.frames == 0 and i == 0,
            )
            for i in range(raw.shape[2])
        ]
        video = torch.cat(pieces, dim=2)
        if vae.config.patch_size is not None:
            video = unpatchify(video, patch_size=vae.config.patch_size)
        return video.clamp(-1, 1)
