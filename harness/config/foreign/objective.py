"""Their keys of the objective: guidance, score timesteps, updates, averages, optimizers."""

from __future__ import annotations

from harness.config.foreign.theirs import Outcome, Rule, Theirs, as_here, nothing, translated
from harness.errors import HarnessError


def _trainer(theirs: Theirs, key: str) -> Outcome:
    if theirs.text(key) != "score_distillation":
        raise HarnessError(
            f"{theirs.file}: {key}: {theirs.text(key)}: only `score_distillation` is translated; "
            "for supervised training see `python -m harness explain PRESET --method causal_sft`"
        )
    return as_here("method: dmd")


def _distribution_loss(theirs: Theirs, key: str) -> Outcome:
    loss = theirs.text(key)
    if loss == "dmd":
        return translated(method="dmd")
    if loss == "dmd_switch" and theirs.switches:
        return translated("each sequence changes its prompt once", method="dmd", long_tuning__switch_probability=1.0)
    if loss == "dmd_switch":
        return nothing("without streaming_training a clip keeps its prompt here: DMD")
    if loss == "sid":
        return nothing("SiD is another objective: what is written trains with DMD instead")
    raise HarnessError(f"{theirs.file}: {key}: {loss} is another objective; expected dmd, dmd_switch or sid")


def _guidance(theirs: Theirs, key: str) -> Outcome:
    if theirs.has("real_guidance_scale") and key == "guidance_scale":
        return as_here("not read there when real_guidance_scale is given")
    scale = theirs.number(key)
    if scale < 0:
        raise theirs.wrong(key, "a number of at least 0")
    return translated(
        f"theirs is cond + {scale:g}·(cond − uncond), ours uncond + s·(cond − uncond): s = 1 + {scale:g}",
        dmd__cfg_scale=1 + scale,
    )


def _critic_guidance(theirs: Theirs, key: str) -> Outcome:
    if theirs.number(key) == 0:
        return as_here("the critic is conditional only")
    return nothing("the critic is not guided here")


def _timestep_shift(theirs: Theirs, key: str) -> Outcome:
    return translated("of the score's timestep", dmd__shift=theirs.number(key))


def _num_train_timestep(theirs: Theirs, key: str) -> Outcome:
    if theirs.whole(key, 1) != 1000:
        return nothing("timesteps run to 1000 here")
    return translated("its score timestep is clamped to 2 % … 98 % of it", dmd__min_t=20.0, dmd__max_t=980.0)


def _ts_schedule(theirs: Theirs, key: str) -> Outcome:
    if theirs.flag(key):
        return nothing("the exit step does not bound the score's timestep here")
    return as_here("the exit step does not bound the score's timestep")


def _min_score_timestep(theirs: Theirs, key: str) -> Outcome:
    if theirs.number(key) == 0:
        return as_here("the score's timestep is drawn from the whole range")
    return nothing("the score's timestep is drawn from the whole range here, then clamped (dmd.min_t)")


def _denoising_loss(theirs: Theirs, key: str) -> Outcome:
    if theirs.text(key) == "flow":
        return as_here("the critic learns the velocity")
    return nothing("the critic learns the velocity here")


def _ratio(theirs: Theirs, key: str) -> Outcome:
    return translated(
        "every iteration updates the critic, and every one in so many the generator first",
        dmd__critic_updates_per_generator_update=theirs.ratio,
    )


def _max_iters(theirs: Theirs, key: str) -> Outcome:
    if not theirs.trains:
        return as_here("nothing is trained")
    iterations = theirs.whole(key, 1)
    updates = theirs.generator_updates(iterations)
    return translated(
        f"iterations: one in {theirs.ratio} of the {iterations:,} updates the generator", dmd__generator_updates=updates
    )


def _ema_weight(theirs: Theirs, key: str) -> Outcome:
    if not theirs.trains:
        return as_here("nothing is trained")
    decay = theirs.number(key) if theirs.has(key) else 0.0
    if decay <= 0:
        return translated("no average: 0 keeps the weights themselves", dmd__ema_decay=0.0)
    if theirs.has_adapter:
        return translated("with low-rank adapters their trainer makes no average", dmd__ema_decay=0.0)
    return translated("for each generator update in both", dmd__ema_decay=decay)


def _ema_start(theirs: Theirs, key: str) -> Outcome:
    iterations = theirs.whole(key)
    return translated(
        f"iterations: {iterations} of them hold {theirs.generator_updates(iterations)} generator updates",
        dmd__ema_start=theirs.generator_updates(iterations),
    )


def _lr(theirs: Theirs, key: str) -> Outcome:
    if theirs.has("lr_critic"):
        return translated(dmd__generator_optimizer__lr=theirs.number(key))
    return translated(
        "of both networks, without lr_critic",
        dmd__generator_optimizer__lr=theirs.number(key),
        dmd__critic_optimizer__lr=theirs.number(key),
    )


def _lr_critic(theirs: Theirs, key: str) -> Outcome:
    return translated(dmd__critic_optimizer__lr=theirs.number(key))


def _betas(theirs: Theirs, key: str) -> Outcome:
    of_critic = key.endswith("_critic")
    names = ("beta1_critic", "beta2_critic") if of_critic else ("beta1", "beta2")
    betas = [theirs.number(name) for name in names]
    if of_critic:
        return translated(dmd__critic_optimizer__betas=betas)
    return translated(dmd__generator_optimizer__betas=betas)


def _weight_decay(theirs: Theirs, key: str) -> Outcome:
    decay = theirs.number(key)
    return translated(
        "one for both networks there",
        dmd__generator_optimizer__weight_decay=decay,
        dmd__critic_optimizer__weight_decay=decay,
    )


def _grad_norm(theirs: Theirs, key: str) -> Outcome:
    if key.endswith("_critic"):
        return translated(dmd__critic_optimizer__clip_norm=theirs.number(key))
    return translated(dmd__generator_optimizer__clip_norm=theirs.number(key))


def _negative_prompt(theirs: Theirs, key: str) -> Outcome:
    text, ours = theirs.text(key), theirs.preset.encoders.negative_prompt or ""
    if not theirs.trains:
        return as_here("few steps are not guided")
    if text == ours:
        return as_here("the unconditional branch gets the same text" if text else "it gets the empty prompt")
    value = f"the negative_prompt of {theirs.file}" if text else "null"
    return as_here(
        "the unconditional branch gets what encoders.negative_prompt of the preset says when the prompts are encoded",
        f"in params.yaml: encoders.negative_prompt of preset {theirs.preset_name} has to be {value}",
    )


RULES: dict[str, Rule] = {
    "trainer": _trainer,
    "distribution_loss": _distribution_loss,
    "guidance_scale": _guidance,
    "real_guidance_scale": _guidance,
    "fake_guidance_scale": _critic_guidance,
    "timestep_shift": _timestep_shift,
    "num_train_timestep": _num_train_timestep,
    "ts_schedule": _ts_schedule,
    "ts_schedule_max": _ts_schedule,
    "min_score_timestep": _min_score_timestep,
    "denoising_loss_type": _denoising_loss,
    "dfake_gen_update_ratio": _ratio,
    "max_iters": _max_iters,
    "ema_weight": _ema_weight,
    "ema_start_step": _ema_start,
    "lr": _lr,
    "lr_critic": _lr_critic,
    "beta1": _betas,
    "beta2": _betas,
    "beta1_critic": _betas,
    "beta2_critic": _betas,
    "weight_decay": _weight_decay,
    "max_grad_norm_generator": _grad_norm,
    "max_grad_norm_critic": _grad_norm,
    "negative_prompt": _negative_prompt,
    "sid_alpha": lambda theirs, key: nothing("a weight of SiD, which is another objective"),
    "discriminator_lr_multiplier": lambda theirs, key: as_here("there is no discriminator"),
}
