"""Which network a checkpoint belongs to: from its config, or from its shapes and the presets; and whether it fits."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from attrs import asdict

from harness.errors import HarnessError
from harness.formats.tensor_stream import Info
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_state
from harness.models.presets import MODELS, geometry

CLASS = "WanTransformer3DModel"
Config = dict[str, Any]  # constructor arguments of that class
_ARGUMENTS = tuple(name for name in inspect.signature(CausalWan.__init__).parameters if name not in ("self", "kwargs"))
# What shapes cannot tell, and what changes no parameter.
_SHAPELESS = ("num_attention_heads", "attention_head_dim", "eps", "rope_max_seq_len")
_ORIGINAL = {  # original key → ours
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "num_heads": "num_attention_heads",
    "ffn_dim": "ffn_dim",
    "freq_dim": "freq_dim",
    "num_layers": "num_layers",
    "text_dim": "text_dim",
    "eps": "eps",
}
_TEXT_LENGTH = 512  # of Wan's text embeddings; an entry of the original config


def preset_config(name: str) -> Config:
    """The config of a preset. Raises `HarnessError` for an unknown name."""
    return asdict(geometry(name))


def config_from_shapes(infos: Mapping[str, Info], where: str) -> Config:
    """What the shapes of a network tell of its config: all but the number of heads.

    Raises:
        HarnessError: a parameter that every Wan network has is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in infos:
            raise HarnessError(f"{where}: missing parameter {name}; the checkpoint is not a whole Wan transformer")
        return infos[name].shape

    dim, in_channels, *patch = shape("patch_embedding.weight")
    embedder = "condition_embedder"
    image, key = infos.get(f"{embedder}.image_embedder.norm1.weight"), infos.get("blocks.0.attn2.add_k_proj.weight")
    blocks = {name.split(".")[1] for name in infos if name.startswith("blocks.")}
    return {
        "dim": dim,
        "in_channels": in_channels,
        "patch_size": tuple(patch),
        "out_channels": shape("proj_out.weight")[0] // math.prod(patch),
        "text_dim": shape(f"{embedder}.text_embedder.linear_1.weight")[1],
        "freq_dim": shape(f"{embedder}.time_embedder.linear_1.weight")[1],
        "ffn_dim": shape("blocks.0.ffn.net.0.proj.weight")[0],
        "num_layers": len(blocks),
        "cross_attn_norm": "blocks.0.norm2.weight" in infos,
        "image_dim": image.shape[0] if image else None,
        "added_kv_proj_dim": key.shape[1] if key else None,
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Where a config differs from a wanted one, in words; only what both say is compared."""
    found, wanted = _comparable(found), _comparable(wanted)
    return [
        f"{key} is {found[key]}, not {wanted[key]}"
        for key in sorted(found.keys() & wanted.keys())
        if found[key] != wanted[key]
    ]


def _comparable(config: Mapping[str, Any]) -> Config:
    config = dict(config)
    if {"num_attention_heads", "attention_head_dim"} <= config.keys():
        config["dim"] = config["num_attention_heads"] * config["attention_head_dim"]
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def looks_like(found: Mapping[str, Any]) -> list[str]:
    """The presets that a config, or what the shapes tell of it, agrees with."""
    return [name for name in MODELS if not differences(found, preset_config(name))]


def resemblance(found: Mapping[str, Any]) -> str:
    """A sentence: which presets it looks like, or which is nearest and how it differs."""
    if names := looks_like(found):
        return f"it looks like preset {' or '.join(names)}"
    nearest = min(MODELS, key=lambda name: len(differences(found, preset_config(name))))
    return f"it looks like no preset; nearest is {nearest} ({', '.join(differences(found, preset_config(nearest)))})"


def config_without_file(infos: Mapping[str, Info], preset: str | None, where: str) -> Config:
    """The config of bare weights: that of `preset`, or of the one whose shapes they have.

    Raises:
        HarnessError: they have the shapes of another preset, or of none.
    """
    found = config_from_shapes(infos, where)
    if preset is not None:
        refuse_other_preset(found, preset, where)
        return preset_config(preset)
    names = looks_like(found)
    if not names:
        raise HarnessError(
            f"{where}: there is no config.json, and {resemblance(found)}. Is it truncated? Else put the weights beside "
            "their config.json and give that folder"
        )
    return preset_config(names[0])


def refuse_other_preset(found: Mapping[str, Any], preset: str, where: str) -> None:
    """Raise `HarnessError` if a config, or what the shapes tell of it, is not that of `preset`."""
    if unlike := differences(found, preset_config(preset)):
        raise HarnessError(f"{where}: not of preset {preset}: {', '.join(unlike)}; {resemblance(found)}")


def config_from_diffusers(raw: Mapping[str, Any]) -> Config:
    """The constructor arguments of a `config.json` of diffusers."""
    return {key: raw[key] for key in _ARGUMENTS if key in raw}


def is_original(raw: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of the original code."""
    return {"dim", "num_heads", "num_layers"} <= raw.keys()


def config_from_original(raw: Mapping[str, Any], infos: Mapping[str, Info], where: str) -> Config:
    """Ours for a `config.json` of the original code, which leaves out what its class fixes: that comes from the shapes.

    Raises:
        HarnessError: a width that the heads do not divide, or a parameter without which the shapes say nothing.
    """
    shapes = config_from_shapes(infos, where)
    heads, dim = raw["num_heads"], raw["dim"]
    if dim % heads:
        raise HarnessError(f"{where}: dim {dim} does not divide into num_heads {heads}; config.json is damaged")
    config = {key: value for key, value in shapes.items() if key != "dim"}
    config |= {ours: raw[original] for original, ours in _ORIGINAL.items() if original in raw}
    return config | {"attention_head_dim": dim // heads}


def to_original_config(config: Mapping[str, Any]) -> Config:
    """The `config.json` of the original code for one of ours."""
    raw = {original: config[ours] for original, ours in _ORIGINAL.items()}
    if raw["text_dim"] == 4096:
        del raw["text_dim"]  # its class fixes it, and its own files leave it out
    return {
        "_class_name": "WanModel",
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "model_type": "t2v" if config["image_dim"] is None else "i2v",
        "text_len": _TEXT_LENGTH,
        **raw,
    }


def check_fit(config: Config, infos: Mapping[str, Info], where: str) -> Config:
    """The full config, if the weights are exactly those of its network; nothing is allocated.

    Raises:
        HarnessError: parameters are missing, unexpected or of another shape, with the preset that the weights look
            like; or the config describes no Wan network.
    """
    try:
        with torch.device("meta"):
            model = CausalWan(**config)
    except (TypeError, ValueError, KeyError) as error:
        raise HarnessError(f"{where}: config.json does not describe a Wan transformer ({error})") from error
    try:
        load_state(
            model, {name: torch.empty(i.shape, dtype=i.dtype, device="meta") for name, i in infos.items()}, where
        )
    except HarnessError as error:
        raise HarnessError(f"{error} {_hint(config, infos, where)}") from error
    full = {key: model.config[key] for key in _ARGUMENTS}
    return full | {"patch_size": tuple(full["patch_size"])}


def _hint(config: Config, infos: Mapping[str, Info], where: str) -> str:
    try:
        found = config_from_shapes(infos, where)
    except HarnessError:
        return "The weights are not those of a whole Wan transformer."
    wanted = f"the config is {_named(config)}"
    return f"By its shapes {resemblance(found)}; {wanted}."


def _named(config: Config) -> str:
    names = looks_like(config)
    return f"that of preset {' or '.join(names)}" if names else "of no preset"


def config_json(config: Mapping[str, Any]) -> str:
    """The text of a `config.json` that stock diffusers loads."""
    return json.dumps({"_class_name": CLASS, **config}, indent=2, sort_keys=True) + "\n"
