"""A small project folder for using I2V and T2V generators: real classes, random weights, no clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from harness.io import write_json
from harness.models.checkpoint import save_model
from harness.models.codec import fit_pca
from harness.models.presets import build_model
from harness.models.text import random_umt5, word_tokenizer

SIZE, FRAMES, TEXT_LENGTH, TEXT_DIM = 24, 9, 12, 64  # 3 latent frames of 6 × 6
LATENT = (16, 3, 6, 6)
WORDS = ["a", "red", "blue", "1", "7", "moving", "left", "up", "quickly", "slowly"]
WAYS = {"none": "tiny", "channels": "tiny-i2v", "first_latent": "tiny", "both": "tiny-i2v"}
_ADAM = {"optimizer": {"lr": 0.001}}
PARAMS = {
    "preset": "small",
    "seeds": [0],
    "presets": {
        "small": {
            "data": {
                "source": "moving_digits",
                "height": SIZE,
                "width": SIZE,
                "frames": FRAMES,
                "clips": {"train": 4, "validation": 4, "test": 4},
            },
            "encoders": {
                "text_length": TEXT_LENGTH,
                "text_dim": TEXT_DIM,
                "position_channels": True,
                "image_encoder": "random_clip",
                "image_dim": 64,
            },
            "evaluators": {"steps": 1},
            "evaluation": {"clips": 4, "teacher_steps": 2},
            "run": {
                "model": "tiny",
                "frames": LATENT[1],
                "rollout": {"frames_per_block": 1, "denoising_steps": [1000, 500], "shift": 3.0},
                "sft": {"updates": 1, **_ADAM},
                "causal_sft": {"updates": 1, **_ADAM},
                "dmd": {
                    "generator_updates": 1,
                    "generator_optimizer": {"lr": 0.001},
                    "critic_optimizer": {"lr": 0.001},
                },
                "monitor": {"clips": 4},
            },
            "i2v": {"model": "tiny-i2v", "teacher": "checkpoints/teacher_i2v"},
        }
    },
}


def target(way: str) -> str:
    """The DMD run that gives the image in this way."""
    return f"ways/{way}/seed0"


def random_model(name: str, seed: int):
    """A network of a preset whose every input changes its output."""
    torch.manual_seed(seed)
    model = build_model(name)
    with torch.no_grad():  # the output layer and what image inputs add would start at zero or hardly matter
        torch.nn.init.normal_(model.proj_out.weight, std=0.05)
        torch.nn.init.normal_(model.patch_embedding.weight, std=0.1)
    return model.eval()


def save_encoders(folder: Path) -> None:
    """A codec fitted on noise with some structure, a random text encoder, a random CLIP tower of 24 pixels."""
    torch.manual_seed(0)
    coarse = torch.rand(8, 3, FRAMES, 6, 6) * 2 - 1
    fit_pca(coarse.repeat_interleave(4, 3).repeat_interleave(4, 4), channels=LATENT[0]).save_pretrained(folder / "vae")
    tokenizer = word_tokenizer(WORDS, TEXT_LENGTH)
    tokenizer.save_pretrained(folder / "tokenizer")
    random_umt5(len(tokenizer), dim=TEXT_DIM, layers=1, seed=0).save_pretrained(folder / "text_encoder")
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=8,
    )
    torch.manual_seed(1)
    CLIPVisionModel(vision).save_pretrained(folder / "image_encoder")
    size = {"height": SIZE, "width": SIZE}
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size).save_pretrained(folder / "image_processor")


def make_project(root: Path) -> Path:
    """Write params.yaml, an experiment with an arm for each way, encoders, the data's fingerprint and networks."""
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    arms = {way: {"label": way, "set": {"rollout.image_conditioning": way, "model": WAYS[way]}} for way in WAYS}
    experiment = {
        "schema": 1,
        "name": "ways",
        "seeds": [0],
        "varied": ["rollout.image_conditioning", "model"],
        "fixed": {"method": "dmd"},
        "arms": arms,
    }
    (root / "experiments/ways").mkdir(parents=True)
    (root / "experiments/ways/experiment.yaml").write_text(yaml.safe_dump(experiment))
    save_encoders(root / "checkpoints/encoders")
    fingerprint = {
        "schema": 1,
        "text_length": TEXT_LENGTH,
        "latent_shape": list(LATENT),
        "frames": FRAMES,
        "position_channels": True,
    }
    write_json(root / "data/encoded/fingerprint.json", fingerprint)
    save_file({"text": torch.zeros(1, TEXT_DIM)}, root / "data/encoded/unconditional.safetensors")
    targets = {target(way): model for way, model in WAYS.items()}
    targets |= {"teacher": "tiny", "teacher_i2v": "tiny-i2v", "causal_sft_i2v/both/seed0": "tiny-i2v"}
    for seed, (name, model) in enumerate(targets.items()):
        save_model(random_model(model, seed), root / "checkpoints" / name / "model")
    return root


def photo(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    """A picture with smooth colors, saved as its suffix says."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path
