"""Their keys of the rollout and of the networks: steps, exit step, blocks, window, sink, sizes, initial weights."""

from __future__ import annotations

from pathlib import PurePath

from harness.config.foreign.theirs import Outcome, Rule, Theirs, as_here, nothing, translated


def _attention(theirs: Theirs, key: str) -> Outcome:
    return translated(rollout__attention="causal" if theirs.is_causal else "bidirectional")


def _denoising_steps(theirs: Theirs, key: str) -> Outcome:
    steps = theirs.numbers(key)
    kept = steps[:-1] if steps[-1] == 0 else steps
    return translated(
        "the closing 0 is no step" if kept != steps else "table indices in both", rollout__denoising_steps=kept
    )


def _warp(theirs: Theirs, key: str) -> Outcome:
    """`warp_denoising_step`, and the shift of the table that warps: both say where the steps lie."""
    if theirs.flag("warp_denoising_step"):
        shift = theirs.number("model_kwargs.timestep_shift")
        return translated("the steps are warped by the generator's own table", rollout__shift=shift)
    return translated("the steps are timesteps as they stand: shift 1 warps nothing", rollout__shift=1.0)


def _exit_step(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag("last_step_only"):
        return translated("no step but the last carries gradient", rollout__exit_step="last")
    same = theirs.flag("same_step_across_blocks")
    return translated(rollout__exit_step="uniform" if same else "uniform_per_block")


def _context_noise(theirs: Theirs, key: str) -> Outcome:
    t = theirs.number(key)
    if not 0 <= t < 1000:
        raise theirs.wrong(key, "a timestep of at least 0 and below 1000")
    if t > 0:
        return translated("a timestep there, a sigma here", rollout__context_sigma=t / 1000)
    return translated(
        "none, as in their sampling; their training adds the table's last sigma even then "
        "(rollout.context_sigma=0.00498 is the same)",
        rollout__context_sigma=0.0,
    )


def _frames_per_block(theirs: Theirs, key: str) -> Outcome:
    if not theirs.is_causal:
        return as_here("a bidirectional generator makes all frames at once")
    return translated(rollout__frames_per_block=theirs.whole(key, 1))


def _window(theirs: Theirs, key: str) -> Outcome:
    return translated("sink and current block count in both; −1: all frames", rollout__window=theirs.whole(key, -1))


def _sink(theirs: Theirs, key: str) -> Outcome:
    return translated(rollout__sink=theirs.whole(key))


def _gradient_frames(theirs: Theirs, key: str) -> Outcome:
    frames = theirs.whole(key, -1)
    if theirs.streams:
        return translated(
            "with streaming_training all new frames carry gradient",
            rollout__gradient_frames=theirs.whole("streaming_chunk_size", 1),
        )
    if frames == -1:
        return nothing("there all frames are supervised; here the last rollout.gradient_frames carry gradient")
    return translated("the last frames, which carry gradient", rollout__gradient_frames=frames)


def latent_frames(theirs: Theirs) -> int:
    """Latent frames of the preset's clips, which no run exceeds."""
    return 1 + (theirs.preset.data.frames - 1) // theirs.preset.encoders.temporal_factor


def _training_frames(theirs: Theirs, key: str) -> Outcome:
    if not theirs.trains:
        return as_here("nothing is trained")
    if theirs.streams:
        return as_here("streaming_chunk_size is read instead")
    frames, least = theirs.whole(key, 1), 21
    if theirs.has("min_num_training_frames"):
        least = theirs.whole("min_num_training_frames", 1)
    drawn = f"there the length is drawn between {least} and {frames}" if least != frames else ""
    return clip_length(theirs, frames, drawn)


def clip_length(theirs: Theirs, frames: int, why: str) -> Outcome:
    """The latent frames of a clip, if the preset's clips have as many."""
    available = latent_frames(theirs)
    if frames <= available:
        return translated(why, frames=frames)
    pixels = 1 + (frames - 1) * theirs.preset.encoders.temporal_factor
    return nothing(
        f"the clips of preset {theirs.preset_name} have {available} latent frames, and so have its runs; "
        f"`data.frames: {pixels}` in params.yaml would make it {frames}"
    )


def _least_frames(theirs: Theirs, key: str) -> Outcome:
    if theirs.whole(key, 1) == theirs.whole("num_training_frames", 1):
        return as_here("all rollouts have the same length")
    return nothing("all rollouts have the same length here")


def _shape(theirs: Theirs, key: str) -> Outcome:
    shape = theirs.numbers(key)
    if len(shape) != 5:
        raise theirs.wrong(key, "five numbers: batch, frames, channels, height, width")
    data, encoders = theirs.preset.data, theirs.preset.encoders
    ours = [encoders.latent_channels, data.height // encoders.spatial_factor, data.width // encoders.spatial_factor]
    if shape[2:] == ours:
        return as_here(f"the latents of preset {theirs.preset_name}; another key says how many frames")
    return nothing(f"latents are {ours[0]} × {ours[1]} × {ours[2]} in preset {theirs.preset_name}: change its `data`")


def _first_frame(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return nothing("the first block has as many frames as the others here")
    return as_here("all blocks have the same size")


def _i2v(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return nothing("the encoded data holds no image tokens and no image latents: they have to come from elsewhere")
    return as_here("text to video")


def _generator(theirs: Theirs, key: str) -> Outcome:
    if key != theirs.generator_key:
        return as_here(f"{theirs.generator_key} is read instead")
    return translated(preset=theirs.preset_name)


def _teacher(theirs: Theirs, key: str) -> Outcome:
    if not theirs.trains:
        return as_here("nothing is trained")
    model = theirs.model_of(key)
    folder = theirs.weights_of(model)
    if folder is None:
        return nothing(f"no preset of params.yaml says where the weights of {model} lie; set `teacher`")
    return translated("a folder as diffusers writes it", _import(_hub_id(model), model, folder), teacher=folder)


def _hub_id(model: str) -> str:
    """`wan2.1-i2v-14b-480p` → `Wan-AI/Wan2.1-I2V-14B-480P-Diffusers`, where Wan's authors publish it."""
    first, *others = model.split("-")
    return "Wan-AI/" + "-".join([first.capitalize(), *(word.upper() for word in others), "Diffusers"])


def _critic(theirs: Theirs, key: str) -> Outcome:
    if not theirs.trains:
        return as_here("nothing is trained")
    teacher = theirs.model_of("real_name")
    if theirs.model_of(key) == teacher:
        return as_here("the critic starts from the teacher's weights")
    model = theirs.model_of(key)
    folder = theirs.weights_of(model)
    if folder is None:
        return nothing(f"no preset of params.yaml says where the weights of {model} lie; set `critic`")
    return translated(
        "its first weights, which are not the teacher's", _import(_hub_id(model), model, folder), critic=folder
    )


def _import(source: str, model: str, folder: str, *options: str) -> str:
    return " ".join(["python -m harness import", source, "--preset", model, "--out", folder, *options])


def _initial_weights(theirs: Theirs, key: str) -> Outcome:
    if theirs.has(key):
        source = theirs.text(key)
        folder = f"pretrained/{PurePath(source).stem}"
        options = [f"--lora {theirs.text('lora_ckpt')}"] if theirs.has("lora_ckpt") else []
        if theirs.has("use_ema"):
            options.append(f"--weights {'ema' if theirs.flag('use_ema') else 'raw'}")
        elif theirs.trains and theirs.has_adapter:  # what their trainer puts adapters on, were there an average too
            options.append("--weights raw")
        to_do = _import(source, theirs.model, folder, *options)
        return translated("a folder as diffusers writes it", to_do, init__kind="checkpoint", init__path=folder)
    folder = theirs.weights_of(theirs.model)
    if theirs.model_of("real_name") == theirs.model or folder is None:
        return translated("the pretrained weights, which are the teacher's", init__kind="teacher")
    return translated(
        f"the pretrained weights of {theirs.model}, which is not the teacher",
        _import(_hub_id(theirs.model), theirs.model, folder),
        init__kind="checkpoint",
        init__path=folder,
    )


def _experts(theirs: Theirs, key: str) -> Outcome:
    return nothing("the two experts of Wan 2.2 are not built here: one network for all noise levels")


def _positions(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return translated("positions are places in the window", rollout__rope="relative")
    return translated("positions are frames of the video", rollout__rope="absolute")


def _size(theirs: Theirs, key: str) -> Outcome:
    ours = {
        "height": theirs.preset.data.height,
        "width": theirs.preset.data.width,
        "num_frames": theirs.preset.data.frames,
    }
    if theirs.whole(key, 1) == ours[key]:
        return as_here(f"the clips of preset {theirs.preset_name}")
    return nothing(f"{ours[key]} in preset {theirs.preset_name}: change its `data`")


_EXPERTS = ("training_target", "target", "boundary_step", "high_noise_name", "high_noise_distill_ckpt")

RULES: dict[str, Rule] = {
    "generator_type": _attention,
    "generator_is_causal": _attention,
    "causal": lambda theirs, key: as_here("read by no rollout there"),
    "denoising_step_list": _denoising_steps,
    "warp_denoising_step": _warp,
    "model_kwargs.timestep_shift": _warp,
    "same_step_across_blocks": _exit_step,
    "last_step_only": _exit_step,
    "context_noise": _context_noise,
    "num_frame_per_block": _frames_per_block,
    "model_kwargs.local_attn_size": _window,
    "model_kwargs.sink_size": _sink,
    "model_kwargs.use_infinite_attention": _positions,
    "slice_last_frames": _gradient_frames,
    "num_training_frames": _training_frames,
    "min_num_training_frames": _least_frames,
    "image_or_video_shape": _shape,
    "height": _size,
    "width": _size,
    "num_frames": _size,
    "independent_first_frame": _first_frame,
    "i2v": _i2v,
    "generator_name": _generator,
    "model_kwargs.model_name": _generator,
    "model_name": _generator,
    "real_name": _teacher,
    "fake_name": _critic,
    "generator_ckpt": _initial_weights,
    "use_ema": lambda theirs, key: as_here("the weights are chosen when they are imported"),
    **dict.fromkeys(_EXPERTS, _experts),
}
