"""What a run is: every setting, its unit, its reference value.

The classes only hold and check values; `harness.config.load` reads them from YAML. Defaults are the values of the
reference systems (Self-Forcing, arXiv 2506.08009; DMD2, 2405.14867; LongLive, 2509.22622), so that a preset states only
what it changes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, le, lt, min_len, optional


def _positive(default: Any = None) -> Any:
    return field(validator=gt(0)) if default is None else field(validator=gt(0), default=default)


def _fraction(default: float) -> Any:
    return field(default=default, validator=and_(ge(0.0), le(1.0)))


def _one_plus_four_k(instance: Any, attribute: Any, value: Any) -> None:
    if value < 1 or value % 4 != 1:
        raise ValueError(f"must be 1 + 4k (1, 5, 9, …, 33, 81), got {value}")


def _in_unit_interval(instance: Any, attribute: Any, value: Any) -> None:
    if not all(0.0 <= b < 1.0 for b in value):
        raise ValueError(f"each must be in [0, 1), got {list(value)}")


def _decreasing(instance: Any, attribute: Any, value: Any) -> None:
    if any(not 0 < s <= 1000 for s in value) or any(a <= b for a, b in pairwise(value)):
        raise ValueError(f"must decrease within 1…1000, got {list(value)}")


def _all_or_positive(instance: Any, attribute: Any, value: Any) -> None:
    if value != -1 and value < 1:
        raise ValueError(f"must be −1 (all frames) or at least one frame, got {value}")


def _with_kind(instance: Any, attribute: Any, value: Any) -> None:
    if value is None and instance.kind in ("checkpoint", "student"):
        raise ValueError(f"must be given with `kind: {instance.kind}`")
    if value is not None and instance.kind not in ("checkpoint", "causal_sft", "student"):
        raise ValueError("is read with `kind: checkpoint`, `causal_sft` or `student` only")


@frozen(kw_only=True)
class Splits:
    """Number of clips in each split."""

    train: int = _positive()
    validation: int = _positive()
    test: int = _positive()


@frozen(kw_only=True)
class DataConfig:
    """Source clips. `frames` is 1 + 4k (the VAE's temporal grouping); sizes in pixels."""

    source: Literal["moving_digits", "videos"]
    height: int = _positive()
    width: int = _positive()
    frames: int = field(validator=_one_plus_four_k)
    fps: int = _positive(8)
    clips: Splits
    open_directions: float = _fraction(0.0)  # share of moving-digit captions that leave the direction open
    seed: int = field(default=0, validator=ge(0))
    path: str | None = None  # the folder of videos, for `source: videos`


@frozen(kw_only=True)
class EncodersConfig:
    """What turns pixels and words into tensors, before training.

    `pca`, `random_umt5` and `random_clip` are made here; anything else is a folder.
    """

    vae: str = "pca"
    text_encoder: str = "random_umt5"
    latent_channels: int = _positive(16)
    spatial_factor: int = _positive(4)
    temporal_factor: int = _positive(4)
    text_dim: int = _positive(64)
    text_layers: int = _positive(2)
    image_encoder: str | None = None  # of first frames, for image to video; null: the data carries no image conditions
    image_dim: int = _positive(64)  # width of an image token
    image_layers: int = _positive(2)  # of `random_clip`; the tokens are read before the last
    position_channels: bool = False  # sine and cosine of row and column, and a first-frame flag, as input channels
    text_length: int = _positive(512)  # positions the text is zero-padded to; the padding is attended, as in Wan
    negative_prompt: str | None = None  # what guidance leads away from; null: the empty prompt
    seed: int = field(default=0, validator=ge(0))


@frozen(kw_only=True)
class EvaluatorsConfig:
    """The feature networks that metrics read, trained once on real clips for a fixed number of steps."""

    steps: int = _positive()
    batch_size: int = _positive(64)
    lr: float = _positive(2e-3)
    seed: int = field(default=0, validator=ge(0))


@frozen(kw_only=True)
class Gate:
    """What the teacher must reach on the test prompts, else its stage fails."""

    caption_accuracy: float = _fraction(0.9)
    motion_accuracy: float = _fraction(0.95)


@frozen(kw_only=True)
class EvaluationConfig:
    """The protocol of the evaluation card."""

    clips: int = _positive(256)
    repeats: int = _positive(1)  # independent noise sets
    batch_size: int = _positive(64)
    teacher_steps: int = _positive(25)
    teacher_cfg_scale: float = field(default=2.5, validator=ge(1.0))
    cut_cfg_scale: float = field(default=1.5, validator=ge(1.0))  # few guided steps want less guidance
    long_clips: int = _positive(64)  # of the long evaluation, where a run has one (`evaluate_frames`)
    seed: int = field(default=1234, validator=ge(0))
    gate: Gate = field(factory=Gate)


@frozen(kw_only=True)
class AdamWConfig:
    """AdamW with linear warm-up, a hold, and a linear decay to `final_fraction` of `lr`."""

    lr: float = _positive()
    betas: tuple[float, float] = field(default=(0.9, 0.999), validator=_in_unit_interval)
    weight_decay: float = field(default=0.01, validator=ge(0.0))
    clip_norm: float = _positive(10.0)  # of each network on its own
    warmup_updates: int = field(default=0, validator=ge(0))
    hold_fraction: float = _fraction(1.0)
    final_fraction: float = _fraction(1.0)


@frozen(kw_only=True)
class SFTConfig:
    """Flow matching on real clips (Wan, arXiv 2503.20314), bidirectional."""

    updates: int = _positive()
    batch_size: int = _positive(64)
    shift: float = _positive(5.0)
    weighting: Literal["bell", "uniform"] = "bell"
    caption_dropout: float = _fraction(0.1)
    ema_decay: float = field(default=0.999, validator=and_(ge(0.0), lt(1.0)))
    ema_start: int = field(default=0, validator=ge(0))
    monitor_every_updates: int | None = field(default=None, validator=optional(gt(0)))  # null: not measured
    optimizer: AdamWConfig


@frozen(kw_only=True)
class CausalSFTConfig(SFTConfig):
    """Flow matching with a block-causal mask: teacher forcing ([clean ‖ noisy]) or diffusion forcing (2407.01392)."""

    context: Literal["teacher_forcing", "diffusion_forcing"] = "teacher_forcing"


@frozen(kw_only=True)
class DMDConfig:
    """Distribution matching distillation (2311.18828, 2405.14867) as Self-Forcing uses it.

    `cfg_scale` is the standard convention, `uncond + cfg_scale·(cond − uncond)`: the reference's `guidance_scale: 3` is
    4 here.
    """

    generator_updates: int = _positive()
    critic_updates_per_generator_update: int = _positive(5)
    critic_warmup_updates: int = field(default=0, validator=ge(0))  # critic updates before the first generator update
    rollouts_ahead: bool = False  # roll out for all critic updates of a cycle at once: fewer calls, more cache
    batch_size: int = _positive(64)
    shift: float = _positive(5.0)  # of the score timestep
    min_t: float = field(default=20.0, validator=and_(ge(0.0), le(1000.0)))
    max_t: float = field(default=980.0, validator=and_(ge(0.0), le(1000.0)))
    cfg_scale: float = field(default=4.0, validator=ge(1.0))
    normalize_gradient: Literal["sample", "block", "none"] = "sample"
    ema_decay: float = field(default=0.99, validator=and_(ge(0.0), lt(1.0)))
    # generator updates before averaging begins; the reference's 200 counts iterations, of which every 5th updates it
    ema_start: int = field(default=40, validator=ge(0))
    monitor_every_updates: int | None = field(default=None, validator=optional(gt(0)))  # generator updates; null: never
    generator_optimizer: AdamWConfig
    critic_optimizer: AdamWConfig


@frozen(kw_only=True)
class RolloutConfig:
    """How the generator makes video; shared by training and sampling. Lengths in latent frames."""

    attention: Literal["causal", "bidirectional"] = "causal"
    frames_per_block: int = _positive(3)
    window: int = field(default=-1, validator=_all_or_positive)  # attended frames with the current block; −1: all
    sink: int = field(default=0, validator=ge(0))  # first frames that never leave the window
    # positions of the rotary embedding: indices of the video's frames, or places in the window, which stay bounded
    rope: Literal["absolute", "relative"] = "absolute"
    # What a new prompt does to the cache (LongLive's KV recache): `recache_keep_sink` runs the last frames again under
    # it and leaves the sink; `recache` makes the sink of them too; `keep` leaves the cache; `clear` empties it
    on_switch: Literal["recache_keep_sink", "recache", "keep", "clear"] = "recache_keep_sink"
    # table indices, warped by `shift`
    denoising_steps: tuple[int, ...] = field(default=(1000, 750, 500, 250), validator=and_(min_len(1), _decreasing))
    shift: float = _positive(5.0)
    exit_step: Literal["uniform", "uniform_per_block", "last"] = "uniform"
    context_sigma: float = field(
        default=0.0, validator=and_(ge(0.0), lt(1.0))
    )  # 0.00498 reproduces the released training code
    gradient_frames: int = _positive(21)  # frames earlier than the last 21 get no gradient
    kv_grad: Literal["detach", "straight_through"] = "detach"
    # How a given image reaches the generator. `channels`: Wan's CLIP tokens and `y`; `first_latent`: its clean latent
    # is frame 0 at t = 0, in a causal generator through the KV cache; `both`
    image_conditioning: Literal["none", "channels", "first_latent", "both"] = "none"

    @property
    def has_image(self) -> bool:
        """Whether the run is image to video."""
        return self.image_conditioning != "none"

    @property
    def first_frame_given(self) -> bool:
        """Whether frame 0 is the given image's clean latent instead of being generated."""
        return self.image_conditioning in ("first_latent", "both")


@frozen(kw_only=True)
class InitConfig:
    """Where the generator's weights come from.

    `path` is the model's folder (`checkpoint`), or that of runs, one for each seed: of causal SFT (`causal_sft`; null:
    `checkpoints/causal_sft`) or of an arm's students (`student`, `checkpoints/<experiment>/<arm>`).
    """

    kind: Literal["random", "teacher", "causal_sft", "student", "checkpoint"] = "teacher"
    path: str | None = field(default=None, validator=_with_kind)


@frozen(kw_only=True)
class LongTuningConfig:
    """Streaming long tuning (LongLive, arXiv 2509.22622, §3.2): each update goes on with the sequence of the last one.

    An update makes `min_new_frames` to `max_new_frames` new frames, in whole blocks, drawn evenly; the clip that the
    teacher judges are the new frames and as many carried ones as fill it. Lengths in latent frames.
    """

    enabled: bool = False
    max_frames: int = _positive(240)  # longest sequence
    min_new_frames: int = _positive(18)
    max_new_frames: int | None = field(default=None, validator=optional(gt(0)))  # null: the length of a clip
    switch_probability: float = _fraction(0.0)  # chance that a sequence changes its prompt, at one of its chunks


@frozen(kw_only=True)
class LoRAConfig:
    """Low-rank adapters (arXiv 2106.09685) on generator and critic, whose own weights stay as they are (DMD)."""

    rank: int | None = field(default=None, validator=optional(gt(0)))  # null: all weights are trained; LongLive: 256
    alpha: float = _positive(256.0)  # an adapter's output is scaled by alpha / rank
    # names, or ends of names, of the linear layers that get one; `all`: every one in the blocks
    targets: tuple[str, ...] = field(default=("all",), validator=min_len(1))
    share_teacher: bool = False  # teacher and critic hold one copy of the teacher's weights, if the critic starts there


@frozen(kw_only=True)
class MonitorConfig:
    """Quality on fixed validation prompts and noise during training; the best checkpoint is kept by `metric`."""

    clips: int = _positive(128)
    metric: str = "fvd"
    batch_size: int = _positive(1)  # clips that are sampled at once
    patience: int | None = field(default=None, validator=optional(gt(0)))  # readings without a better, to stop after


@frozen(kw_only=True)
class ParallelismConfig:
    """One process, or several through the `composer` launcher."""

    kind: Literal["ddp", "fsdp1", "fsdp2"] = "ddp"
    activation_checkpointing: bool = False
    device_microbatch_size: int | None = field(default=None, validator=optional(gt(0)))
    shard_degree: int | None = field(default=None, validator=optional(gt(0)))  # processes to a copy; null: all (FSDP)
    reshard_after_forward: bool = True  # false: the generator's layers stay gathered through a rollout (FSDP2)
    teacher_cpu_offload: bool = False  # the teacher's layers wait in host memory (FSDP)


@frozen(kw_only=True)
class RunConfig:
    """One training run, complete: nothing is read from anywhere else."""

    preset: str
    method: Literal["sft", "causal_sft", "dmd"]
    seed: int = field(validator=and_(ge(0), lt(2**32)))
    model: str  # a name in `harness.models.presets`
    frames: int = _positive()  # latent frames of a training clip
    init: InitConfig = field(factory=InitConfig)
    rollout: RolloutConfig = field(factory=RolloutConfig)
    sft: SFTConfig
    causal_sft: CausalSFTConfig
    dmd: DMDConfig
    long: bool = False  # a run on long video: the preset's section `long` holds
    captions_with: str | None = None  # only captions that contain it are trained with, and shown long; null: all
    long_tuning: LongTuningConfig = field(factory=LongTuningConfig)  # of DMD
    lora: LoRAConfig = field(factory=LoRAConfig)
    monitor: MonitorConfig = field(factory=MonitorConfig)
    # latent frames of the long clips that the student is evaluated on besides those of `frames`; null: none
    evaluate_frames: int | None = field(default=None, validator=optional(gt(0)))
    parallelism: ParallelismConfig = field(factory=ParallelismConfig)
    precision: Literal["fp32", "bf16"] = "fp32"
    attention_backend: str = "native"  # a name of diffusers' dispatcher: native, flash, flex, …
    threads: int = _positive(1)  # CPU threads per process: fixed, because the sum's order is part of the result
    save_every_batches: int = _positive(50)
    keep_states: int = _positive(2)  # resume states that stay on disk; more than one, in case the newest is damaged
    log_every_batches: int = _positive(1)
    teacher: str = "checkpoints/teacher"  # its `model/` is a diffusers folder
    critic: str | None = None  # where DMD's critic starts, a model folder of any size; null: from the teacher
    data: str = "data/encoded"
    # a folder that `python -m harness prompts` wrote: DMD trains on these, not on the clips' captions; null: on those
    prompts: str | None = None

    @property
    def told_by(self) -> str:
        """The folder with what the networks are told in training: prompts, or clips with their captions."""
        return self.data if self.prompts is None else self.prompts

    @property
    def monitor_every_updates(self) -> int | None:
        """Updates of this run's method between two quality measurements; None: there are none."""
        return {"sft": self.sft, "causal_sft": self.causal_sft, "dmd": self.dmd}[self.method].monitor_every_updates


@frozen(kw_only=True)
class Preset:
    """Everything of one size: `tiny` on a laptop, the Wan names on a cluster."""

    data: DataConfig
    encoders: EncodersConfig
    evaluators: EvaluatorsConfig
    evaluation: EvaluationConfig
    run: dict[str, Any]  # defaults of RunConfig, without `preset`, `method`, `seed`
    i2v: dict[str, Any] | None = None  # what differs when `rollout.image_conditioning` is on; null: nothing
    long: dict[str, Any] | None = None  # what differs in a run with `long: true`; null: nothing
