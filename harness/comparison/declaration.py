"""The declaration of an experiment, `experiments/<name>/experiment.yaml`: read strictly and checked at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, lt, min_len, optional

from harness.config.documents import read_yaml
from harness.config.load import load_params, resolve_target, split_target
from harness.config.metrics import METRICS, OF_LONG_CLIPS
from harness.config.schema import RunConfig
from harness.config.structure import Problem, refusal, structure, suggest, unknown_key
from harness.errors import HarnessError

NAME = re.compile(r"[a-z][a-z0-9_]*")
_NAME_RULE = "must be lower-case letters, digits and `_`, and start with a letter"

# What every student is held against, besides other arms. A hypothesis must beat the strongest model of the group.
BASELINES: dict[str, tuple[str, ...]] = {
    "own_init": ("init",),
    "cut_teacher": ("teacher_cut", "teacher_cut_cfg"),
    "causal_sft": ("causal_sft", "causal_sft_euler", "causal_sft_cfg"),
}
SHOWN = ("real", "teacher", "given")  # names of columns and curves beside the arms
TEACHERS = ("teacher", "teacher_i2v")  # targets whose cards have the full teacher and the cut one


def _teachers(instance: Any, attribute: Any, value: Any) -> None:
    targets = list(value.values()) if isinstance(value, Mapping) else [value]
    if not targets or any(target not in TEACHERS for target in targets):
        known = " or ".join(f"`{target}`" for target in TEACHERS)
        raise ValueError(f"expected {known}, or one of them under the name of each arm, got {value!r}")


@frozen(kw_only=True)
class Arm:
    """One side of the comparison: `set` gives a value to every varied key."""

    label: str = field(validator=min_len(1))
    set: dict[str, Any]


@frozen(kw_only=True)
class Budget:
    """What the arms have in common. `tolerance` is the largest relative difference between two runs."""

    unit: Literal["generator_updates", "denoiser_forwards", "teraflops", "device_seconds"] = "generator_updates"
    tolerance: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))


@frozen(kw_only=True)
class MetricUse:
    """The part a metric plays. `min` and `max` bound a guardrail; `smallest_effect` replaces the metric's own."""

    role: Literal["primary", "secondary", "guardrail"]
    smallest_effect: float | None = field(default=None, validator=optional(ge(0.0)))
    min: float | None = None
    max: float | None = None


@frozen(kw_only=True)
class Baselines:
    """The results that students are held against, besides other arms and their own init.

    `teacher` is the target whose card has the full and the cut teacher: one for all arms, or one under the name of each
    arm. `causal_sft` is the group of the causal SFT runs, one for each seed (`<group>/seed<N>`); null: there is no such
    baseline.
    """

    teacher: Any = field(default="teacher", validator=_teachers)
    causal_sft: str | None = "causal_sft"

    def teacher_of(self, arm: str) -> str:
        """The target of an arm's own teacher."""
        return self.teacher[arm] if isinstance(self.teacher, Mapping) else self.teacher


@frozen(kw_only=True)
class Hypothesis:
    """`arm` is better than `than` (another arm, or a group of `BASELINES`) on `metric` by an amount that matters."""

    name: str
    statement: str = field(validator=min_len(1))
    arm: str
    than: str
    metric: str
    smallest_effect: float | None = field(default=None, validator=optional(ge(0.0)))


@frozen(kw_only=True)
class Analysis:
    """How the numbers are judged."""

    pair_by: Literal["seed"] = "seed"
    confidence: float = field(default=0.95, validator=and_(gt(0.5), lt(1.0)))
    correction: Literal["holm"] = "holm"


@frozen(kw_only=True)
class Declaration:
    """An experiment: one question, arms that differ in the `varied` keys only, and what would count as an answer."""

    schema: int = field(validator=in_((1,)))
    name: str
    question: str = field(validator=min_len(1))
    claim: str = field(validator=min_len(1))
    source: str = field(validator=min_len(1))
    seeds: tuple[int, ...] = field(validator=min_len(1))
    varied: tuple[str, ...] = field(validator=min_len(1))
    fixed: dict[str, Any]
    budget: Budget
    metrics: dict[str, MetricUse]
    hypotheses: list[Hypothesis] = field(validator=min_len(1))
    baselines: Baselines = field(factory=Baselines)
    analysis: Analysis = field(factory=Analysis)
    arms: dict[str, Arm]

    @property
    def primary(self) -> str:
        """Name of the primary metric."""
        return next(name for name, use in self.metrics.items() if use.role == "primary")

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of baselines that the experiment has."""
        return tuple(name for name in BASELINES if name != "causal_sft" or self.baselines.causal_sft is not None)

    def smallest_effect(self, metric: str, hypothesis: Hypothesis | None = None) -> float:
        """The smallest gain that matters: the hypothesis' own, else the experiment's, else the metric's, else 0."""
        own = hypothesis.smallest_effect if hypothesis else None
        known = (own, self.metrics[metric].smallest_effect, METRICS[metric].smallest_effect)
        return next((float(value) for value in known if value is not None), 0.0)

    def target(self, arm: str, seed: int) -> str:
        """The target that names one run."""
        return f"{self.name}/{arm}/seed{seed}"


def load_declaration(name: str, root: Path = Path(".")) -> Declaration:
    """Read and check `experiments/<name>/experiment.yaml`.

    Raises:
        HarnessError: with every problem at once, each with its path in the file and a suggestion.
    """
    path = root / "experiments" / name / "experiment.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in (root / "experiments").glob("*/experiment.yaml"))
        raise HarnessError(f"{path}: no such experiment{suggest(name, known)}")
    declaration = structure(Declaration, read_yaml(path), str(path))
    problems = check(declaration, name, load_params(root / "params.yaml").seeds)
    if problems:
        raise refusal(problems, str(path))
    configs = {arm: resolve_target(declaration.target(arm, declaration.seeds[0]), root) for arm in declaration.arms}
    checks = (check_budget, check_teachers, check_long)
    if problems := [problem for found in checks for problem in found(declaration, configs)]:
        raise refusal(problems, str(path))
    return declaration


def check(declaration: Declaration, folder: str, known_seeds: Iterable[int]) -> list[Problem]:
    """Everything wrong with a declaration by itself, as (path, what and what to do). Empty when it is right."""
    problems: list[Problem] = []
    if declaration.name != folder:
        problems.append(("name", f"must equal the folder's name `{folder}`, got `{declaration.name}`"))
    if not NAME.fullmatch(declaration.name):
        problems.append(("name", f"{_NAME_RULE}, got `{declaration.name}`"))
    return [
        *problems,
        *_check_seeds(declaration.seeds, sorted(known_seeds)),
        *_check_keys(declaration),
        *_check_arms(declaration),
        *_check_baselines(declaration),
        *_check_metrics(declaration.metrics),
        *_check_hypotheses(declaration),
    ]


def check_budget(declaration: Declaration, configs: Mapping[str, RunConfig]) -> list[Problem]:
    """Whether the arms' configurations ask for the same generator updates; other units are known after the runs."""
    if declaration.budget.unit != "generator_updates":
        return []
    asked = {arm: updates_asked(config) for arm, config in configs.items()}
    if within(asked.values(), declaration.budget.tolerance):
        return []
    listed = ", ".join(f"{arm} {updates}" for arm, updates in asked.items())
    return [
        ("budget", f"the arms ask for different numbers of generator updates ({listed}); fix one, or raise `tolerance`")
    ]


def check_teachers(declaration: Declaration, configs: Mapping[str, RunConfig]) -> list[Problem]:
    """Whether every arm is held against the teacher that it is distilled from."""
    problems = []
    for arm, config in configs.items():
        own, declared = config.teacher.removeprefix("checkpoints/"), declaration.baselines.teacher_of(arm)
        if config.method == "dmd" and own in TEACHERS and own != declared:
            problems.append(
                (
                    "baselines.teacher",
                    f"arm {arm} is distilled from {config.teacher}, but would be held against `{declared}`; "
                    f"write `teacher: {own}`, or `teacher: {{{arm}: {own}, …}}` with a target for each arm",
                )
            )
    return problems


def is_long(method: str | None, attention: str | None, evaluate_frames: int | None) -> bool:
    """Whether a run is evaluated on long clips: a causal student with a declared length."""
    return method == "dmd" and attention == "causal" and evaluate_frames is not None


def check_long(declaration: Declaration, configs: Mapping[str, RunConfig]) -> list[Problem]:
    """Whether every arm has the long evaluation that a declared metric of long clips is measured in."""
    names = [name for name in declaration.metrics if name in OF_LONG_CLIPS]
    if not names:
        return []
    problems = []
    for arm, config in configs.items():
        if is_long(config.method, config.rollout.attention, config.evaluate_frames):
            continue
        if config.method != "dmd":
            why = f"trains with `method: {config.method}`, and only students (`dmd`) are evaluated on long clips"
        elif config.rollout.attention != "causal":
            why = f"has `rollout.attention: {config.rollout.attention}`, which cannot go beyond a clip; take `causal`"
        else:
            why = "has `evaluate_frames: null`; give the latent frames of its long evaluation"
        problems.append((f"metrics.{names[0]}", f"is measured on long clips, but arm {arm} {why}, or remove {names}"))
    return problems


def updates_asked(config: RunConfig) -> int:
    """Updates of the generator that a configuration asks for."""
    by_method = {
        "sft": config.sft.updates,
        "causal_sft": config.causal_sft.updates,
        "dmd": config.dmd.generator_updates,
    }
    return by_method[config.method]


def within(values: Iterable[float], tolerance: float) -> bool:
    """Whether the largest and the smallest of some budgets differ by at most `tolerance`, relative to the largest."""
    values = list(values)
    return max(values) - min(values) <= tolerance * max(values)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings under full dotted keys, however they were nested."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_seeds(seeds: tuple[int, ...], known: list[int]) -> Iterator[Problem]:
    if len(set(seeds)) < len(seeds):
        yield "seeds", f"must be unique, got {list(seeds)}"
    if unknown := sorted(set(seeds) - set(known)):
        yield (
            "seeds",
            f"{unknown} not among the seeds {known} of params.yaml, which train what arms start from",
        )


def _check_keys(declaration: Declaration) -> Iterator[Problem]:
    fixed = flatten(declaration.fixed)
    for place, keys in (("varied", declaration.varied), ("fixed", fixed)):
        for key in keys:
            if wrong := unknown_key(RunConfig, key):
                yield place, wrong
            elif key in ("seed", "preset"):
                yield place, f"`{key}` is given by the target, not by an experiment; remove it"
    if len(set(declaration.varied)) < len(declaration.varied):
        yield "varied", f"must be unique, got {list(declaration.varied)}"
    for key in declaration.varied:
        for other in fixed:
            if key == other or key.startswith(other + ".") or other.startswith(key + "."):
                yield f"fixed.{other}", f"is varied too (`{key}`); a setting is either fixed or varied: remove one"


def _check_arms(declaration: Declaration) -> Iterator[Problem]:
    varied = set(declaration.varied)
    settings = {name: flatten(arm.set) for name, arm in declaration.arms.items()}
    if len(settings) < 2:
        yield "arms", f"a comparison needs at least two, got {len(settings)}"
    seen: dict[str, str] = {}
    for name, values in settings.items():
        if not NAME.fullmatch(name):
            yield f"arms.{name}", _NAME_RULE
        if name in (*BASELINES, *SHOWN):
            yield f"arms.{name}", "is the name of a baseline; choose another"
        if missing := sorted(varied - set(values)):
            yield f"arms.{name}.set", f"must set {missing}: every arm gives a value to every varied key"
        if extra := sorted(set(values) - varied):
            yield f"arms.{name}.set", f"{extra} not under `varied`: a hidden second difference; add there or to `fixed`"
        twin = seen.setdefault(repr(sorted(values.items(), key=lambda item: item[0])), name)
        if twin != name:
            yield f"arms.{name}.set", f"is the same as `arms.{twin}.set`; arms must differ"
    for key in declaration.varied:
        values = [arm[key] for arm in settings.values() if key in arm]
        if len(values) > 1 and all(value == values[0] for value in values):
            yield "varied", f"`{key}` is {values[0]!r} in every arm; move it to `fixed`"


def _check_baselines(declaration: Declaration) -> Iterator[Problem]:
    teacher, group = declaration.baselines.teacher, declaration.baselines.causal_sft
    if isinstance(teacher, Mapping):
        if missing := sorted(set(declaration.arms) - set(teacher)):
            yield "baselines.teacher", f"must name a target for {missing}: give one for each arm, or one for all"
        for arm in sorted(set(teacher) - set(declaration.arms), key=str):
            yield f"baselines.teacher.{arm}", f"`{arm}` is not an arm{suggest(str(arm), declaration.arms)}"
    if group is not None:
        try:
            split_target(f"{group}/seed0")
        except HarnessError:
            yield (
                "baselines.causal_sft",
                f"`{group}/seed<N>` names no run; expected `causal_sft`, `causal_sft_i2v/<way>`, or null for none",
            )


def _check_metrics(metrics: Mapping[str, MetricUse]) -> Iterator[Problem]:
    primary = [name for name, use in metrics.items() if use.role == "primary"]
    if len(primary) != 1:
        yield "metrics", f"exactly one must have `role: primary`, got {primary or 'none'}"
    for name, use in metrics.items():
        where = f"metrics.{name}"
        if name not in METRICS:
            yield where, f"unknown metric{suggest(name, METRICS)}"
        if use.role == "guardrail" and use.min is None and use.max is None:
            yield where, "a guardrail needs `min`, `max` or both"
        if use.role != "guardrail" and (use.min is not None or use.max is not None):
            yield where, "`min` and `max` belong to a guardrail; write `role: guardrail`, or remove them"
        if use.min is not None and use.max is not None and use.min >= use.max:
            yield where, f"`min` ({use.min:g}) must be below `max` ({use.max:g})"


def _check_hypotheses(declaration: Declaration) -> Iterator[Problem]:
    names, others = [h.name for h in declaration.hypotheses], (*declaration.arms, *declaration.groups)
    for i, h in enumerate(declaration.hypotheses):
        where = f"hypotheses.{i}"
        if names.count(h.name) > 1:
            yield f"{where}.name", f"`{h.name}` is used twice"
        if h.arm not in declaration.arms:
            yield f"{where}.arm", f"`{h.arm}` is not an arm{suggest(h.arm, declaration.arms)}"
        if h.than in BASELINES and h.than not in others:
            yield f"{where}.than", f"`{h.than}` has no results here: `baselines.{h.than}` is null; name its runs there"
        elif h.than not in others:
            yield f"{where}.than", f"`{h.than}` is neither an arm nor a baseline{suggest(h.than, others)}"
        if h.than in BASELINES and h.than != "own_init" and h.metric in OF_LONG_CLIPS:
            yield (
                f"{where}.metric",
                f"`{h.metric}` is measured on long clips, which `{h.than}` makes none of; name an arm or `own_init`",
            )
        if h.than == h.arm:
            yield f"{where}.than", f"`{h.arm}` would be compared with itself"
        if h.metric not in declaration.metrics:
            yield f"{where}.metric", f"`{h.metric}` is not under `metrics`{suggest(h.metric, declaration.metrics)}"
