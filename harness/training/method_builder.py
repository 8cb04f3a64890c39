"""From a run's configuration to its method: which weights go into which network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from composer.models import ComposerModel

from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.methods.causal_sft import CausalSFT
from harness.methods.dmd import DMD
from harness.methods.sft import SFT
from harness.models.attention_backend import check_backend, set_backend
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_model
from harness.models.presets import build_model, geometry
from harness.seeding import seed_for
from harness.training.inputs import critic_folder, init_folder, teacher_folder

INPUTS = ("in_channels", "out_channels", "text_dim", "patch_size")  # what all networks of a run must have in common


def initial_generator(config: RunConfig, root: Path) -> CausalWan:
    """The generator before training: random weights named by the seed, or those of the declared folder.

    Raises:
        HarnessError: the folder is missing, damaged, or holds a model of another size.
    """
    folder = init_folder(config, root)
    if folder is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed_for(config.seed, "init"))
            return build_model(config.model)
    return _checked(load_model(folder, dtype=torch.float32), config, folder)


def _checked(model: CausalWan, config: RunConfig, folder: Path) -> CausalWan:
    return _require(model, config, folder, ("num_layers", "num_attention_heads", "attention_head_dim", *INPUTS))


def _same_inputs(model: CausalWan, config: RunConfig, folder: Path) -> CausalWan:
    return _require(model, config, folder, INPUTS)


def _require(model: CausalWan, config: RunConfig, folder: Path, keys: Sequence[str]) -> CausalWan:
    wanted = geometry(config.model)
    for key in keys:
        if _plain(model.config[key]) != _plain(getattr(wanted, key)):
            raise HarnessError(
                f"{folder / 'config.json'}: {key} is {model.config[key]}, `model: {config.model}` has "
                f"{getattr(wanted, key)}; choose the preset that made it, or another folder"
            )
    return model


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def build_method(config: RunConfig, root: Path) -> ComposerModel:
    """The method with its networks, on the CPU, in float32.

    DMD's critic starts from the teacher's weights, or from those that `critic` names. Critic and teacher may be of
    other sizes than the generator, but read the same latents and texts.

    Raises:
        HarnessError: weights are missing or do not fit, or the attention back end cannot be used.
    """
    check_backend(config.attention_backend, precision=config.precision, training=True)
    generator = initial_generator(config, root)
    set_backend(generator, config.attention_backend)
    if config.method == "sft":
        return SFT(generator, config.sft)
    if config.method == "causal_sft":
        return CausalSFT(generator, config.causal_sft, config.rollout.frames_per_block)
    critic, score = (
        _same_inputs(load_model(folder, dtype=torch.float32), config, folder)
        for folder in (critic_folder(config, root), teacher_folder(config, root))
    )
    set_backend(critic, config.attention_backend)
    set_backend(score, config.attention_backend)
    return DMD(generator, critic, score, config.dmd, config.rollout)
