"""Training and sampling must agree: where a sampling call differs from what a generator was trained with, and what
that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from attrs import evolve, fields, frozen

from harness.config.load import structure, to_dict
from harness.config.runs import MANIFEST, find_run, places, run_name, run_of_weights
from harness.config.schema import RolloutConfig
from harness.formats.placing import ORIGIN
from harness.io import read_json

PIPELINE = "model_index.json"
RUN_FOLDERS = ("model", "last")  # of a run's checkpoints; its `init` is what it started from


@frozen(kw_only=True)
class Trained:
    """What is known of a generator's training.

    rollout    as it made video there
    frames     latent frames of the longest video that it made or saw there
    switches   whether its prompt changed within a video; None: unknown
    few_step   whether it learnt to make video in `rollout.denoising_steps`, not to follow the ODE in any number
    source     where this is written
    """

    rollout: RolloutConfig
    frames: int
    switches: bool | None
    few_step: bool
    source: str


@frozen(kw_only=True)
class Asked:
    """A sampling call: `frames` latent frames, `switches` changes of the prompt, `ode_steps` guided steps of the ODE or
    None for the rollout's own few steps.
    """

    rollout: RolloutConfig
    frames: int
    switches: int = 0
    ode_steps: int | None = None
    cfg_scale: float = 1.0


@frozen(kw_only=True)
class Difference:
    """One setting that differs, and what that does."""

    what: str
    trained: str
    asked: str
    effect: str

    def __str__(self) -> str:
        return f"{self.what}: trained {self.trained}, asked {self.asked}: {self.effect}"


RELEASED = {  # by a part of the source that an import's origin names
    "self_forcing_dmd": Trained(
        rollout=RolloutConfig(), frames=21, switches=False, few_step=True, source="Self-Forcing, arXiv 2506.08009"
    ),
    "LongLive-1.3B": Trained(
        rollout=RolloutConfig(window=12, sink=3, on_switch="recache"),
        frames=240,
        switches=True,
        few_step=True,
        source="LongLive, arXiv 2509.22622",
    ),
}

# What a difference does; in the order in which they are told.
_EFFECTS = {
    "attention": "each frame is made from other frames than the generator learnt to use",
    "image_conditioning": "the first frame reaches the generator in a way that it does not know, and may be ignored, "
    "repeated or flash",
    "frames_per_block": "blocks of another length see another past, and are denoised with other neighbors",
    "window": "from the window's end on, frames see more or less of the past than they ever did in training",
    "sink": "beyond the window, the frames that stay in sight are others than in training: drift, or a scene that is "
    "pulled back to its beginning",
    "rope": "beyond the window, or after a switch, past frames stand at other distances than in training",
    "context_sigma": "finished frames enter the cache at another noise level than in training: errors add up, or "
    "detail is lost",
    "denoising_steps": "the network is asked for noise levels, or a number of steps, that it was not trained for",
    "shift": "the same step numbers are other noise levels than in training",
}
_CAUSAL_ONLY = ("frames_per_block", "window", "sink", "rope", "context_sigma")
_FEW_STEP_ONLY = ("denoising_steps", "shift")


def differences(trained: Trained, asked: Asked, temporal: int) -> list[Difference]:
    """Every way in which the call differs from training, the gravest first. `temporal`: frames to a latent frame."""
    told = (_settings(trained, asked), _steps(trained, asked), _switching(trained, asked))
    return [*chain(*told), *_length(trained, asked, temporal)]


def _settings(trained: Trained, asked: Asked) -> Iterator[Difference]:
    causal = "causal" in (trained.rollout.attention, asked.rollout.attention)
    few_step = trained.few_step and asked.ode_steps is None
    for name, effect in _EFFECTS.items():
        before, now = getattr(trained.rollout, name), getattr(asked.rollout, name)
        if before == now or (name in _CAUSAL_ONLY and not causal) or (name in _FEW_STEP_ONLY and not few_step):
            continue
        yield Difference(what=name, trained=_shown(name, before), asked=_shown(name, now), effect=effect)


def _steps(trained: Trained, asked: Asked) -> Iterator[Difference]:
    if trained.few_step and asked.ode_steps is not None:
        guidance = "" if asked.cfg_scale == 1.0 else f" at guidance {asked.cfg_scale:g}"
        yield Difference(
            what="sampler",
            trained=f"few steps {list(trained.rollout.denoising_steps)}",
            asked=f"{asked.ode_steps} steps of the ODE{guidance}",
            effect="a distilled generator does not follow the ODE: over-saturated or washed out",
        )


def _switching(trained: Trained, asked: Asked) -> Iterator[Difference]:
    if not asked.switches:
        return
    before, now = trained.rollout.on_switch, asked.rollout.on_switch
    if trained.switches is False:
        yield Difference(
            what="prompt switches",
            trained="none",
            asked=str(asked.switches),
            effect="the generator never went on under another prompt: it may obey late, or lose the object",
        )
    elif before != now:
        yield Difference(
            what="on_switch",
            trained=before,
            asked=now,
            effect="after a switch the cache holds other keys and values than in training",
        )


def _length(trained: Trained, asked: Asked, temporal: int) -> Iterator[Difference]:
    if asked.frames <= trained.frames:
        return
    rollout = asked.rollout
    before, now = (f"{1 + temporal * (latent - 1):,} frames" for latent in (trained.frames, asked.frames))
    if rollout.attention == "bidirectional":
        effect = "attention over more frames than the network ever saw"
    elif rollout.window == -1:
        effect = (
            "without a window every block sees more frames than the generator ever did, and memory and time per block "
            "grow; --window bounds all three"
        )
    elif rollout.rope == "absolute":
        effect = "positions beyond those of training"
        if trained.rollout.rope == "relative":
            effect += "; --rope relative keeps them inside the window"
    else:
        return
    yield Difference(what="length", trained=f"up to {before}", asked=now, effect=effect)


def _shown(name: str, value: Any) -> str:
    if name == "window":
        return "with all frames in sight" if value == -1 else f"{value} latent frames"
    if name == "sink":
        return f"{value} latent frames"
    return str(list(value) if isinstance(value, tuple) else value)


def trained_as(name: str, root: Path) -> Trained:
    """What a target or an ad hoc run was trained with: what its manifest says, else what the target's configuration
    says now.

    Raises HarnessError when there is neither.
    """
    name = run_name(name, root)
    manifest = places(name)[1] / MANIFEST
    if (root / manifest).is_file():
        return _of_run(read_json(root / manifest, keys=("config",))["config"], manifest.as_posix())
    return _of_run(to_dict(find_run(name, root).config), f"the configuration of {name}")


def trained_weights(folder: Path, root: Path, temporal: int) -> Trained | None:
    """What the weights in a model folder were trained with: those of a run of this project, of a saved pipeline, of an
    export or of an import whose origin is known; None where nothing says it.
    """
    place, name = folder.resolve(), _run_of(folder, root)
    if name is not None and (root / places(name)[1] / MANIFEST).is_file():
        return trained_as(name, root)
    for file in (place / PIPELINE, place.parent / PIPELINE):
        if file.is_file() and "rollout" in (index := read_json(file)):
            return Trained(
                rollout=_rollout(index["rollout"], str(file)),
                frames=1 + (int(index["num_frames"]) - 1) // temporal,
                switches=None,
                few_step=True,
                source=str(file),
            )
    for file in (place / ORIGIN, place.parent / ORIGIN):
        if file.is_file():
            return _of_origin(read_json(file), root)
    return None


def _run_of(folder: Path, root: Path) -> str | None:
    """The run that trained the weights in a folder of its checkpoints; None for others, a run's `init` among them."""
    return run_of_weights(folder, root) if folder.name in RUN_FOLDERS else None


def _of_origin(origin: Mapping[str, Any], root: Path) -> Trained | None:
    """From what import or export wrote beside weights."""
    sources = [str(origin.get("source", "")), str((origin.get("lora") or {}).get("source", ""))]
    for source in reversed(sources):  # an adapter was trained last
        run = _run_of(root / source, root) or run_name(source, root)
        if source and (root / places(run)[1] / MANIFEST).is_file():
            return trained_as(run, root)
        for name, trained in RELEASED.items():
            if name in source:
                return trained
    return None


def _of_run(config: Mapping[str, Any], source: str) -> Trained:
    """From a run's configuration as it was written down, perhaps by an older version that lacked some settings."""
    rollout, method = _rollout(config["rollout"], source), config["method"]
    frames, tuning = int(config["frames"]), config.get("long_tuning", {})
    if method == "sft":
        rollout = evolve(rollout, attention="bidirectional")
    elif method == "causal_sft":  # under a mask over whole clips, with clean context
        rollout = evolve(rollout, attention="causal", window=-1, sink=0, rope="absolute", context_sigma=0.0)
    tuned = tuning["max_frames"] if tuning.get("enabled") else 0
    return Trained(
        rollout=rollout,
        frames=max(frames, tuned),
        switches=bool(tuned) and tuning["switch_probability"] > 0.0,
        few_step=method == "dmd",
        source=source,
    )


def _rollout(values: Mapping[str, Any], source: str) -> RolloutConfig:
    known = {field.name for field in fields(RolloutConfig)}
    return structure(RolloutConfig, {name: value for name, value in values.items() if name in known}, source, "rollout")
