import pytest
from attrs import evolve

from harness.comparison.declaration import MetricUse, check_budget, check_long, load_declaration
from harness.config.load import resolve_target
from harness.errors import HarnessError

NAME = "two_stage_vs_one_stage"


def refused(world, change, name=NAME) -> str:
    world.edit_declaration(change, name)
    with pytest.raises(HarnessError) as caught:
        load_declaration(name, world.root)
    return str(caught.value)


@pytest.mark.parametrize("name", [NAME, "causal_vs_bidirectional"])
def test_shipped_declarations_are_right(world, name):
    declaration = load_declaration(name, world.root)
    assert declaration.primary == "fvd"
    assert len(declaration.seeds) >= 3
    assert {h.than for h in declaration.hypotheses} >= {"own_init", "cut_teacher", "causal_sft"}


@pytest.mark.parametrize("name", ["i2v_vs_t2v", "i2v_conditioning"])
def test_shipped_declarations_on_images_are_right(world, name):
    declaration = load_declaration(name, world.root)
    assert len(declaration.seeds) >= 3
    assert declaration.groups == ("own_init", "cut_teacher")
    teachers = {arm: declaration.baselines.teacher_of(arm) for arm in declaration.arms}
    assert set(teachers.values()) == ({"teacher", "teacher_i2v"} if name == "i2v_vs_t2v" else {"teacher_i2v"})
    assert teachers.get("t2v", "teacher") == "teacher"


def test_the_usual_baselines_need_no_words(world):
    declaration = load_declaration(NAME, world.root)
    assert declaration.baselines.teacher_of("two_stage") == "teacher"
    assert declaration.groups == ("own_init", "cut_teacher", "causal_sft")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d["baselines"].update(teacher="teachr"), "baselines.teacher: expected `teacher` or `teacher_i2v`"),
        (lambda d: d["baselines"].update(teacher={}), "baselines.teacher: expected `teacher` or `teacher_i2v`"),
        (lambda d: d["baselines"].update(teacher={"i2v": "teacher_i2v"}), "must name a target for ['t2v']"),
        (lambda d: d["baselines"]["teacher"].update(i2w="teacher"), "baselines.teacher.i2w: `i2w` is not an arm"),
        (lambda d: d["baselines"].update(causal_sft="causal_sft_i2v/all"), "`causal_sft_i2v/all/seed<N>` names no run"),
        (lambda d: d["baselines"].update(causal=None), "unknown key"),
        (
            lambda d: d["hypotheses"][1].update(than="causal_sft"),
            "hypotheses.1.than: `causal_sft` has no results here: `baselines.causal_sft` is null",
        ),
        (
            lambda d: d.pop("baselines"),
            "arm i2v is distilled from checkpoints/teacher_i2v, but would be held against `teacher`",
        ),
        (lambda d: d["baselines"].update(teacher="teacher_i2v"), "arm t2v is distilled from checkpoints/teacher, but"),
    ],
)
def test_each_mistake_in_baselines_is_named(world, change, expected):
    assert expected in refused(world, change, "i2v_vs_t2v")


@pytest.mark.parametrize("name", ["real", "teacher", "given", "own_init"])
def test_an_arm_is_not_called_as_what_stands_beside_it(world, name):
    def change(d):
        d["arms"][name] = d["arms"].pop("one_stage")

    assert f"arms.{name}: is the name of a baseline" in refused(world, change)


def test_unknown_experiment_names_the_known_ones(world):
    with pytest.raises(HarnessError, match="did you mean `two_stage_vs_one_stage`"):
        load_declaration("two_stages_vs_one_stage", world.root)


def test_unknown_field_is_refused_with_a_suggestion(world):
    assert "did you mean `hypotheses`" in refused(world, lambda d: d.update(hypothesis=[]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(name="other"), "name: must equal the folder's name"),
        (lambda d: d.update(seeds=[0, 0, 1]), "seeds: must be unique"),
        (lambda d: d.update(seeds=[0, 1, 7]), "[7] not among the seeds [0, 1, 2]"),
        (lambda d: d["fixed"].update({"init.kind": "teacher"}), "fixed.init.kind: is varied too"),
        (lambda d: d["fixed"].update({"init": {"path": "x"}, "dmd.cfg_scal": 2}), "did you mean `dmd.cfg_scale`"),
        (lambda d: d["fixed"].update({"seed": 3}), "`seed` is given by the target"),
        (lambda d: d["arms"]["one_stage"].update(set={}), "arms.one_stage.set: must set ['init.kind']"),
        (
            lambda d: d["arms"]["one_stage"]["set"].update({"dmd.shift": 3}),
            "arms.one_stage.set: ['dmd.shift'] not under `varied`: a hidden second difference",
        ),
        (
            lambda d: d["arms"]["one_stage"].update(set={"init.kind": "causal_sft"}),
            "arms.one_stage.set: is the same as `arms.two_stage.set`",
        ),
        (lambda d: d["arms"].pop("one_stage"), "arms: a comparison needs at least two"),
        (lambda d: d["metrics"].update({"recall": {"role": "primary"}}), "exactly one must have `role: primary`"),
        (lambda d: d["metrics"].update({"fvdd": {"role": "secondary"}}), "did you mean `fvd`"),
        (lambda d: d["metrics"].update({"ink": {"role": "guardrail"}}), "a guardrail needs `min`, `max` or both"),
        (
            lambda d: d["hypotheses"][0].update(arm="two_stages"),
            "hypotheses.0.arm: `two_stages` is not an arm; did you",
        ),
        (lambda d: d["hypotheses"][0].update(than="cut_teach"), "did you mean `cut_teacher`"),
        (lambda d: d["hypotheses"][0].update(than="two_stage"), "compared with itself"),
        (lambda d: d["hypotheses"][0].update(metric="precision"), "`precision` is not under `metrics`"),
        (lambda d: d["hypotheses"][1].update(name="two_stages_help"), "`two_stages_help` is used twice"),
    ],
)
def test_each_mistake_is_named(world, change, expected):
    assert expected in refused(world, change)


def test_all_mistakes_are_listed_at_once(world):
    def change(d):
        d["seeds"] = [1, 1]
        d["hypotheses"][0]["arm"] = "nobody"
        d["metrics"]["fvd"]["role"] = "secondary"

    text = refused(world, change)
    assert text.startswith(str(world.declaration()))
    assert all(place in text for place in ("seeds:", "hypotheses.0.arm:", "metrics:"))


def test_a_varied_key_that_is_the_same_everywhere_belongs_to_fixed(world):
    def change(d):
        d["varied"].append("dmd.shift")
        for arm in d["arms"].values():
            arm["set"]["dmd.shift"] = 3.0

    assert "varied: `dmd.shift` is 3.0 in every arm; move it to `fixed`" in refused(world, change)


def test_budget_parity_is_checked_before_a_run(world):
    def change(d):
        d["varied"].append("dmd.generator_updates")
        d["arms"]["two_stage"]["set"]["dmd.generator_updates"] = 40
        d["arms"]["one_stage"]["set"]["dmd.generator_updates"] = 44

    assert "two_stage 40, one_stage 44" in refused(world, change)
    world.edit_declaration(lambda d: d["budget"].update(tolerance=0.1))
    declaration = load_declaration(NAME, world.root)
    configs = {arm: resolve_target(declaration.target(arm, 0), world.root) for arm in declaration.arms}
    assert check_budget(declaration, configs) == []


def test_smallest_effect_comes_from_the_nearest_place(world):
    def change(d):
        d["metrics"]["recall"]["smallest_effect"] = 0.05
        d["hypotheses"][0]["smallest_effect"] = 9.0

    world.edit_declaration(change)
    declaration = load_declaration(NAME, world.root)
    assert declaration.smallest_effect("fvd", declaration.hypotheses[0]) == 9.0
    assert declaration.smallest_effect("fvd", declaration.hypotheses[1]) == 2.0
    assert declaration.smallest_effect("recall") == 0.05
    assert declaration.smallest_effect("conditional_distance") == 0.0


LONG = ("long_tuning", "sink", "window_memory")


@pytest.mark.parametrize("name", LONG)
def test_shipped_declarations_on_long_video_are_right(world, name):
    declaration = load_declaration(name, world.root)
    assert len(declaration.seeds) >= 3
    assert len(declaration.arms) == 2


def test_metrics_of_long_clips_need_a_long_evaluation(world):
    told = refused(world, lambda d: d["fixed"].update(evaluate_frames=None), "sink")
    assert "metrics.long_fvd: is measured on long clips, but arm sink has `evaluate_frames: null`; give" in told
    assert "but arm no_sink has `evaluate_frames: null`" in told


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({"evaluate_frames": 36}, "arm bidirectional has `rollout.attention: bidirectional`, which cannot go beyond"),
        ({"evaluate_frames": 36, "method": "sft"}, "arm causal trains with `method: sft`, and only students"),
    ],
)
def test_only_causal_students_have_a_long_evaluation(world, fixed, expected):
    declaration = load_declaration("causal_vs_bidirectional", world.root)
    configs = {arm: resolve_target(declaration.target(arm, 0), world.root) for arm in declaration.arms}
    long = evolve(declaration, metrics={**declaration.metrics, "long_ink": MetricUse(role="secondary")})
    told = check_long(long, {arm: evolve(config, **fixed) for arm, config in configs.items()})
    assert expected in "; ".join(text for _, text in told)
    assert {place for place, _ in told} == {"metrics.long_ink"}
    assert len(told) == (2 if "method" in fixed else 1)
    assert check_long(declaration, configs) == []


@pytest.mark.parametrize("than", ["cut_teacher", "causal_sft"])
def test_what_makes_no_long_clips_is_nothing_to_be_held_against(world, than):
    def change(d):
        d["hypotheses"][0].update(than=than)

    expected = f"hypotheses.0.metric: `long_fvd` is measured on long clips, which `{than}` makes none of"
    assert expected in refused(world, change, "sink")


def test_own_init_and_arms_are_held_against_on_long_clips(world):
    world.edit_declaration(lambda d: d["hypotheses"][0].update(than="own_init"), "sink")
    assert load_declaration("sink", world.root).hypotheses[0].than == "own_init"
