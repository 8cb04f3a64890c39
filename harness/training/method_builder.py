"""From a run's configuration to its method: which weights go into which network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from composer.models import ComposerModel

from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.methods.causal_sft import CausalSFT
from harness.methods.sft import SFT
from harness.methods.shared_teacher import build_dmd
from harness.models.attention_backend import check_backend, set_backend
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_model
from harness.models.lora import add_adapters
from harness.models.presets import build_model, geometry
from harness.models.widening import image_channels, widen
from harness.seeding import seed_for
from harness.training.inputs import critic_folder, init_folder, teacher_folder

COMMON = ("out_channels", "text_dim", "patch_size")  # what all networks of a run must have in common
SIZE = ("num_layers", "num_attention_heads", "attention_head_dim")


def initial_generator(config: RunConfig, root: Path) -> CausalWan:
    """The generator before training: random weights named by the seed, or those of the declared folder.

    A text-to-video network where `model` names an image-to-video one is widened: it computes what it did, until it is
    trained.

    Raises:
        HarnessError: the folder is missing, damaged, or holds a model of another size.
    """
    folder = init_folder(config, root)
    if folder is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed_for(config.seed, "init"))
            return build_model(config.model)
    model = _require(load_model(folder, dtype=torch.float32), config, folder, (*SIZE, *COMMON))
    if geometry(config.model).image_dim is not None and model.config["image_dim"] is None:
        model = _widened(model, config, folder)
    return _require(model, config, folder, ("in_channels", "image_dim"))


def _widened(model: CausalWan, config: RunConfig, folder: Path) -> CausalWan:
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(config.seed, "widen"))
        try:
            return widen(model, geometry(config.model))
        except HarnessError as error:
            raise HarnessError(f"{folder / 'config.json'}: {error} (`model: {config.model}`)") from error


def _score_network(model: CausalWan, config: RunConfig, folder: Path) -> CausalWan:
    """A critic or teacher of any size. Raises HarnessError unless it reads the batches of this run.

    Of the image it reads tokens and `y` in image to video, whatever way the generator is given it; nothing else.
    """
    _require(model, config, folder, COMMON)
    reads, wanted = model.config["image_dim"] is not None, config.rollout.has_image
    if reads != wanted:
        way = config.rollout.image_conditioning
        raise HarnessError(
            f"{folder / 'config.json'}: image_dim is {model.config['image_dim']}, but rollout.image_conditioning is "
            f"{way}: critic and teacher must be {'image' if wanted else 'text'}-to-video networks; name another folder "
            f"in `teacher` or `critic`"
        )
    own = geometry(config.model)
    channels = _plain_channels(own.in_channels, own.out_channels, own.image_dim)
    found = _plain_channels(model.config["in_channels"], own.out_channels, model.config["image_dim"])
    if found != channels:
        raise HarnessError(
            f"{folder / 'config.json'}: in_channels is {model.config['in_channels']}, of which {found} are no image "
            f"channels; `model: {config.model}` has {channels}: choose the preset that made it, or another folder"
        )
    return model


def _plain_channels(in_channels: int, out_channels: int, image_dim: int | None) -> int:
    """Input channels besides those of the image: the noisy latent, and positions."""
    return in_channels - image_channels(out_channels, image_dim)


def _same_image(critic: CausalWan, teacher: CausalWan, folder: Path) -> None:
    ours, theirs = critic.config["image_dim"], teacher.config["image_dim"]
    if ours != theirs:
        raise HarnessError(
            f"{folder / 'config.json'}: image_dim is {ours}, the teacher's is {theirs}; they must read the same image "
            "tokens: name another folder in `critic`"
        )


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
    other sizes than the generator, but read the same latents and texts; in image to video both read the image.

    With `lora.rank` generator and critic get adapters, and only these are trained; with `lora.share_teacher` the
    teacher is the critic's base.

    Raises:
        HarnessError: weights are missing or do not fit, the attention back end cannot be used, or a setting of `lora`
            does not fit the run.
    """
    check_backend(config.attention_backend, precision=config.precision, training=True)
    check_shared_teacher(config, root)
    generator = initial_generator(config, root)
    set_backend(generator, config.attention_backend)
    if config.method == "sft":
        return SFT(generator, config.sft, first_frame_given=config.rollout.first_frame_given)
    if config.method == "causal_sft":
        rollout = config.rollout
        return CausalSFT(
            generator, config.causal_sft, rollout.frames_per_block, first_frame_given=rollout.first_frame_given
        )
    folder = critic_folder(config, root)
    critic = _score_network(load_model(folder, dtype=torch.float32), config, folder)
    teacher = None
    if not config.lora.share_teacher:
        source = teacher_folder(config, root)
        teacher = _score_network(load_model(source, dtype=torch.float32), config, source)
        _same_image(critic, teacher, folder)
        set_backend(teacher, config.attention_backend)
    set_backend(critic, config.attention_backend)
    if config.lora.rank is not None:
        for role, network in (("generator", generator), ("critic", critic)):
            add_adapters(network, config.lora, seed_for(config.seed, "lora", role))
    return build_dmd(generator, critic, teacher, config.dmd, config.rollout)


def check_shared_teacher(config: RunConfig, root: Path) -> None:
    """Raise HarnessError if the critic's base cannot be the teacher, where the run shares it."""
    if not config.lora.share_teacher:
        return
    critic, teacher = critic_folder(config, root), teacher_folder(config, root)
    if critic.resolve() != teacher.resolve():
        raise HarnessError(
            f"lora.share_teacher: true: the critic must start from the teacher's folder {teacher}, and starts from "
            f"{critic}; set `critic` to null, or share_teacher to false"
        )
    if config.parallelism.teacher_cpu_offload:
        raise HarnessError(
            "parallelism.teacher_cpu_offload: true: with lora.share_teacher there is no teacher to offload; set one of "
            "them to false"
        )
