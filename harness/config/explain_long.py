"""What `explain` says of long video and of adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import evolve

from harness.config.chunks import chunk_lengths, mean_sequence, switch_places
from harness.config.costs import pixel_frames
from harness.config.schema import LoRAConfig, RolloutConfig, RunConfig

Line = tuple[str, str]  # a heading of a few words, and what there is to say


def _length(latent_frames: int, temporal_factor: int) -> str:
    return f"{latent_frames} latent frames ({pixel_frames(latent_frames, temporal_factor)} frames)"


def long_tuning(config: RunConfig, temporal_factor: int) -> Iterable[Line]:
    """What an update of long tuning makes and what is judged of it."""
    tuning, rollout, frames = config.long_tuning, config.rollout, config.frames
    longest, block = tuning.max_frames, rollout.frames_per_block
    chunks, length = mean_sequence(frames, block, tuning)
    yield "a sequence", f"goes on over the updates, up to {_length(longest, temporal_factor)}: {chunks:.3g} updates"
    later = list(chunk_lengths(frames, frames, block, evolve(tuning, max_frames=2 * frames)))
    drawn = ", drawn evenly, the same on all ranks" if len(later) > 1 else ""
    yield "an update", f"makes {_either(later)} new frames{drawn}; the first of a sequence {frames}"
    carried = frames - tuning.min_new_frames
    yield (
        "judged",
        f"a clip of {frames}: the new frames, and up to {carried} before them; it begins with an image, encoded anew",
    )
    yield (
        "gradient in",
        f"new frames only; critic's loss over the whole clip ({length / chunks:.3g} are new on average)",
    )
    places = switch_places(frames, block, tuning)
    if not tuning.switch_probability or not places:
        yield "prompts", "one for a sequence"
        return
    yield (
        "prompts",
        f"{tuning.switch_probability:.0%} of the sequences change theirs once, at any of the frames {places[0]}"
        f"…{places[-1]} alike; {_on_switch(rollout)}",
    )


def _on_switch(rollout: RolloutConfig) -> str:
    sink = f", the sink of {rollout.sink} stays" if rollout.sink else ""
    return {
        "recache_keep_sink": f"the last frames are run again under the new one{sink}",
        "recache": "the last frames are run again under the new one, the first of them are the sink",
        "keep": "the cache stays as it is",
        "clear": "the cache is emptied",
    }[rollout.on_switch]


def _either(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


def long_evaluation(config: RunConfig, temporal_factor: int) -> Iterable[Line]:
    """On how long clips the student is judged besides those of its training, if it is."""
    if config.evaluate_frames is not None:
        yield (
            "long evaluation",
            f"the student is judged on clips of {_length(config.evaluate_frames, temporal_factor)} too, "
            f"{config.evaluate_frames / config.frames:.3g} times the training length",
        )


def adapters(lora: LoRAConfig) -> str:
    """What of generator and critic is trained with adapters."""
    named = "every linear layer of the blocks" if "all" in lora.targets else f"the layers {', '.join(lora.targets)}"
    shared = "; the teacher is the critic's base without its adapter" if lora.share_teacher else ""
    return (
        f"rank {lora.rank}, scaled by {lora.alpha / (lora.rank or 1):g} (alpha {lora.alpha:g}), on {named}, of "
        f"generator and critic; their own weights stay as they are{shared}"
    )
