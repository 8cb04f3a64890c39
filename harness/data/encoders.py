"""The frozen networks that turn pixels and words into tensors: `checkpoints/encoders/{vae,text_encoder,tokenizer}`, and
for image to video `{image_encoder,image_processor}`.

Made here for the small preset (a PCA codec fitted in closed form on training clips; a UMT5 encoder with random
weights and a word-level tokenizer over the training captions; a CLIP vision tower with random weights), or copied from
the folders that the preset names (Wan's).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from harness.config.load import load_params
from harness.config.schema import EncodersConfig
from harness.data.mds import disk_errors_named, iter_samples, new_folder
from harness.errors import HarnessError
from harness.models.codec import fit_pca, from_pixels, load_vae
from harness.models.image import PROCESSOR_FILE, load_image_encoder, processor_folder, random_clip
from harness.models.text import load_text_encoder, random_umt5, tokenizer_folder, word_tokenizer, words_of

PCA_CLIPS = 256  # the bases have a few thousand numbers: more clips change nothing


def make_encoders(config: EncodersConfig, clips: str | Path, out: str | Path = "checkpoints/encoders") -> None:
    """Write `out/{vae,text_encoder,tokenizer}`, and `out/{image_encoder,image_processor}` where `config` has an image
    encoder; `clips` is `data/clips`. The same settings and clips give the same bytes.

    Raises:
        HarnessError: a named folder is missing or does not fit `config` (latent channels, text or image width), or no
            clips.
    """
    with disk_errors_named(out, "Free space and run it again"), new_folder(out) as work:
        train = Path(clips) / "train"
        _make_vae(config, train, work / "vae")
        _make_text(config, train, work / "text_encoder", work / "tokenizer")
        if config.image_encoder is not None:
            _make_image(config, config.image_encoder, train, work / "image_encoder", work / "image_processor")
        _check(config, work)


def _make_vae(config: EncodersConfig, train: Path, out: Path) -> None:
    if config.vae != "pca":
        shutil.copytree(_named_folder("encoders.vae", config.vae, "vae"), out)
        return
    videos = np.stack([sample["video"] for sample in iter_samples(train, stop=PCA_CLIPS)])
    codec = fit_pca(
        from_pixels(videos),
        channels=config.latent_channels,
        spatial_factor=config.spatial_factor,
        temporal_factor=config.temporal_factor,
    )
    codec.save_pretrained(str(out), safe_serialization=True)


def _make_text(config: EncodersConfig, train: Path, encoder_out: Path, tokenizer_out: Path) -> None:
    if config.text_encoder != "random_umt5":
        folder = _named_folder("encoders.text_encoder", config.text_encoder, "text_encoder")
        shutil.copytree(tokenizer_folder(folder), tokenizer_out)
        shutil.copytree(folder, encoder_out)
        return
    words = words_of(sample["caption"] for sample in iter_samples(train))
    tokenizer = word_tokenizer(words, config.text_length)
    tokenizer.save_pretrained(str(tokenizer_out))
    model = random_umt5(len(tokenizer), dim=config.text_dim, layers=config.text_layers, seed=config.seed)
    model.save_pretrained(str(encoder_out), safe_serialization=True)


def _make_image(config: EncodersConfig, name: str, train: Path, encoder_out: Path, processor_out: Path) -> None:
    if name != "random_clip":
        folder = _named_folder("encoders.image_encoder", name, "image_encoder")
        shutil.copytree(folder, encoder_out)
        processor_out.mkdir()
        file = processor_folder(folder) / PROCESSOR_FILE  # alone: the processor may lie among the weights
        shutil.copyfile(file, processor_out / PROCESSOR_FILE)
        return
    height, width = next(iter_samples(train, stop=1))["video"].shape[1:3]
    encoder = random_clip(min(height, width), dim=config.image_dim, layers=config.image_layers, seed=config.seed)
    encoder.model.save_pretrained(str(encoder_out), safe_serialization=True)
    encoder.processor.save_pretrained(str(processor_out))


def _named_folder(key: str, value: str, part: str) -> Path:
    """The folder a preset names: that of the part itself, or of a whole diffusers pipeline that has the part."""
    folder = Path(value)
    for candidate in (folder / part, folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise HarnessError(
        f"{key}: {value}: no `config.json` there nor in {folder / part}. Expected a folder saved by diffusers or "
        f"transformers (for Wan: download the model first and name its folder)"
    )


def _check(config: EncodersConfig, folder: Path) -> None:
    vae = load_vae(folder / "vae")
    if vae.config["z_dim"] != config.latent_channels:
        raise HarnessError(
            f"encoders.latent_channels is {config.latent_channels}, the VAE in {config.vae} has {vae.config['z_dim']}"
        )
    text = load_text_encoder(folder / "text_encoder", folder / "tokenizer", max_length=config.text_length)
    if text.dim != config.text_dim:
        raise HarnessError(
            f"encoders.text_dim is {config.text_dim}, the text encoder in {config.text_encoder} has {text.dim}"
        )
    if config.image_encoder is None:
        return
    image = load_image_encoder(folder / "image_encoder", folder / "image_processor")
    if image.dim != config.image_dim:
        raise HarnessError(
            f"encoders.image_dim is {config.image_dim}, the image encoder in {config.image_encoder} has {image.dim}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """`encoders`: make or copy the VAE, the text encoder with its tokenizer, and the image encoder."""
    parser = argparse.ArgumentParser(prog="python -m harness encoders", description=main.__doc__)
    parser.add_argument("--params", default="params.yaml", help="file with the presets")
    parser.add_argument("--clips", default="data/clips", help="prepared clips: the codec is fitted on them")
    parser.add_argument("--out", default="checkpoints/encoders", help="folder to write")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # the order of sums is part of the result
    make_encoders(load_params(arguments.params).preset.encoders, arguments.clips, arguments.out)
    parts = ", ".join(sorted(folder.name for folder in Path(arguments.out).iterdir()))
    print(f"{arguments.out}: {parts} are ready", file=sys.stderr)
    return 0
