"""`python -m harness sample TARGET "a prompt" …`: videos from captions with a target's generator."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.config.load import Params, load_params, resolve_target
from harness.config.schema import RunConfig
from harness.data.loader import condition_from_texts, load_positions, load_unconditional
from harness.errors import HarnessError
from harness.evaluation.media import SUFFIXES, enlarge, save_video, scale_for
from harness.evaluation.prompts import fixed_noise, latent_shape, text_length_of
from harness.evaluation.samplers import Sampler
from harness.models.checkpoint import load_model
from harness.models.codec import decode_latents, load_vae, to_pixels
from harness.models.condition import Condition
from harness.models.text import encode_prompt, load_text_encoder
from harness.seeding import generator_for


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    p = argparse.ArgumentParser(prog="python -m harness sample", description=__doc__)
    p.add_argument("target", help="teacher, causal_sft/seed<N>, <experiment>/<arm>/seed<N>")
    p.add_argument("prompt", nargs="+", help='for example "a red 7 moving left slowly"')
    p.add_argument("--out", default="samples", help="folder of the videos; default: %(default)s")
    p.add_argument("--format", default="webp", choices=[suffix[1:] for suffix in SUFFIXES], help="default: %(default)s")
    p.add_argument("--weights", help="another model folder than the target's, sampled as the target is")
    p.add_argument("--seed", type=int, default=0, help="of the noise; default: %(default)s")
    p.add_argument("--number", type=int, default=1, help="videos per prompt; default: %(default)s")
    p.add_argument("--frames", type=int, help="latent frames; default: as in training")
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
    if steps is None and cfg_scale is None:
        return Sampler.few_step(run.rollout)
    kind = "causal_euler" if run.rollout.attention == "causal" else "euler"
    count = len(run.rollout.denoising_steps) if steps is None else steps
    return Sampler(kind=kind, rollout=run.rollout, steps=count, cfg_scale=cfg_scale or 1.0)


def encode_condition(prompts: Sequence[str], root: Path, data: Path, frames: int) -> tuple[Condition, list[str]]:
    """The condition for clips of `frames` latent frames, and a warning for each prompt not wholly known."""
    length = text_length_of(data)
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
    return condition_from_texts(texts, length, load_unconditional(data, length), load_positions(data, frames)), warnings


def file_name(prompt: str, number: int, suffix: str) -> str:
    """A file name that says the prompt."""
    words = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:60]
    return f"{words or 'video'}_{number}.{suffix}"


def sample(arguments: argparse.Namespace, root: Path = Path(".")) -> list[Path]:
    """Make the videos and return their paths. Raises HarnessError for whatever is missing or out of range."""
    params = load_params(root / "params.yaml")
    run = resolve_target(arguments.target, root)
    if arguments.number < 1:
        raise HarnessError(f"--number {arguments.number}: expected at least 1")
    if arguments.frames is not None and arguments.frames < 1:
        raise HarnessError(f"--frames {arguments.frames}: expected at least one latent frame")
    sampler = choose_sampler(run, params, arguments.steps, arguments.cfg_scale)
    torch.set_num_threads(run.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = root / run.data
    folder = Path(arguments.weights) if arguments.weights else root / "checkpoints" / arguments.target / "model"
    if arguments.weights and not (folder / "config.json").is_file():
        raise HarnessError(
            f"--weights {folder}: no model there. Expected a folder with config.json as diffusers writes it, such as "
            "checkpoints/TARGET/last; `python -m harness import` makes one of other formats"
        )
    model = load_model(folder, device=device).eval()
    vae = load_vae(root / "checkpoints" / "encoders" / "vae").to(device)  # type: ignore[arg-type]
    prompts = [prompt for prompt in arguments.prompt for _ in range(arguments.number)]
    frames = arguments.frames or run.frames
    condition, warnings = encode_condition(prompts, root, data, frames)
    for warning in dict.fromkeys(warnings):
        print(f"warning: {warning}")
    shape = latent_shape(data, frames)
    noise = fixed_noise(arguments.seed, range(len(prompts)), shape).to(device)
    rng = generator_for(arguments.seed, "renoise")
    latents = sampler(model, noise, condition.to(device), rng)
    videos = to_pixels(decode_latents(vae, latents.float()))  # type: ignore[arg-type]
    paths = []
    for i, (prompt, video) in enumerate(zip(prompts, videos)):
        path = Path(arguments.out) / file_name(prompt, i, arguments.format)
        save_video(path, enlarge(video, scale_for(*video.shape[1:3])), params.preset.data.fps)
        paths.append(path)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `sample`."""
    for path in sample(parser().parse_args(argv)):
        print(path)
    return 0
