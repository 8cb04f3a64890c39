"""A text-to-video network made image to video, so that training can begin where text to video ended.

The image's parts are added so that they say nothing at first: the new input channels have weights of zero, and so have
the values of the image tokens. The network computes what it did, whatever the image; gradients reach the zeros at once
and, through them, the rest.
"""

from __future__ import annotations

import torch
from attrs import asdict

from harness.errors import HarnessError
from harness.models.causal_wan import CausalWan
from harness.models.presets import WanGeometry

MASK_CHANNELS = 4  # of `y`: one for each pixel frame behind a latent one (Wan2.1, arXiv 2503.20314)


def image_channels(out_channels: int, image_dim: int | None) -> int:
    """Input channels that belong to the image: mask and latent of `y`; 0 for a text-to-video network."""
    return 0 if image_dim is None else MASK_CHANNELS + out_channels


@torch.no_grad()
def widen(model: CausalWan, geometry: WanGeometry) -> CausalWan:
    """A network of `geometry`, which reads an image, with the weights of `model`, which does not.

    Input channels are the noisy latent, `y`, positions: the weights of the positions move behind the new ones. The
    image embedding and the keys of the image tokens are drawn from torch's global generator (seed it first). Parameters
    are float32.

    Raises:
        HarnessError: the two differ in more than the image's parts, or `geometry` reads no image.
    """
    wanted, latent = asdict(geometry), geometry.out_channels
    own = {key: model.config[key] for key in wanted}
    image = image_channels(latent, geometry.image_dim)
    expected = wanted | {"in_channels": geometry.in_channels - image, "image_dim": None, "added_kv_proj_dim": None}
    different = [key for key in wanted if _plain(own[key]) != _plain(expected[key])]
    if different or not image:
        shown = ", ".join(f"{key} is {own[key]}, expected {expected[key]}" for key in different)
        raise HarnessError(f"cannot be made an image-to-video network: {shown or 'the geometry reads no image'}")
    wider = CausalWan(**wanted)
    state = dict(model.state_dict())
    old = state["patch_embedding.weight"]  # [dim, channels, 1, height, width]
    new = old.new_zeros(wider.patch_embedding.weight.shape)
    new[:, :latent] = old[:, :latent]
    new[:, latent + image :] = old[:, latent:]
    state["patch_embedding.weight"] = new
    for name, parameter in wider.named_parameters():
        if name not in state:
            state[name] = torch.zeros_like(parameter) if ".add_v_proj." in name else parameter
    wider.load_state_dict(state, strict=True)
    return wider.train(model.training)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
