"""Metrics against the teacher: pure cases, the card that they come from, and planted faults."""

import json

import pytest
from attrs import asdict, evolve
from digit_world import planted_with_image

from harness.config.load import resolve_target
from harness.config.metrics import STATIC_COLLAPSE_ALARM
from harness.errors import HarnessError
from harness.evaluation.card import add_against_teacher
from harness.evaluation.own_teacher import fvd_gap, static_collapse, teacher_metrics, teacher_motion
from harness.evaluation.panel import measure_card
from harness.io import write_json


def metrics(**values: float) -> dict[str, dict[str, float]]:
    return {name: {"value": v, "low": v - 0.5, "high": v + 1} for name, v in values.items()}


def test_motion_as_a_share_of_the_teachers():
    found = static_collapse(metrics(late_motion=0.6), metrics(late_motion=1.2))
    assert asdict(found) == pytest.approx({"value": 0.5, "low": 0.1 / 1.2, "high": 1.6 / 1.2})
    assert static_collapse(metrics(late_motion=0.0), metrics(late_motion=1.2)).value == 0
    assert static_collapse(metrics(late_motion=0.6), metrics(late_motion=0.0)) is None
    assert static_collapse(metrics(fvd=1), metrics(late_motion=1.2)) is None
    assert static_collapse(metrics(late_motion=1), metrics(fvd=1.2)) is None


def test_what_is_left_of_the_way_to_the_teacher():
    init, teacher = metrics(fvd=50), metrics(fvd=10)
    assert asdict(fvd_gap(metrics(fvd=20), init, teacher)) == pytest.approx(
        {"value": 0.25, "low": 9.5 / 40, "high": 11 / 40}
    )
    assert fvd_gap(init, init, teacher).value == 1
    assert fvd_gap(teacher, init, teacher).value == 0
    assert fvd_gap(metrics(fvd=6), init, teacher).value == pytest.approx(-0.1)
    assert fvd_gap(metrics(fvd=90), init, teacher).value == 2


@pytest.mark.parametrize("init", [metrics(fvd=10), metrics(fvd=9), metrics(late_motion=1)])
def test_no_way_to_the_teacher_no_share_of_it(init):
    assert fvd_gap(metrics(fvd=5), init, metrics(fvd=10)) is None
    assert fvd_gap(metrics(late_motion=5), metrics(fvd=50), metrics(fvd=10)) is None
    assert fvd_gap(metrics(fvd=5), metrics(fvd=50), metrics(late_motion=10)) is None


def test_a_card_has_the_gap_of_its_student_only():
    names = ("student", "init", "teacher")
    models = {name: {"metrics": metrics(fvd=40 - 10 * i, late_motion=1)} for i, name in enumerate(names)}
    models["bare"] = {"metrics": metrics(ink=1)}
    add_against_teacher(models, metrics(fvd=10, late_motion=3))
    assert [name for name, model in models.items() if "fvd_gap" in model["metrics"]] == ["student"]
    assert models["student"]["metrics"]["fvd_gap"] == {"value": 1.5, "low": 1.475, "high": 1.55}
    assert [name for name, model in models.items() if "static_collapse" in model["metrics"]] == list(names)
    assert models["init"]["metrics"]["static_collapse"]["value"] == 0.333333  # rounded as all numbers of a card


@pytest.mark.parametrize("fault", ["frozen clip", "a jump, then frozen", "a loop of four frames", "black frames"])
def test_clips_that_stand_still_are_below_the_alarm(world, fault):
    def card(video) -> dict[str, dict[str, float]]:
        found = measure_card(world.clip_set(video, given=True), world.reference)
        return {name: asdict(estimate) for name, estimate in found.items()}

    teacher = card(world.good)
    assert static_collapse(teacher, teacher).value == pytest.approx(1)
    frozen = static_collapse(card(planted_with_image(world)[fault]), teacher)
    assert frozen.value <= frozen.high < STATIC_COLLAPSE_ALARM


def test_faults_keep_a_student_from_its_teacher(world, floor, faults):
    def of(values: dict[str, float]) -> dict[str, dict[str, float]]:
        return metrics(fvd=values["fvd"])

    init = of(faults["shuffled frames"])
    assert fvd_gap(of(faults["frozen frames"]), init, of(floor)).value > 0.5
    assert fvd_gap(of(faults["fading"]), init, of(floor)).value > 0.01
    assert fvd_gap(of(floor), init, of(floor)).value == 0


METRICS = metrics(fvd=7, late_motion=1)


@pytest.fixture
def run(root):
    return resolve_target("toy/low/seed0", root)


def write(results, **card):
    write_json(
        results / "teacher/cards.json",
        {"models": {"teacher": {"metrics": METRICS}}, "protocol": {"clips": 4, "seed": 1}} | card,
    )


def test_the_teachers_card_is_that_of_its_checkpoint(run, tmp_path, capsys):
    assert teacher_metrics(run, tmp_path) is None
    write(tmp_path)
    assert teacher_metrics(run, tmp_path) == METRICS
    assert teacher_metrics(run, tmp_path, {"seed": 1, "clips": 4}) == METRICS
    assert teacher_metrics(evolve(run, teacher="./checkpoints/teacher/"), tmp_path) == METRICS
    for elsewhere in ("checkpoints/teacher_i2v", "pretrained/teacher", "/checkpoints/teacher", "checkpoints", "."):
        assert teacher_metrics(evolve(run, teacher=elsewhere), tmp_path) is None
    write(tmp_path, models={"student": {"metrics": metrics(fvd=7)}})
    assert teacher_metrics(run, tmp_path) is None
    assert capsys.readouterr().err == ""


def test_a_card_of_another_protocol_is_left_out_and_told(run, tmp_path, capsys):
    write(tmp_path)
    assert teacher_metrics(run, tmp_path, {"seed": 2, "clips": 4, "split": "test"}) is None
    told = capsys.readouterr().err
    assert "cards.json: made under another protocol (its seed, split differ)" in told
    assert "`python -m harness evaluate teacher`" in told


def test_only_two_kinds_of_images_are_another_protocol(run, tmp_path):
    ours = {"clips": 4, "seed": 1}
    write(tmp_path, protocol=ours | {"image": {"sha256": "a"}})
    assert teacher_metrics(run, tmp_path, ours) is not None
    assert teacher_metrics(run, tmp_path, ours | {"image": {"sha256": "a"}}) is not None
    assert teacher_metrics(run, tmp_path, ours | {"image": {"sha256": "b"}}) is None


def teacher_with(**changes) -> dict:
    return {"models": {"teacher": {"metrics": METRICS | changes}}}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "holds [], expected an object"),
        ("7", "holds 7, expected an object"),
        ("null", "holds None, expected an object"),
        ("{}", "models is missing"),
        ({"models": ["teacher"]}, "models is ['teacher'], expected an object"),
        ({"models": {"teacher": []}}, "models.teacher.metrics is missing"),
        ({"models": {"teacher": {"metrics": None}}}, "models.teacher.metrics is None, expected an object"),
        ({"models": {"teacher": {"metrics": metrics(fvd=7)}}}, "models.teacher.metrics.late_motion is missing"),
        (teacher_with(late_motion=1.25), "models.teacher.metrics.late_motion is 1.25, expected an object"),
        (teacher_with(late_motion={"low": 1, "high": 2}), "models.teacher.metrics.late_motion.value is missing"),
        (teacher_with(fvd=METRICS["fvd"] | {"value": "7"}), "metrics.fvd.value is '7', expected a number"),
        (teacher_with(fvd={"value": 7.0}), "models.teacher.metrics.fvd.low is missing"),
    ],
)
def test_a_damaged_card_is_told_with_its_file_and_the_remedy(run, tmp_path, content, what):
    file = tmp_path / "teacher/cards.json"
    write(tmp_path)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    for read in (teacher_metrics, teacher_motion):
        with pytest.raises(HarnessError) as caught:
            read(run, tmp_path)
        told = str(caught.value)
        assert told.startswith(f"{file}: ")
        assert what in told
        remedy = f"Run `python -m harness evaluate teacher`, or take the committed file: `git checkout {file}`"
        assert told.endswith(remedy)


def test_a_card_without_a_protocol_is_damaged_where_it_is_asked_for(run, tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/cards.json").write_text(json.dumps(teacher_with()))
    assert teacher_motion(run, tmp_path) == 1
    with pytest.raises(
        HarnessError, match=r"cards\.json: protocol is missing\. Run `python -m harness evaluate teacher`"
    ):
        teacher_metrics(run, tmp_path, {"clips": 4})
