"""Their keys of the machine and the bookkeeping: batches, sharding, precision, data, logs, checkpoints, sampling."""

from __future__ import annotations

import shlex

from harness.config.foreign.theirs import Outcome, Rule, Theirs, as_here, nothing, translated

SECRETS = ("wandb_key",)  # their values are not shown
PROMPTS = "data/prompts"  # the folder that the list of prompts is encoded into


def _total_batch(theirs: Theirs, key: str) -> Outcome:
    return translated(
        "over all processes; their trainer does not read it: there it is batch_size × GPUs (× accumulation)",
        dmd__batch_size=theirs.whole(key, 1),
    )


def _batch(theirs: Theirs, key: str) -> Outcome:
    return translated("of one GPU at a time", parallelism__device_microbatch_size=theirs.whole(key, 1))


def _sharding(theirs: Theirs, key: str) -> Outcome:
    strategy = theirs.text(key)
    match strategy:
        case "no_shard":
            return translated(parallelism__kind="ddp")
        case "full":
            return translated("every process holds its share of the weights", parallelism__kind="fsdp2")
        case "hybrid_full" | "hybrid_zero2":
            return translated(
                "here over all processes, there within a node (parallelism.shard_degree=GPUs of a node); equal numbers",
                parallelism__kind="fsdp2",
            )
    raise theirs.wrong(key, "full, hybrid_full, hybrid_zero2 or no_shard")


def _precision(theirs: Theirs, key: str) -> Outcome:
    value = theirs.values[key]
    if value in (True, "bf16"):
        return translated("autocast to bf16; weights and their sums stay float32", precision="bf16")
    if value in (False, "no"):
        return translated(precision="fp32")
    if value == "fp16":
        return nothing("fp32 and bf16 only")
    raise theirs.wrong(key, "true or false")


def _checkpointing(theirs: Theirs, key: str) -> Outcome:
    return translated(parallelism__activation_checkpointing=theirs.flag(key))


def _offload(theirs: Theirs, key: str) -> Outcome:
    if key == "text_encoder_cpu_offload":
        return as_here("text is encoded before training: the encoder takes no memory")
    if key == "real_score_cpu_offload":
        return translated(parallelism__teacher_cpu_offload=theirs.flag(key))
    if theirs.flag(key):
        return nothing("only the teacher's weights can wait in host memory here")
    return as_here("the weights stay on the GPU")


def _seed(theirs: Theirs, key: str) -> Outcome:
    seed = theirs.whole(key)
    return translated("there 0 draws another seed every time; here a seed is a seed" if seed == 0 else "", seed=seed)


def _prompts(theirs: Theirs, key: str) -> Outcome:
    prompts = theirs.text(key)
    if not theirs.trains:
        return nothing("`python -m harness sample` takes its prompts from the command line")
    if theirs.is_told_images:
        return nothing("each prompt needs its first frame, which a list has not: training reads the clips in `data`")
    before = f"needs `preset: {theirs.preset_name}` at the top of params.yaml, and `python -m harness encoders`"
    if theirs.values.get("data_type") == "text_folder":
        before = f"each file there holds a prompt: write them into one list, a line for each; {before}"
        prompts = "LIST.txt"
    to_do = f"python -m harness prompts {shlex.quote(prompts)} --out {PROMPTS}"
    return translated(before, to_do, prompts=PROMPTS)


def _saving(theirs: Theirs, key: str) -> Outcome:
    if not theirs.trains:
        return as_here("nothing is trained")
    iterations = theirs.whole(key, 1)
    batches = iterations + theirs.generator_updates(iterations)
    return translated(
        f"{iterations} iterations take {batches} batches, one for each update of either network",
        save_every_batches=batches,
    )


def _frames_to_sample(theirs: Theirs, key: str) -> Outcome:
    pixel_frames = 1 + 4 * (theirs.whole(key, 1) - 1)  # theirs are latent frames
    return nothing(f'say it when sampling: `python -m harness sample TARGET "…" --frames {pixel_frames}`')


def _samples(theirs: Theirs, key: str) -> Outcome:
    number = theirs.whole(key, 1)
    if number == 1:
        return as_here("one video for each prompt")
    return nothing(f"say it when sampling: `--number {number}`")


def _folder(theirs: Theirs, key: str) -> Outcome:
    return nothing(f"say it when sampling: `--out {theirs.text(key)}`")


def _raw_video(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return nothing("clips are encoded before training here")
    return as_here("nothing is encoded in the loop")


def _every(keys: tuple[str, ...], outcome: Outcome) -> dict[str, Rule]:
    return dict.fromkeys(keys, lambda theirs, key: outcome)


RULES: dict[str, Rule] = {
    "total_batch_size": _total_batch,
    "batch_size": _batch,
    "gradient_accumulation_steps": lambda theirs, key: as_here("follows from the batch, its microbatches and the GPUs"),
    "sharding_strategy": _sharding,
    "mixed_precision": _precision,
    "gradient_checkpointing": _checkpointing,
    "seed": _seed,
    "data_path": _prompts,
    "log_iters": _saving,
    "num_output_frames": _frames_to_sample,
    "num_samples": _samples,
    "output_folder": _folder,
    "load_raw_video": _raw_video,
    **dict.fromkeys(
        (
            "text_encoder_cpu_offload",
            "generator_cpu_offload",
            "real_score_cpu_offload",
            "fake_score_cpu_offload",
            "image_encoder_cpu_offload",
        ),
        _offload,
    ),
    **_every(
        (
            "generator_fsdp_wrap_strategy",
            "real_score_fsdp_wrap_strategy",
            "fake_score_fsdp_wrap_strategy",
            "text_encoder_fsdp_wrap_strategy",
            "image_encoder_fsdp_wrap_strategy",
            "high_noise_model_fsdp_wrap_strategy",
        ),
        as_here("each network and each of its layers is wrapped; no number depends on it"),
    ),
    **_every(("data_type",), as_here("see data_path")),
    **_every(("data_max_count",), nothing("the whole list is used: cut it to so many prompts before it is encoded")),
    **_every(
        (
            "wandb_host",
            *SECRETS,
            "wandb_entity",
            "wandb_project",
            "wandb_save_dir",
            "disable_wandb",
            "use_one_logger",
        ),
        nothing("Weights & Biases is set by its environment variables (WANDB_MODE, WANDB_PROJECT, …)"),
    ),
    **_every(
        (
            "vis_interval",
            "vis_ema",
            "vis_video_lengths",
            "val_batch_size",
            "val_data_path",
            "val_switch_prompt_path",
            "no_visualize",
        ),
        nothing("quality is measured instead, every dmd.monitor_every_updates: results/…/quality.csv"),
    ),
    **_every(
        ("max_checkpoints", "no_save", "auto_resume"),
        as_here("the best and the last weights and the newest states are kept"),
    ),
    **_every(("gc_interval",), as_here("nothing has to be set")),
    **_every(("logdir", "config_name"), as_here("a run's folder follows from its name (`--name`)")),
    **_every(
        ("ckpt_step", "prompt_name", "prompt_path", "eval_first_n", "inference_iter", "save_with_index"),
        nothing("belongs to their sampling and evaluation scripts"),
    ),
}
