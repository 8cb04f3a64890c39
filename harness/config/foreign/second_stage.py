"""Their keys of LongLive's second stage: streaming over long videos, prompts that change, low-rank adapters."""

from __future__ import annotations

import math

from attrs import evolve

from harness.config.foreign.rollout import clip_length
from harness.config.foreign.theirs import Outcome, Rule, Theirs, as_here, nothing, translated

_STEP = 3  # their trainer draws the number of new frames in steps of so many, whatever a block has
_READ_WITH = {  # switch_mode → the keys that say where a prompt may change
    "fixed": ("fixed_switch_index",),
    "random": ("min_switch_frame_index", "max_switch_frame_index"),
    "random_choice": ("switch_choices",),
}


def _streaming(theirs: Theirs, key: str) -> Outcome:
    if not theirs.flag(key):
        return as_here("each training step makes a clip of its own")
    return translated("each update goes on with the sequence of the last one", long_tuning__enabled=True)


def _if_streaming(rule: Rule) -> Rule:
    """The rule of a key that their trainer reads with streaming only."""

    def read(theirs: Theirs, key: str) -> Outcome:
        return rule(theirs, key) if theirs.streams else as_here("not read there without streaming_training")

    return read


def _chunk(theirs: Theirs, key: str) -> Outcome:
    return clip_length(theirs, theirs.whole(key, 1), "the clip that is judged")


def _new_lengths(theirs: Theirs) -> range:
    """The numbers of new frames that their trainer draws from, for each chunk but the first."""
    chunk = theirs.whole("streaming_chunk_size", 1)
    lengths = range(theirs.whole("streaming_min_new_frame", 1), chunk, _STEP)
    if not lengths:
        raise theirs.wrong("streaming_min_new_frame", f"fewer frames than streaming_chunk_size ({chunk})")
    return lengths


def _new_frames(theirs: Theirs, key: str) -> Outcome:
    lengths = _new_lengths(theirs)
    several = f"there one of {', '.join(map(str, lengths))}; here any in whole blocks"
    return translated(
        several if len(lengths) > 1 else "always so many: their trainer draws from less than a clip",
        long_tuning__min_new_frames=lengths[0],
        long_tuning__max_new_frames=lengths[-1],
    )


def _longest(theirs: Theirs) -> int:
    """Latent frames of their longest sequence."""
    if theirs.has("streaming_possible_max_length"):
        return max(theirs.numbers("streaming_possible_max_length"))
    return theirs.whole("streaming_max_length", 1)


def _max_length(theirs: Theirs, key: str) -> Outcome:
    if theirs.has("streaming_possible_max_length") and key == "streaming_max_length":
        return as_here("streaming_possible_max_length is read instead")
    drawn = "" if key == "streaming_max_length" else "there drawn for each sequence, here all grow to the longest"
    length, why = _allowed_length(theirs, _longest(theirs))
    return translated("; ".join(filter(None, (drawn, why))), long_tuning__max_frames=length)


def _allowed_length(theirs: Theirs, wanted: int) -> tuple[int, str]:
    """The longest sequence here, and why it is not theirs, if it is not.

    Where all sequences have equally many chunks, that number and the updates of a cycle must have no common divisor.
    """
    first, new, cycle = theirs.whole("streaming_chunk_size", 1), _new_lengths(theirs), 1 + theirs.ratio
    chunks = 1 + (wanted - first) // new[0]
    if len(new) > 1 or chunks < 1 or math.gcd(chunks, cycle) == 1:
        return wanted, ""
    allowed = [number for number in range(2, chunks + cycle + 2) if math.gcd(number, cycle) == 1]
    nearest = min(allowed, key=lambda number: abs(number - chunks))
    length = first + (nearest - 1) * new[0]
    return length, (
        f"not {wanted}: of its {chunks} chunks the generator, with one in {cycle} updates, would always meet the same, "
        f"which is refused here; {length} ({nearest} chunks) is the nearest that is not"
    )


def _first_chunk(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return as_here("a sequence's first chunk is trained on as the others")
    return nothing("there a sequence's first chunk is only made; here it is trained on as the others")


def _switch_places(theirs: Theirs) -> list[int]:
    """The latent frames at which their prompt may change."""
    block = theirs.whole("num_frame_per_block", 1)
    match theirs.text("switch_mode"):
        case "fixed":
            places = [theirs.whole("fixed_switch_index")]
        case "random":
            first, end = theirs.whole("min_switch_frame_index"), theirs.whole("max_switch_frame_index")
            places = list(range(first, max(end, first + 1), block))
        case "random_choice":
            places = theirs.numbers("switch_choices")
        case _:
            raise theirs.wrong("switch_mode", ", ".join(_READ_WITH))
    return [place for place in places if place < _longest(theirs)]


def _switch_mode(theirs: Theirs, key: str) -> Outcome:
    if not theirs.switches:
        return as_here("no prompt changes there")
    places, new, mode = _switch_places(theirs), _new_lengths(theirs), theirs.text("switch_mode")
    if not places:
        raise theirs.wrong(_READ_WITH[mode][0], f"frames below the longest sequence ({_longest(theirs)})")
    here = "here where any chunk but the first one starts"
    starts = range(theirs.whole("streaming_chunk_size", 1), _longest(theirs), new[0])
    if len(places) == 1:
        return nothing(f"there always at latent frame {places[0]}; {here}")
    if len(new) > 1 or not set(places) <= set(starts):
        return nothing(f"there within a chunk too; {here}")
    return as_here(f"there where one of {len(places)} chunks starts; {here}")


def _switch_place(theirs: Theirs, key: str) -> Outcome:
    """A key that says where a prompt may change: what `switch_mode` says, where that reads it."""
    outcome = _switch_mode(theirs, "switch_mode")
    if not theirs.switches:
        return outcome
    mode = theirs.text("switch_mode")
    if key not in _READ_WITH[mode]:
        return as_here(f"not read there with switch_mode: {mode}")
    return evolve(outcome, why="see switch_mode")


def _switch_prompts(theirs: Theirs, key: str) -> Outcome:
    if not theirs.switches:
        return as_here("no prompt changes there")
    return nothing("there the next prompt is the same line of this list; here it is another prompt of `prompts`")


def _sink_at_switch(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return translated("KV recache of the window, which leaves the sink", rollout__on_switch="recache_keep_sink")
    return translated(
        "KV recache of the window, the sink too; one version of their code took 21 frames and left most sinks",
        rollout__on_switch="recache",
    )


def _prompts_when_sampling(theirs: Theirs, key: str) -> Outcome:
    given, factor = theirs.values[key], theirs.preset.encoders.temporal_factor
    words = given if isinstance(given, list) else str(given).split(",")
    try:
        places = [1 + factor * (int(word) - 1) for word in words]  # theirs are latent frames
    except ValueError as error:
        raise theirs.wrong(key, "latent frames, such as 48, 96") from error
    prompts = " ".join(f'--prompt "{place}: …"' for place in places)
    return nothing(f"say it when sampling: `{prompts}`")


def _if_training(rule: Rule) -> Rule:
    """The rule of an adapter's key: adapters are merged into weights that are only sampled from."""

    def read(theirs: Theirs, key: str) -> Outcome:
        if not theirs.trains:
            return as_here("merged into the generator's weights when they are imported")
        return rule(theirs, key)

    return read


def _trained_before(theirs: Theirs, key: str) -> Outcome:
    return nothing("there training goes on with it; here it is merged at import, and new adapters begin")


def _adapter_kind(theirs: Theirs, key: str) -> Outcome:
    if theirs.text(key) != "lora":
        raise theirs.wrong(key, "lora")
    return as_here("lora.targets: every linear layer of the blocks")


def _rank(theirs: Theirs, key: str) -> Outcome:
    rank = theirs.whole(key, 1)
    if theirs.has("adapter.alpha"):
        return translated(lora__rank=rank)
    return translated("alpha is the rank where it is not given", lora__rank=rank, lora__alpha=float(rank))


def _on_critic(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return as_here("generator and critic both have them")
    return nothing("there all of the critic's weights are trained; here it has adapters as the generator has")


_ADAPTER: dict[str, Rule] = {
    "type": _adapter_kind,
    "rank": _rank,
    "alpha": lambda theirs, key: translated(lora__alpha=theirs.number(key)),
    "dropout": lambda theirs, key: as_here("none; it never acts there: the networks train in evaluation mode"),
    "dtype": lambda theirs, key: as_here("their trainer does not read it; float32"),
    "apply_to_critic": _on_critic,
    "verbose": lambda theirs, key: as_here("it only prints"),
}
_PLACES = [key for keys in _READ_WITH.values() for key in keys]

RULES: dict[str, Rule] = {
    "streaming_training": _streaming,
    "streaming_chunk_size": _if_streaming(_chunk),
    "streaming_min_new_frame": _if_streaming(_new_frames),
    "streaming_max_length": _if_streaming(_max_length),
    "streaming_possible_max_length": _if_streaming(_max_length),
    "train_first_chunk": _if_streaming(_first_chunk),
    "switch_mode": _switch_mode,
    **dict.fromkeys(_PLACES, _switch_place),
    "switch_prompt_path": _switch_prompts,
    "global_sink": _sink_at_switch,
    "switch_frame_indices": _prompts_when_sampling,
    "lora_ckpt": _if_training(_trained_before),
    **{f"adapter.{name}": _if_training(rule) for name, rule in _ADAPTER.items()},
}
