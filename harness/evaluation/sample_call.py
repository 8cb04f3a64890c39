"""What a call of the verb `sample` asks for: its arguments, the videos they mean, what differs from training."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from harness.config.checks import cross_check
from harness.config.load import Params, structure, to_dict
from harness.config.schema import LongTuningConfig, RolloutConfig, RunConfig
from harness.errors import HarnessError
from harness.evaluation.media import SUFFIXES
from harness.evaluation.samplers import Sampler, rollout_of
from harness.models.codec import VAE
from harness.models.reference_latent import factors
from harness.pipeline.agreement import Asked, differences, trained_as, trained_weights
from harness.pipeline.schedule import Cue, Switch, latents_for, read_cues

OTHER_SUFFIXES = (".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".jpg", ".jpeg")  # no names of folders
DESCRIPTION = "Videos from captions, and pictures, with the generator of a target or of an ad hoc run."
PROMPT_HELP = "another prompt; `N: a prompt` is wanted from frame N on: such prompts make one video"
_OVERRIDES = ("window", "sink", "rope", "on_switch")  # of the rollout, by options of the same names


@frozen(kw_only=True)
class Call:
    """What is to be made: `clips` videos from `prompts`, each `frames` long (`latents` latent frames). `cues` are those
    of one video whose prompt changes, else empty.
    """

    prompts: list[str]
    cues: tuple[Cue, ...]
    frames: int
    latents: int


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    p = argparse.ArgumentParser(prog="python -m harness sample", description=DESCRIPTION)
    p.add_argument("target", help="teacher, causal_sft/seed<N>, their _i2v kin, <experiment>/<arm>/seed<N>, runs/NAME")
    p.add_argument("prompt", nargs="*", help='for example "a red 7 moving left slowly"')
    p.add_argument("--prompt", action="append", default=[], dest="prompts", metavar="PROMPT", help=PROMPT_HELP)
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
    p.add_argument("--frames", type=int, help="frames of the video, any number; default: as in training")
    p.add_argument("--steps", type=int, help="denoising steps of the ODE; default: the target's own sampler")
    p.add_argument("--cfg-scale", type=float, help="guidance (1 = none); with --steps or for a teacher")
    p.add_argument("--window", type=int, help="latent frames that a block sees, itself included (-1: all)")
    p.add_argument("--sink", type=int, help="first latent frames that stay in the window")
    p.add_argument("--rope", choices=["absolute", "relative"], help="positions in the video, or in the window")
    p.add_argument(
        "--on-switch",
        choices=["recache_keep_sink", "recache", "keep", "clear"],
        help="what a new prompt does to the cache; default of these four: as the target's rollout",
    )
    p.add_argument("--strict", action="store_true", help="refuse a call that differs from training")
    return p


def overridden(run: RunConfig, params: Params, arguments: argparse.Namespace) -> RunConfig:
    """The run with the call's window, sink, positions and way to switch. Raises HarnessError for values that do not fit
    it, or a generator that makes whole clips.
    """
    asked = {name: getattr(arguments, name) for name in _OVERRIDES if getattr(arguments, name) is not None}
    if not asked:
        return run
    option = f"--{next(iter(asked)).replace('_', '-')}"
    if run.method == "sft" or rollout_of(run).attention != "causal":
        raise HarnessError(f"{option}: {arguments.target} makes whole clips, without a cache; leave it out")
    rollout = structure(RolloutConfig, to_dict(run.rollout) | asked, "command line")
    changed = evolve(run, rollout=rollout, long_tuning=LongTuningConfig())
    for key, problem in cross_check(changed, params.preset):
        raise HarnessError(f"command line: {key}: {problem}")
    return changed


def choose_sampler(run: RunConfig, params: Params, steps: int | None, cfg_scale: float | None) -> Sampler:
    """The target's own sampler, or the ODE with the asked steps and guidance. Raises HarnessError for a value out of
    range.
    """
    if steps is not None and not 1 <= steps <= 1000:
        raise HarnessError(f"--steps {steps}: expected 1 … 1000")
    if cfg_scale is not None and not 1 <= cfg_scale < math.inf:
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


def read_call(arguments: argparse.Namespace, run: RunConfig, vae: VAE) -> Call:
    """What the arguments ask for. Raises HarnessError for prompts or lengths that make no video."""
    asked = [*arguments.prompt, *arguments.prompts]
    if not asked:
        raise HarnessError('no prompt: say what the video shows, for example --prompt "a red 7 moving left slowly"')
    if arguments.number < 1:
        raise HarnessError(f"--number {arguments.number}: expected at least 1")
    cues = read_cues(asked) or ()
    videos = [cues[0].prompt] if cues else asked
    check_image(arguments.target, run, arguments.image, len(videos))
    _, temporal = factors(vae)
    frames = 1 + temporal * (run.frames - 1) if arguments.frames is None else arguments.frames
    if frames < 1:
        raise HarnessError(f"--frames {frames}: expected at least 1 frame of video")
    if frames < 2 and run.rollout.first_frame_given:
        raise HarnessError(f"--frames {frames}: the only frame would be the given picture; ask for more")
    return Call(
        prompts=[prompt for prompt in videos for _ in range(arguments.number)],
        cues=cues,
        frames=frames,
        latents=latents_for(frames, temporal),
    )


def check_agreement(
    arguments: argparse.Namespace, call: Call, sampler: Sampler, vae: VAE, switches: Sequence[Switch], root: Path
) -> None:
    """Say on standard error what differs from training. Raises HarnessError for it with `--strict`."""
    _, temporal = factors(vae)
    if arguments.weights:
        trained = trained_weights(Path(arguments.weights), root, temporal)
    else:
        trained = trained_as(arguments.target, root)
    if trained is None:
        lines = [f"{arguments.weights}: nothing there says what these weights were trained with; it is not checked"]
        head = ""
    else:
        ode = None if sampler.kind == "few_step" else sampler.steps
        rollout = sampler.rollout
        if sampler.kind == "euler":
            rollout = evolve(rollout, attention="bidirectional")
        elif sampler.kind == "causal_euler":  # finished blocks enter its cache clean
            rollout = evolve(rollout, context_sigma=0.0)
        asked = Asked(
            rollout=rollout,
            frames=call.latents,
            switches=len(switches),
            ode_steps=ode,
            cfg_scale=sampler.cfg_scale,
        )
        lines = [str(difference) for difference in differences(trained, asked, temporal)]
        head = f"differs from training ({trained.source}): "
    if lines and arguments.strict:
        raise HarnessError("--strict: not sampled\n" + "\n".join(f"  {head}{line}" for line in lines))
    for line in lines:
        print(f"{head}{line}", file=sys.stderr)


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
