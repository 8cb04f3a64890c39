"""A person's pictures → the image parts of the Condition that the networks were trained with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.data.conditions import image_condition
from harness.errors import HarnessError
from harness.models.codec import VAE, encode_video, from_pixels
from harness.models.image import ImageEncoder


def reads_image(model: Any) -> bool:
    """Whether a network takes CLIP tokens and `y`: those of image to video do."""
    return model.config["image_dim"] is not None


def image_inputs(
    vae: VAE, image_encoder: ImageEncoder | None, pictures: Tensor, latent_frames: int, *, tokens: bool
) -> dict[str, Tensor]:
    """The parts of a Condition that come from pictures, uint8 `[B, H, W, 3]` of the clip's size.

    With `tokens`: `image_tokens`, `y` over `latent_frames`, and `first_latent`. Without, for a network that reads no
    image, `first_latent` alone, which is the same: the VAE's first latent frame knows nothing of later ones.

    Raises:
        HarnessError: tokens are asked for and there is no image encoder.
    """
    if not tokens:
        still = from_pixels(pictures[:, None].numpy()).to(next(vae.parameters()))
        return {"first_latent": encode_video(vae, still).float().cpu()}
    if image_encoder is None:
        raise HarnessError(
            "the network reads an image, but there is no image encoder: give `image_encoder` and `image_processor`, or "
            "set encoders.image_encoder in the preset and run `dvc repro encoders encode`"
        )
    given = image_condition(vae, image_encoder, pictures, latent_frames)
    return {"image_tokens": given.image_tokens, "y": given.y, "first_latent": given.first_latent}
