"""Whose configuration a file is, and what it means where it says nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from attrs import field, frozen

from harness.config.documents import merge
from harness.errors import HarnessError


@frozen(kw_only=True)
class Dialect:
    """One code base's way of writing a run down.

    name       as `--from` takes it
    source     repository and paper
    signs      keys that only its files have; a key that ends in a dot stands for a section
    defaults   what holds where a file says nothing: its `default_config.yaml` and its code
    more       sign of a key or section → what else holds by default in files that have it
    """

    name: str
    source: str
    signs: tuple[str, ...]
    defaults: Mapping[str, Any]
    more: Mapping[str, Mapping[str, Any]] = field(factory=dict)

    def defaults_for(self, keys: Collection[str]) -> dict[str, Any]:
        """What holds by default in a file with these dotted keys."""
        return merge(self.defaults, *(values for sign, values in self.more.items() if _bears(keys, sign)))


# The three code bases share their trainer, and with it these. `None` is "not given".
_SHARED: dict[str, Any] = {
    "independent_first_frame": False,
    "warp_denoising_step": False,
    "weight_decay": 0.01,
    "same_step_across_blocks": True,
    "last_step_only": False,
    "num_training_frames": 21,
    "context_noise": 0,
    "ema_weight": None,
    "generator_ckpt": None,
    "real_name": "Wan2.1-T2V-1.3B",
    "fake_name": "Wan2.1-T2V-1.3B",
    "max_grad_norm_generator": 10.0,
    "max_grad_norm_critic": 10.0,
    "model_kwargs": {"timestep_shift": 8.0},
    "timestep_shift": 1.0,
}

_SECOND_STAGE: dict[str, dict[str, Any]] = {
    "streaming_training": {
        "streaming_chunk_size": 21,
        "streaming_max_length": 57,
        "streaming_min_new_frame": 18,
        "train_first_chunk": False,
        "global_sink": False,
    },
    "switch_prompt_path": {"switch_mode": "fixed", "fixed_switch_index": 21},
    "adapter.": {"adapter": {"rank": 16, "apply_to_critic": True}},
}

DIALECTS = (
    Dialect(
        name="longlive",
        source="NVlabs/LongLive, arXiv 2509.22622",
        signs=(
            "model_kwargs.local_attn_size",
            "model_kwargs.sink_size",
            "model_kwargs.use_infinite_attention",
            "adapter.",
            "global_sink",
            "lora_ckpt",
            "min_num_training_frames",
            "slice_last_frames",
            "streaming_training",
            "switch_prompt_path",
        ),
        defaults={**_SHARED, "max_iters": 10000, "generator_type": "causal"},
        more=_SECOND_STAGE,
    ),
    Dialect(
        name="longlive-2",
        source="NVlabs/LongLive 2",
        signs=("infra.", "algorithm.", "training."),
        defaults={},
    ),
    Dialect(
        name="self-forcing-plus",
        source="GoatWu/Self-Forcing-Plus",
        signs=(
            "generator_type",
            "generator_name",
            "data_type",
            "data_max_count",
            "generator_is_causal",
            "image_encoder_fsdp_wrap_strategy",
            "training_target",
        ),
        defaults={**_SHARED, "generator_type": "causal"},
    ),
    Dialect(
        name="self-forcing",
        source="guandeh17/Self-Forcing, arXiv 2506.08009",
        signs=(),
        defaults={**_SHARED, "generator_type": "causal"},
    ),
)
NAMES = tuple(dialect.name for dialect in DIALECTS if dialect.defaults)
_COMMON = ("denoising_step_list", "dfake_gen_update_ratio", "distribution_loss")  # of all of them


def dialect_called(name: str) -> Dialect:
    """The dialect of this name, one of `NAMES`."""
    return next(dialect for dialect in DIALECTS if dialect.name == name)


def detect(keys: Collection[str], where: str) -> Dialect:
    """Tell by its dotted keys whose file it is: the one most of whose signs it bears.

    Raises:
        HarnessError: the file bears no sign of any, those of two equally, or those of a layout that is not translated.
    """
    found = {dialect.name: sum(_bears(keys, sign) for sign in dialect.signs) for dialect in DIALECTS}
    most = max(found.values())
    names = [name for name, count in found.items() if count == most]
    ask = f"say it with --from {'|'.join(NAMES)}"
    if most == 0:
        if not any(key in keys for key in _COMMON):
            raise HarnessError(f"{where}: has none of the keys {', '.join(_COMMON)}: whose configuration is it? {ask}")
        return dialect_called("self-forcing")
    if len(names) > 1:
        raise HarnessError(f"{where}: could be of {' or '.join(names)}; {ask}")
    if names == ["longlive-2"]:
        raise HarnessError(
            f"{where}: this is LongLive 2's layout (sections `infra`, `algorithm`, `training`), which is not translated"
        )
    return dialect_called(names[0])


def _bears(keys: Collection[str], sign: str) -> bool:
    return any(key.startswith(sign) for key in keys) if sign.endswith(".") else sign in keys
