"""A picture → everything that a network can be told of it: the same for the encode stage and for sampling."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from harness.models.codec import VAE, from_pixels
from harness.models.image import ImageEncoder, encode_images
from harness.models.reference_latent import factors, reference_latent


@frozen(eq=False, kw_only=True)
class ImageCondition:
    """What images give a clip, float32 on the CPU; the fields are those of `harness.models.condition.Condition`.

    image_tokens   `[B, T, D]` CLIP tokens
    y              `[B, 4 + C, F, h, w]` mask and latent of the image followed by nothing
    first_latent   `[B, C, 1, h, w]` the image's own latent, which is the first of `y`'s
    """

    image_tokens: Tensor
    y: Tensor
    first_latent: Tensor


def image_condition(vae: VAE, image_encoder: ImageEncoder, images: Tensor, latent_frames: int) -> ImageCondition:
    """The conditions of clips of `latent_frames` that start at `images`, uint8 `[B, H, W, 3]` of the clips' size.

    Raises:
        HarnessError: the images are of another type or shape, or their size does not fit the VAE.
    """
    tokens = encode_images(image_encoder, images)
    pixels = from_pixels(images.cpu().numpy()[:, None])[:, :, 0].to(next(vae.parameters()))
    _, temporal = factors(vae)
    y = reference_latent(vae, pixels, 1 + temporal * (latent_frames - 1)).float().cpu()
    return ImageCondition(image_tokens=tokens, y=y, first_latent=y[:, temporal:, :1].clone())
