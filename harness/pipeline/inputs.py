"""A person's words and pictures → the parts of the Condition that the networks were trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils.logging import get_logger
from PIL import Image
from torch import Tensor

from harness.data.conditions import image_condition
from harness.data.pictures import fit_picture, read_picture
from harness.errors import HarnessError
from harness.models.codec import VAE, encode_video, from_pixels
from harness.models.image import ImageEncoder
from harness.models.text import TextEncoder, encode_prompt
from harness.pipeline.schedule import Cue, check_cues

Picture = Image.Image | np.ndarray | str | Path
Prompts = str | Sequence[str] | Sequence[tuple[int, str]]
logger = get_logger(__name__)


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


def read_prompts(prompt: Prompts) -> tuple[list[str], tuple[Cue, ...]]:
    """The first prompt of each clip; and the cues of one clip whose prompt changes.

    Raises HarnessError for an empty list, and prompts of which only some have a frame.
    """
    given = [prompt] if isinstance(prompt, str) else list(prompt)
    if not given:
        raise HarnessError("prompt: an empty list; give one for each clip")
    texts = [one for one in given if isinstance(one, str)]
    if len(texts) == len(given):
        return texts, ()
    if texts:
        raise HarnessError(f"prompt: {texts[0]!r} has no frame; expected (frame, prompt) for every prompt of a clip")
    cues = check_cues([Cue(int(frame), str(text)) for frame, text in given])
    return [cues[0].prompt], cues


def prompt_vectors(encoder: TextEncoder, prompt: str) -> Tensor:
    """Vectors `[L, D]` of a prompt; what of it is lost is logged. Raises HarnessError for an empty one."""
    if not prompt.strip():
        raise HarnessError("an empty prompt: say what the video shows")
    encoded = encode_prompt(encoder, prompt)
    if encoded.truncated:
        logger.warning(f'"{prompt}": longer than {encoder.max_length} tokens, its end was cut off')
    if encoded.unknown_words:
        logger.warning(f'"{prompt}": {encoded.unknown_words} of its words are unknown to the tokenizer')
    return encoded.vectors


def read_images(
    image: Picture | Sequence[Picture] | None, count: int, height: int, width: int, *, wanted: bool
) -> Tensor | None:
    """The pictures of `count` clips, uint8 `[count, height, width, 3]`, or None for text to video.

    Raises HarnessError for pictures that are missing, not `wanted`, or not one, or one for each clip.
    """
    if image is None:
        if wanted:
            raise HarnessError("image: this generator makes video from a picture; give one")
        return None
    if not wanted:
        raise HarnessError("image: this generator makes video from text alone, it would not see the picture")
    given: list[Any] = list(image) if isinstance(image, (list, tuple)) else [image]
    if len(given) not in (1, count):
        raise HarnessError(f"image: {len(given)} pictures for {count} prompts; give one, or one for each prompt")
    pictures = [picture_pixels(one, height, width) for one in given]
    return torch.from_numpy(np.stack(pictures * (count // len(pictures))))


def picture_pixels(image: Picture, height: int, width: int) -> np.ndarray:
    """One picture in any of the accepted forms, uint8 `[height, width, 3]`; what was changed is logged.

    Raises HarnessError for what is no picture.
    """
    if isinstance(image, (str, Path)):
        picture = read_picture(image, height, width)
    elif isinstance(image, Image.Image):
        picture = fit_picture(image, height, width)
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        picture = fit_picture(Image.fromarray(image), height, width)
    else:
        raise HarnessError(f"image: expected a PIL image, uint8 [H, W, 3] or a file's name, got {type(image).__name__}")
    for note in picture.notes:
        logger.warning(note)
    return picture.pixels
