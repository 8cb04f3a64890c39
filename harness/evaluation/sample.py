"""`python -m harness sample TARGET "a prompt" …`: videos from captions, and pictures, with a target's generator."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config.load import Params, load_params, resolve_target
from harness.config.schema import RunConfig
from harness.data.loader import condition_from_texts, load_positions, load_unconditional
from harness.data.pictures import read_picture
from harness.errors import HarnessError
from harness.evaluation.media import SUFFIXES, enlarge, save_video, scale_for
from harness.evaluation.prompts import fixed_noise, latent_shape, text_length_of
from harness.evaluation.samplers import Sampler, rollout_of
from harness.models.attention_backend import check_backend, set_backend
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_model
from harness.models.codec import VAE, decode_latents, load_vae, to_pixels
from harness.models.image import load_image_encoder
from harness.models.reference_latent import factors
from harness.models.text import encode_prompt, load_text_encoder
from harness.pipeline.inputs import image_inputs, reads_image
from harness.seeding import generator_for

OTHER_SUFFIXES = (".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".jpg", ".jpeg")  # no names of folders


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    p = argparse.ArgumentParser(prog="python -m harness sample", description=__doc__)
    p.add_argument("target", help="teacher, causal_sft/seed<N>, their _i2v kin, <experiment>/<arm>/seed<N>")
    p.add_argument("prompt", nargs="*", help='for example "a red 7 moving left slowly"')
    p.add_argument("--prompt", action="append", default=[], dest="prompts", metavar="PROMPT", help="another prompt")
    p.add_argument(
        "--image", action="append", default=[], help="PNG, JPEG or WebP, for image to video; one, or one per prompt"
    )
    p.add_argument(
        "--out",
        default="samples",
        help=f"folder of the videos, or the one video's file ({', '.join(SUFFIXES)}); default: %(default)s",
    )
    p.add_argument("--format", choices=[suffix[1:] for suffix in SUFFIXES], help="default: that of --out, else webp")
    p.add_argument("--weights", help="another model folder than the target's, sampled as the target is")
    p.add_argument("--seed", type=int, default=0, help="of the noise; default: %(default)s")
    p.add_argument("--number", type=int, default=1, help="videos per prompt; default: %(default)s")
    p.add_argument("--frames", type=int, help="frames of the video, 1 + 4k (81); default: as in training")
    p.add_argument("--steps", type=int, help="denoising steps of the ODE; default: the target's own sampler")
    p.add_argument("--cfg-scale", type=float, help="guidance (1 = none); with --steps or for a teacher")
    return p


def choose_sampler(run: RunConfig, params: Params, steps: int | None, cfg_scale: float | None) -> Sampler:
    """The target's own sampler, or the ODE with the asked steps and guidance. Raises HarnessError for a value out of
    range.
    """
    if steps is not None and not 1 <= steps <= 1000:
        raise HarnessError(f"--steps {steps}: expected 1 … 1000")
    if cfg_scale is not None and cfg_scale < 1:
        raise HarnessError(f"--cfg-scale {cfg_scale}: expected at least 1 (1 is no guidance)")
    if run.method == "sft":
        evaluation = params.preset.evaluation
        return Sampler(
            kind="euler",
            rollout=run.rollout,
            steps=evaluation.teacher_steps if steps is None else steps,
            cfg_scale=evaluation.teacher_cfg_scale if cfg_scale is None else cfg_scale,
        )
    rollout = rollout_of(run)
    if steps is None and cfg_scale is None:
        return Sampler.few_step(rollout)
    kind = "causal_euler" if rollout.attention == "causal" else "euler"
    count = len(rollout.denoising_steps) if steps is None else steps
    return Sampler(kind=kind, rollout=rollout, steps=count, cfg_scale=cfg_scale or 1.0)


def latent_frames(frames: int | None, run: RunConfig, vae: VAE) -> int:
    """Latent frames of a video of `frames` pixel frames; those of training for None. Raises HarnessError for a number
    that the VAE cannot make.
    """
    if frames is None:
        return run.frames
    _, temporal = factors(vae)
    if frames < 1 or (frames - 1) % temporal:
        below = 1 + max(frames - 1, 0) // temporal * temporal
        raise HarnessError(
            f"--frames {frames}: expected 1 + {temporal}k frames of video, such as {below} or {below + temporal}"
        )
    latent = 1 + (frames - 1) // temporal
    if latent < 2 and run.rollout.first_frame_given:
        raise HarnessError(f"--frames {frames}: the only frame would be the given picture; ask for more")
    return latent


def check_image(target: str, run: RunConfig, images: Sequence[str], prompts: int) -> None:
    """Raises HarnessError where pictures are missing, cannot be used, or are not one, or one for each prompt."""
    if images and not run.rollout.has_image:
        raise HarnessError(
            f"--image {images[0]}: {target} makes video from text alone and would not see the picture. Leave --image "
            "out, or name a run with rollout.image_conditioning"
        )
    if run.rollout.has_image and not images:
        raise HarnessError(
            f"{target} makes video from a picture (rollout.image_conditioning is {run.rollout.image_conditioning}): "
            "give --image photo.png"
        )
    if len(images) not in (0, 1, prompts):
        raise HarnessError(f"--image: {len(images)} pictures for {prompts} prompts; give one, or one for each prompt")


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


def file_name(prompt: str, number: int, suffix: str) -> str:
    """A file name that says the prompt."""
    words = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:60]
    return f"{words or 'video'}_{number}.{suffix}"


def output_paths(out: str, kind: str | None, prompts: Sequence[str]) -> list[Path]:
    """A file for each prompt in the folder `out`, or `out` itself where it is the name of a video.

    Raises HarnessError for one file and several videos, a kind of file that is not written, or a name that contradicts
    `--format`.
    """
    suffix = Path(out).suffix.lower()
    if suffix in OTHER_SUFFIXES and not Path(out).is_dir():
        raise HarnessError(f"--out {out}: cannot write {suffix}; expected a folder, or one of {', '.join(SUFFIXES)}")
    if suffix not in SUFFIXES or Path(out).is_dir():
        return [Path(out) / file_name(prompt, i, kind or "webp") for i, prompt in enumerate(prompts)]
    if len(prompts) > 1:
        raise HarnessError(f"--out {out}: one file for {len(prompts)} videos; give a folder")
    if kind is not None and f".{kind}" != suffix:
        raise HarnessError(f"--out {out}: its name says {suffix}, --format says {kind}; leave --format out")
    return [Path(out)]


def load_generator(arguments: argparse.Namespace, run: RunConfig, root: Path, device: torch.device) -> CausalWan:
    """The target's network, or that of `--weights`, with the run's attention back end."""
    check_backend(run.attention_backend, precision=run.precision, training=False)
    folder = Path(arguments.weights) if arguments.weights else root / "checkpoints" / arguments.target / "model"
    if arguments.weights and not (folder / "config.json").is_file():
        raise HarnessError(
            f"--weights {folder}: no model there. Expected a folder with config.json as diffusers writes it, such as "
            "checkpoints/TARGET/last; `python -m harness import` makes one of other formats"
        )
    model = load_model(folder, device=device).eval()
    set_backend(model, run.attention_backend)
    return model


def sample(arguments: argparse.Namespace, root: Path = Path(".")) -> list[Path]:
    """Make the videos and return their paths. Raises HarnessError for whatever is missing or out of range."""
    params = load_params(root / "params.yaml")
    run = resolve_target(arguments.target, root)
    asked = [*arguments.prompt, *arguments.prompts]
    if not asked:
        raise HarnessError('no prompt: say what the video shows, for example --prompt "a red 7 moving left slowly"')
    if arguments.number < 1:
        raise HarnessError(f"--number {arguments.number}: expected at least 1")
    check_image(arguments.target, run, arguments.image, len(asked))
    prompts = [prompt for prompt in asked for _ in range(arguments.number)]
    paths = output_paths(arguments.out, arguments.format, prompts)
    sampler = choose_sampler(run, params, arguments.steps, arguments.cfg_scale)
    torch.set_num_threads(run.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, encoders = root / run.data, root / "checkpoints" / "encoders"
    vae = load_vae(encoders / "vae")
    frames = latent_frames(arguments.frames, run, vae)
    length = text_length_of(data)
    texts, warnings = encode_texts(prompts, root, length)
    pictures = None
    if arguments.image:
        size = params.preset.data
        pictures, notes = read_pictures(arguments.image, size.height, size.width, len(prompts))
        warnings += notes
    for warning in dict.fromkeys(warnings):
        print(f"warning: {warning}")
    model = load_generator(arguments, run, root, device)
    vae = vae.to(device)  # type: ignore[arg-type]
    image = {}
    if pictures is not None:
        eyes = load_image_encoder(encoders / "image_encoder") if reads_image(model) else None
        image = image_inputs(vae, eyes, pictures, frames, tokens=reads_image(model))  # type: ignore[arg-type]
    condition = condition_from_texts(
        texts, length, load_unconditional(data, length), load_positions(data, frames), **image
    )
    noise = fixed_noise(arguments.seed, range(len(prompts)), latent_shape(data, frames)).to(device)
    rng = generator_for(arguments.seed, "renoise")
    with half_precision(run, device):
        latents = sampler(model, noise, condition.to(device), rng)
    videos = to_pixels(decode_latents(vae, latents.float()))  # type: ignore[arg-type]
    for path, video in zip(paths, videos, strict=True):
        save_video(path, enlarge(video, scale_for(*video.shape[1:3])), params.preset.data.fps)
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
