"""First frames → CLIP tokens: the image encoder of Wan2.1 image to video, in transformers folders.

Wan's encoder is the vision tower of open_clip's XLM-RoBERTa CLIP ViT-H/14 at 224 pixels; its folder holds a
`CLIPVisionModel` of 32 layers, 1280 wide. The tokens are the hidden states before the last layer, unnormalised, class
token first: 257 × 1280. Preprocessing is that of the folder's processor, as in diffusers' pipeline: shorter side to
224, center crop. (The original code squeezes the whole frame into the square instead, on float pixels.)

The small preset has the same classes with random weights (`random_clip`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from harness.errors import HarnessError

PROCESSOR_FILE = "preprocessor_config.json"
PATCH = 4  # pixels, of `random_clip`: a digit covers nine patches
HEADS = 4  # of `random_clip`


@frozen
class ImageEncoder:
    """A frozen vision tower with its image processor."""

    processor: CLIPImageProcessor
    model: CLIPVisionModel

    @property
    def dim(self) -> int:
        """Width of one token."""
        return self.model.config.hidden_size

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, the class token included."""
        return (self.model.config.image_size // self.model.config.patch_size) ** 2 + 1


def random_clip(image_size: int, *, dim: int, layers: int, seed: int) -> ImageEncoder:
    """A frozen CLIP vision tower with random weights that depend on the arguments only, for square images of
    `image_size` pixels: (image_size / 4)² + 1 tokens, `dim` wide.

    Raises:
        HarnessError: `dim` is not a multiple of the heads, or `image_size` is none of the patches.
    """
    if dim % HEADS:
        raise HarnessError(
            f"encoders.image_dim is {dim}, expected a multiple of {HEADS} for `image_encoder: random_clip`"
        )
    if image_size % PATCH:
        raise HarnessError(
            f"the smaller side of a clip is {image_size} pixels, expected a multiple of {PATCH} for "
            "`image_encoder: random_clip`; change data.height or data.width"
        )
    config = CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        image_size=image_size,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPVisionModel(config)
    # Initialised as trained models are, a position is a seventh of a patch: with random weights it must count as much.
    position = model.vision_model.embeddings.position_embedding.weight
    position.data.mul_((3 * PATCH**2) ** 0.5)
    square = {"height": image_size, "width": image_size}
    processor = CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=square)
    return ImageEncoder(processor, model.eval().requires_grad_(False))


def processor_folder(image_encoder: str | Path) -> Path:
    """Where the processor of an image encoder folder lies: beside it under the name `image_processor`, as in a
    diffusers pipeline, else inside it.

    Raises:
        HarnessError: it is in neither place.
    """
    folder = Path(image_encoder)
    for candidate in (folder.parent / "image_processor", folder):
        if (candidate / PROCESSOR_FILE).is_file():
            return candidate
    raise HarnessError(
        f"{folder}: no image processor found. Expected `{PROCESSOR_FILE}` in "
        f"{folder.parent / 'image_processor'} or in the folder itself; copy the processor of the same model there"
    )


def load_image_encoder(folder: str | Path, processor: str | Path | None = None) -> ImageEncoder:
    """A CLIP vision tower and its processor from local transformers folders, frozen, in the precision in which they
    were saved.

    Raises:
        HarnessError: a folder is missing, is of another kind, its weights cannot be read, or the processor makes images
            of another size than the model reads.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise HarnessError(
            f"{folder / 'config.json'}: no such file. Expected a transformers folder of a CLIP vision model "
            f"(`image_encoder/` of an image-to-video checkpoint); "
            "`dvc repro encoders` makes or copies the preset's"
        )
    processor = Path(processor) if processor is not None else processor_folder(folder)
    try:
        config = CLIPVisionConfig.from_pretrained(str(folder), local_files_only=True)
        if config.model_type != "clip_vision_model":
            raise HarnessError(
                f"{folder / 'config.json'}: model_type is {config.model_type!r}, expected 'clip_vision_model'"
            )
        model, info = CLIPVisionModel.from_pretrained(  # type: ignore[misc]
            str(folder),
            config=config,
            local_files_only=True,
            dtype="auto",
            use_safetensors=True,
            output_loading_info=True,
        )
        images = CLIPImageProcessor.from_pretrained(str(processor), local_files_only=True)
    except HarnessError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds for a damaged file
        raise HarnessError(
            f"{folder}: cannot be read as a CLIP vision model with processor {processor} ({error})"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise HarnessError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}; copy the folder again"
        )
    size = images.crop_size if images.do_center_crop else images.size
    if (size.get("height"), size.get("width")) != (config.image_size, config.image_size):
        raise HarnessError(
            f"{processor / PROCESSOR_FILE}: images become {dict(size)}, the model in {folder} reads "
            f"{config.image_size}×{config.image_size}; give the processor of the same model"
        )
    return ImageEncoder(images, model.eval().requires_grad_(False))


@torch.no_grad()
def encode_images(encoder: ImageEncoder, images: Tensor) -> Tensor:
    """CLIP tokens `[B, T, D]`, float32 on the CPU, of images uint8 `[B, H, W, 3]` of any size.

    Raises:
        HarnessError: the images are not uint8 `[B, H, W, 3]`: floats would be scaled twice.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise HarnessError(f"images must be uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")
    pixels = encoder.processor(
        images=list(images.cpu().numpy()), return_tensors="pt", input_data_format="channels_last"
    )
    values = pixels["pixel_values"].to(device=encoder.model.device, dtype=encoder.model.dtype)
    states = encoder.model(pixel_values=values, output_hidden_states=True).hidden_states
    return states[-2].float().cpu()
