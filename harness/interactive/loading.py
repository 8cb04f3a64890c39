"""A trained run → the film that it makes, and who reads its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen

from harness.config.runs import find_run
from harness.config.schema import RolloutConfig
from harness.data.loader import condition_from_texts
from harness.data.pictures import read_picture
from harness.errors import HarnessError
from harness.evaluation.samplers import rollout_of
from harness.interactive.film import Film, PromptReader, endless
from harness.models.condition import position_channels
from harness.models.image import ImageEncoder
from harness.models.reference_latent import factors
from harness.models.text import TextEncoder
from harness.pipeline import CausalWanPipeline
from harness.pipeline.agreement import Asked, Difference, Trained, differences, trained_as
from harness.pipeline.inputs import image_inputs, reads_image


@frozen(eq=False)
class Loaded:
    """A film, the reader of its prompts, frames a second as trained, and what is to be said before it begins."""

    film: Film
    reader: PromptReader
    fps: float
    notes: tuple[str, ...]


def load_film(target: str, root: Path, *, image: str | None = None, asked: Mapping[str, Any] | None = None) -> Loaded:
    """The film of a causal few-step generator, on the GPU where there is one. `asked`: see `endless`.

    Raises HarnessError for a target that is unknown, not trained or cannot go on for ever, and for a picture that is
    missing, cannot be used or would not be seen.
    """
    run = find_run(target, root).config
    if run.method == "sft":
        raise HarnessError(
            f"{target}: takes many guided steps and makes whole clips; interactive needs a causal few-step generator, "
            "such as <experiment>/<arm>/seed<N>"
        )
    rollout = rollout_of(run)
    if rollout.attention != "causal":
        raise HarnessError(
            f"{target}: bidirectional, so it makes whole clips and cannot go on; interactive needs a generator with "
            "rollout.attention causal"
        )
    if image is not None and not rollout.has_image:
        raise HarnessError(f"--image {image}: {target} makes video from text alone and would not see it; leave it out")
    if image is None and rollout.has_image:
        raise HarnessError(f"{target} makes video from a picture: give --image photo.png")
    rollout, note = endless(rollout, run.frames, asked or {})
    parts = CausalWanPipeline.from_target(target, root)
    size = parts.config["height"], parts.config["width"]
    picture = None if image is None else read_picture(image, *size)
    parts.to("cuda" if torch.cuda.is_available() else "cpu")
    encoder = TextEncoder(parts.tokenizer, parts.text_encoder, parts.config["text_length"])
    spatial, temporal = factors(parts.vae)
    network = parts.transformer.config
    shape = (network["out_channels"], run.frames, size[0] // spatial, size[1] // spatial)
    given = {}
    if picture is not None:
        eyes = None if parts.image_encoder is None else ImageEncoder(parts.image_processor, parts.image_encoder)
        pixels = torch.from_numpy(picture.pixels)[None]
        given = image_inputs(parts.vae, eyes, pixels, run.frames, tokens=reads_image(parts.transformer))
    where = position_channels(*shape[1:]) if parts.config["position_channels"] else None
    empty = torch.zeros(0, parts.text_encoder.config.d_model)
    condition = condition_from_texts([empty], parts.config["text_length"], None, where, **given)
    known = trained_as(target, root)
    notes = [
        *([] if note is None else [note]),
        *(f"differs from training ({known.source}): {each}" for each in unlike_training(known, rollout, temporal)),
        *([] if picture is None else picture.notes),
    ]
    film = Film(parts.transformer, parts.vae, condition.to(parts.device), rollout, shape, run.precision)
    return Loaded(film, PromptReader(encoder), parts.config["fps"], tuple(notes))


def unlike_training(trained: Trained, rollout: RolloutConfig, temporal: int) -> list[Difference]:
    """How a video without an end, whose prompts are typed, differs from what a generator was trained with."""
    words = {"length": "a video without an end", "prompt switches": "as many as are typed"}
    asked = Asked(rollout=rollout, frames=trained.frames + 1, switches=1)
    found = differences(trained, asked, temporal)
    return [evolve(each, asked=words.get(each.what, each.asked)) for each in found]
