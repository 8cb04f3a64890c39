"""`python -m harness sample RUN "a prompt" …`: videos from captions, and pictures, with a run's generator."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from harness.config.load import Params, load_params
from harness.config.runs import NamedRun, find_run
from harness.config.schema import RunConfig
from harness.data.loader import condition_from_texts, load_positions
from harness.data.pictures import read_picture
from harness.data.texts import load_negative
from harness.errors import HarnessError
from harness.evaluation.media import enlarge, save_video, scale_for
from harness.evaluation.prompts import fixed_noise, latent_shape, text_length_of
from harness.evaluation.sample_call import (
    Call,
    check_agreement,
    choose_sampler,
    output_paths,
    overridden,
    parser,
    read_call,
)
from harness.evaluation.streamed import FrameProgress, clip_noise, write_streams
from harness.io import read_json
from harness.models.attention_backend import check_backend, set_backend
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_model
from harness.models.codec import VAE, decode_latents, load_vae, to_pixels
from harness.models.condition import Condition
from harness.models.image import load_image_encoder
from harness.models.reference_latent import factors
from harness.models.text import encode_prompt, load_text_encoder
from harness.pipeline.generation import buffer_for, made_blocks, noise_by_block, whole_blocks
from harness.pipeline.inputs import image_inputs, reads_image
from harness.pipeline.schedule import Switch, place_switches
from harness.seeding import generator_for


@frozen(kw_only=True, eq=False)
class Inputs:
    """What the clips are to show: the vectors `[L, D]` of each clip's prompt, for each part of a video whose prompt
    changes; uint8 pictures `[B, H, W, 3]`, or None.
    """

    texts: list[list[Tensor]]
    text_length: int
    pictures: Tensor | None


def read_pictures(images: Sequence[str], height: int, width: int, count: int) -> tuple[Tensor, list[str]]:
    """The pictures of `count` clips, uint8 `[count, H, W, 3]`, and notes on what had to be changed."""
    pictures = [read_picture(image, height, width) for image in images]
    each = count // len(pictures)
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures for _ in range(each)]))
    return pixels, [note for picture in pictures for note in picture.notes]


def encode_texts(prompts: Sequence[str], root: Path, length: int) -> tuple[list[Tensor], list[str]]:
    """Vectors `[L, D]` of each prompt, and a warning for each prompt not wholly known."""
    folder = root / "checkpoints" / "encoders"
    encoder = load_text_encoder(folder / "text_encoder", folder / "tokenizer", max_length=length)
    texts, warnings = [], []
    for prompt in prompts:
        if not prompt.strip():
            raise HarnessError("an empty prompt: say what the video shows")
        encoded = encode_prompt(encoder, prompt)
        texts.append(encoded.vectors)
        if encoded.unknown_words:
            warnings.append(f'"{prompt}": {encoded.unknown_words} of its words were in no training caption')
        if encoded.truncated:
            warnings.append(f'"{prompt}": longer than {length} tokens, its end was cut off')
    return texts, warnings


def read_inputs(
    arguments: argparse.Namespace,
    call: Call,
    switches: Sequence[Switch],
    params: Params,
    root: Path,
    text_length: int,
) -> Inputs:
    """Encode words and read pictures; what had to be changed of them is printed."""
    clips = len(call.prompts)
    later = [switch.prompt for switch in switches for _ in range(clips)]
    texts, warnings = encode_texts([*call.prompts, *later], root, text_length)
    pictures = None
    if arguments.image:
        size = params.preset.data
        pictures, notes = read_pictures(arguments.image, size.height, size.width, clips)
        warnings += notes
    for warning in dict.fromkeys(warnings):
        print(f"warning: {warning}")
    parts = [texts[start : start + clips] for start in range(0, len(texts), clips)]
    return Inputs(texts=parts, text_length=text_length, pictures=pictures)


def conditions(inputs: Inputs, model: CausalWan, vae: VAE, data: Path, root: Path, frames: int) -> list[Condition]:
    """The condition of each part of the videos; they differ in the text alone."""
    image = {}
    if inputs.pictures is not None:
        tokens = reads_image(model)
        eyes = load_image_encoder(root / "checkpoints" / "encoders" / "image_encoder") if tokens else None
        image = image_inputs(vae, eyes, inputs.pictures, frames, tokens=tokens)
    length = inputs.text_length
    negative, positions = load_negative(data, length), load_positions(data, frames)
    return [condition_from_texts(texts, length, negative, positions, **image) for texts in inputs.texts]


def load_generator(arguments: argparse.Namespace, found: NamedRun, root: Path, device: torch.device) -> CausalWan:
    """The run's network, or that of `--weights`, with the run's attention back end."""
    run = found.config
    check_backend(run.attention_backend, precision=run.precision, training=False)
    trained = root / found.checkpoints / "model"
    folder = Path(arguments.weights) if arguments.weights else trained
    if arguments.weights and not (folder / "config.json").is_file():
        raise HarnessError(
            f"--weights {folder}: no model there. Expected a folder with config.json as diffusers writes it, such as "
            "checkpoints/TARGET/last; `python -m harness import` makes one of other formats"
        )
    own = trained / "config.json"
    if arguments.weights and own.is_file():
        _check_weights(folder / "config.json", own)
    model = load_model(folder, device=device).eval()
    set_backend(model, run.attention_backend)
    return model


def _check_weights(given: Path, own: Path) -> None:
    """Raise HarnessError for weights of a network that reads other inputs than the target's."""
    theirs, ours = read_json(given), read_json(own)
    for key in ("in_channels", "out_channels", "text_dim", "image_dim"):
        if theirs.get(key) != ours.get(key):
            raise HarnessError(
                f"--weights {given.parent}: {key} is {theirs.get(key)}, the target's network in {own.parent} has "
                f"{ours.get(key)}; give weights of its kind, or a target that was trained like them"
            )


def sample(arguments: argparse.Namespace, root: Path = Path(".")) -> list[Path]:
    """Make the videos and return their paths. Raises HarnessError for whatever is missing or out of range.

    A few-step causal generator that is asked for more than the length of training, or for several prompts, writes while
    it generates. Otherwise the clip is made whole.
    """
    found = find_run(arguments.target, root)
    params = load_params(root / "params.yaml", found.config.preset)
    run = overridden(found.config, params, arguments)
    vae = load_vae(root / "checkpoints" / "encoders" / "vae")
    call = read_call(arguments, run, vae)
    paths = output_paths(arguments.out, arguments.format, call.prompts)
    sampler = choose_sampler(run, params, arguments.steps, arguments.cfg_scale)
    streams = sampler.kind == "few_step" and sampler.causal
    if call.cues and not streams:
        raise HarnessError(
            f"prompts with frames: {arguments.target} is sampled whole or along the ODE; expected a few-step causal "
            "generator, without --steps and --cfg-scale"
        )
    blocks, (_, temporal) = whole_blocks(call.latents, sampler.rollout), factors(vae)
    switches = place_switches(call.cues, [start for start, _ in blocks], temporal) if call.cues else ()
    check_agreement(arguments, call, sampler, vae, switches, root)
    torch.set_num_threads(run.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, clips = root / run.told_by, len(call.prompts)
    model_frames = min(call.latents, run.frames) if streams else call.latents  # `y` goes on as it is at the end
    inputs = read_inputs(arguments, call, switches, params, root, text_length_of(data))
    model = load_generator(arguments, found, root, device)
    vae = vae.to(device)  # type: ignore[arg-type]
    condition, *later = conditions(inputs, model, vae, data, root, model_frames)
    noise = fixed_noise(arguments.seed, range(clips), latent_shape(data, model_frames)).to(device)
    rng = generator_for(arguments.seed, "renoise")
    fps = params.preset.data.fps
    if streams and (switches or call.latents > run.frames):
        for switch in switches:
            print(
                f'"{switch.prompt}", wanted from frame {switch.asked}: takes effect at frame {switch.frame}, where a '
                f"block begins (on_switch: {sampler.rollout.on_switch})",
                file=sys.stderr,
            )
        made = made_blocks(
            model,
            condition.to(device),
            sampler.rollout,
            blocks,
            noise_by_block(noise, clip_noise(arguments.seed, range(clips), noise.shape)),
            rng,
            {switch.latent: part.to(device) for switch, part in zip(switches, later, strict=True)},
            buffer_for(blocks[-1][1], sampler.rollout),
        )
        with half_precision(run, device):
            write_streams(paths, made, vae, call.frames, fps, FrameProgress(call.frames))
        return paths
    with half_precision(run, device):
        latents = sampler(model, noise, condition.to(device), rng)
    videos = to_pixels(decode_latents(vae, latents.float()))[:, : call.frames]  # type: ignore[arg-type]
    for path, video in zip(paths, videos, strict=True):
        save_video(path, enlarge(video, scale_for(*video.shape[1:3])), fps)
    return paths


def half_precision(run: RunConfig, device: torch.device) -> AbstractContextManager:
    """As training and evaluation compute: bf16 where the run does, which flash attention asks for."""
    if run.precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `sample`."""
    for path in sample(parser().parse_intermixed_args(argv)):
        print(path)
    return 0
