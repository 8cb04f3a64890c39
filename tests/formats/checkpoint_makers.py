"""Small random Wan networks, written by the libraries themselves in the layouts that the world uses."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import save_file

from harness.models.original_names import to_original

T2V = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}
I2V = {**T2V, "in_channels": 7, "image_dim": 6, "added_kv_proj_dim": 24}
State = dict[str, torch.Tensor]


def random_state(geometry: dict, seed: int = 0, dtype: torch.dtype | None = torch.float32) -> State:
    """Random values under diffusers' names; with dtype None a mix of types, as in Wan's own files."""
    with torch.device("meta"):
        shapes = WanTransformer3DModel(**geometry).state_dict()
    rng = torch.Generator().manual_seed(seed)
    mixed = {True: torch.float32, False: torch.bfloat16}
    return {
        name: torch.randn(t.shape, generator=rng).to(dtype or mixed["norm" in name or "table" in name])
        for name, t in shapes.items()
    }


def original_config(geometry: dict) -> dict:
    """A `config.json` as Wan's repositories have it."""
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": geometry["num_attention_heads"] * geometry["attention_head_dim"],
        "eps": 1e-06,
        "ffn_dim": geometry["ffn_dim"],
        "freq_dim": geometry["freq_dim"],
        "in_dim": geometry["in_channels"],
        "model_type": "i2v" if "image_dim" in geometry else "t2v",
        "num_heads": geometry["num_attention_heads"],
        "num_layers": geometry["num_layers"],
        "out_dim": geometry["out_channels"],
        "text_len": 512,
    }


def wrapped(state: State, prefix: str = "model.", inner: str = "_fsdp_wrapped_module.") -> State:
    """Original names as FSDP leaves them in a Self-Forcing checkpoint."""
    return {
        prefix + inner + name.replace("blocks.1.", f"blocks.1.{inner}_checkpoint_wrapped_module."): tensor
        for name, tensor in to_original(state).items()
    }


def make_diffusers(path: Path, state: State, geometry: dict, shard: str = "10GB") -> Path:
    """As stock diffusers saves it."""
    with torch.device("meta"):
        model = WanTransformer3DModel(**geometry)
    model.load_state_dict(state, assign=True)
    model.save_pretrained(path, max_shard_size=shard)
    return path


def make_pipeline(path: Path, state: State, geometry: dict) -> Path:
    """A diffusers pipeline: the network under `transformer/`, with other parts."""
    make_diffusers(path / "transformer", state, geometry, "20KB")
    for name in ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer.json", "model_index.json"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps({"part": name}))
    return path


def make_original(path: Path, state: State, geometry: dict) -> Path:
    """As Wan's repositories: two shards and their index."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(original_config(geometry)))
    named = to_original(state)
    names = sorted(named)
    index = {}
    for number, part in ((1, names[::2]), (2, names[1::2])):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: named[name] for name in part}, path / file)
        index |= dict.fromkeys(part, file)
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    return path


def make_single(path: Path, state: State, geometry: dict, prefix: str = "model.diffusion_model.") -> Path:
    """As ComfyUI has them."""
    save_file({prefix + name: tensor for name, tensor in to_original(state).items()}, path)
    return path


def make_self_forcing(path: Path, state: State, geometry: dict) -> Path:
    """As Self-Forcing's trainer saves them; the averaged weights are `state`, the others not."""
    raw = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"generator": wrapped(raw), "critic": wrapped(raw), "generator_ema": wrapped(state)}, path)
    return path
