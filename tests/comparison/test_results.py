import shutil

import pytest

from harness.comparison.declaration import load_declaration
from harness.comparison.results import read_results, read_rows, uncounted_parents
from harness.errors import HarnessError

NAME = "two_stage_vs_one_stage"
IMAGES, WAYS = "i2v_vs_t2v", "i2v_conditioning"


def refused(world, name=NAME) -> str:
    with pytest.raises(HarnessError) as caught:
        read_results(load_declaration(name, world.root), world.root)
    return str(caught.value)


def test_reads_every_arm_seed_and_baseline(world):
    results = read_results(load_declaration(NAME, world.root), world.root)
    assert results.arms["two_stage"][1].metric("student", "fvd") == 52.0
    assert results.arms["one_stage"][2].metric("student", "precision") is None
    assert len(list(results)) == 10


def test_every_missing_file_is_listed_with_what_to_run(world):
    (world.root / "results" / NAME / "one_stage" / "seed1" / "cards.json").unlink()
    (world.root / "results" / "causal_sft" / "seed2" / "manifest.json").unlink()
    text = refused(world)
    assert "one_stage/seed1/cards.json: missing" in text
    assert "causal_sft/seed2/manifest.json: missing" in text
    assert f"dvc repro experiments/{NAME}/dvc.yaml" in text


def test_a_model_missing_from_a_card_is_named(world):
    world.edit("teacher/cards.json", lambda card: card["models"].pop("teacher_cut"))
    assert "teacher/cards.json: models: teacher_cut missing" in refused(world)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not valid JSON"),
        ("{}", "no `models` and `protocol`"),
        ("null", "holds None, expected an object"),
        ("[1]", "holds [1], expected an object"),
        ('{"models": {}, "protocol": []}', "no `models` and `protocol`"),
        ('{"models": [], "protocol": {}}', "no `models` and `protocol`"),
    ],
)
def test_a_file_that_is_no_card_is_named(world, content, what):
    (world.root / "results/teacher/cards.json").write_text(content)
    assert f"teacher/cards.json: {what}" in refused(world)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda model: model.pop("label"), "label: missing"),
        (lambda model: model.pop("metrics"), "metrics: missing"),
        (lambda model: model.update(metrics=[]), "metrics: [], expected an object"),
        (lambda model: model["metrics"].update(fvd=3.5), "metrics.fvd: 3.5, expected an object"),
        (lambda model: model["metrics"]["fvd"].pop("value"), "metrics.fvd.value: missing"),
        (
            lambda model: model["metrics"]["fvd"].update(value="7"),
            "metrics.fvd.value: '7', expected a whole number or",
        ),
        (lambda model: model["sampler"].clear(), "sampler.forwards: missing"),
        (lambda model: model.update(long=[]), "long: [], expected an object"),
        (lambda model: model["long"].pop("segment_frames"), "long.segment_frames: missing"),
        (lambda model: model["long"].update(segments=[]), "long.segments: empty"),
        (lambda model: model["long"]["segments"][1].pop("metrics"), "long.segments.1.metrics: missing"),
        (lambda model: model["long"]["by_frame"].pop("frame"), "long.by_frame.frame: missing"),
        (lambda model: model["long"]["switch"].pop("delay_cap"), "long.switch.delay_cap: missing"),
        (lambda model: model["long"].update(switch=72), "long.switch: 72, expected an object"),
    ],
)
def test_what_is_missing_from_a_model_of_a_card_is_named(long_world, change, what):
    target = f"{NAME}/one_stage/seed1"
    long_world.edit(f"{target}/cards.json", lambda card: change(card["models"]["student"]))
    text = refused(long_world)
    assert f"{target}/cards.json: models.student.{what}" in text
    assert f"run `python -m harness evaluate {target}`" in text


def test_a_metric_without_a_value_is_no_damage(world):
    world.edit("teacher/cards.json", lambda card: card["models"]["real"]["metrics"]["fvd"].update(value=None))
    read_results(load_declaration(NAME, world.root), world.root)


def test_different_protocols_are_refused_with_the_key(world):
    world.edit(f"{NAME}/one_stage/seed2/cards.json", lambda card: card["protocol"].update(clips=64))
    text = refused(world)
    assert "one_stage/seed2/cards.json: protocol.clips: 64, but 128 in" in text


def test_ad_hoc_runs_are_refused(world):
    world.edit(f"{NAME}/two_stage/seed0/manifest.json", lambda manifest: manifest.update(ad_hoc=True))
    assert "two_stage/seed0/manifest.json: ad_hoc" in refused(world)


def test_runs_of_an_older_declaration_are_refused(world):
    world.edit(f"{NAME}/one_stage/seed0/manifest.json", lambda m: m["config"]["init"].update(kind="random"))
    assert "config.init.kind: trained with 'random', declared 'teacher'" in refused(world)


def test_two_arms_that_are_one_run_are_refused(world):
    for arm in ("one_stage", "two_stage"):
        world.edit(f"{NAME}/{arm}/seed1/manifest.json", lambda manifest: manifest.update(fingerprint="same"))
    assert "the same run as" in refused(world)


def test_a_parent_whose_compute_is_unknown_is_refused(world):
    world.edit(f"{NAME}/two_stage/seed2/manifest.json", lambda manifest: manifest["parents"].pop())
    text = "two_stage/seed2/manifest.json: parents: the compute of causal_sft/seed2 is not recorded"
    assert text in refused(world)


def test_rows_leave_out_what_is_no_number(tmp_path):
    path = tmp_path / "quality.csv"
    path.write_text("update,fvd,note\n0,nan,start\n10,61.5,ok\n")
    assert read_rows(path) == [{"update": 0.0}, {"update": 10.0, "fvd": 61.5}]


def test_every_arm_has_its_own_teacher(image_world):
    results = read_results(load_declaration(IMAGES, image_world.root), image_world.root)
    assert {arm: teacher.target for arm, teacher in results.teachers.items()} == {
        "t2v": "teacher",
        "i2v": "teacher_i2v",
    }
    assert [result.target for result in results][6:] == ["teacher", "teacher_i2v"]
    assert results.taught_by("teacher_i2v") == ["i2v"]
    assert results.shared("t2v") == {"teacher"}
    assert results.shared("i2v") == {"teacher", "teacher_i2v"}


def test_without_the_baseline_no_causal_sft_is_read(image_world):
    shutil.rmtree(image_world.root / "results" / "causal_sft")
    results = read_results(load_declaration(WAYS, image_world.root), image_world.root)
    assert results.causal_sft == {}
    assert [result.target for result in results][-1] == "teacher_i2v"
    assert results.taught_by("teacher_i2v") == ["channels", "first_latent", "both"]


def test_another_group_of_causal_sft_can_be_the_baseline(image_world):
    image_world.edit_declaration(lambda d: d["baselines"].update(causal_sft="causal_sft_i2v/both"), WAYS)
    for seed in (0, 1, 2):
        models = dict.fromkeys(("causal_sft", "causal_sft_euler", "causal_sft_cfg"), (61.0, 6))
        image_world.write(f"causal_sft_i2v/both/seed{seed}", models, parents=["teacher_i2v"], flops=80.0, image=True)
    results = read_results(load_declaration(WAYS, image_world.root), image_world.root)
    assert [result.target for result in results.causal_sft.values()] == [
        f"causal_sft_i2v/both/seed{n}" for n in range(3)
    ]


def test_a_missing_second_teacher_is_listed(image_world):
    (image_world.root / "results" / "teacher_i2v" / "cards.json").unlink()
    assert "teacher_i2v/cards.json: missing" in refused(image_world, IMAGES)


def test_protocols_may_differ_in_the_image_where_it_is_varied_only(image_world):
    read_results(load_declaration(IMAGES, image_world.root), image_world.root)  # T2V cards have no such entry
    image_world.write_arms()
    image_world.edit(f"{NAME}/one_stage/seed1/cards.json", lambda card: card["protocol"].update(image={"given": "x"}))
    image_world.edit(
        f"{NAME}/one_stage/seed1/manifest.json", lambda m: m["config"]["rollout"].update(image_conditioning="channels")
    )
    assert "one_stage/seed1/cards.json: protocol.image.given: 'x', but None in" in refused(image_world)


@pytest.mark.parametrize(
    ("target", "change", "expected"),
    [
        (
            "i2v/seed1",
            lambda p: p["image"].update(sha256="other"),
            "i2v/seed1/cards.json: protocol.image.sha256: 'other'",
        ),
        ("i2v/seed2", lambda p: p.pop("image"), "i2v/seed2/cards.json: protocol.image.given: None, but 'first frames'"),
        ("t2v/seed2", lambda p: p.update(image={"given": "x"}), "t2v/seed2/cards.json: protocol.image.given: 'x'"),
        ("i2v/seed0", lambda p: p.update(clips=64), "i2v/seed0/cards.json: protocol.clips: 64, but 128 in"),
    ],
)
def test_given_images_must_be_the_same(image_world, target, change, expected):
    image_world.edit(f"{IMAGES}/{target}/cards.json", lambda card: change(card["protocol"]))
    assert expected in refused(image_world, IMAGES)


def test_the_teacher_was_given_the_same_images(image_world):
    image_world.edit("teacher_i2v/cards.json", lambda card: card["protocol"]["image"].update(sha256="other"))
    assert "teacher_i2v/cards.json: protocol.image.sha256" in refused(image_world, IMAGES)
    assert "teacher_i2v/cards.json: protocol.image.sha256" in refused(image_world, WAYS)


def test_the_causal_sft_of_an_arm_and_seed_must_be_counted(image_world):
    def mistaken(manifest):
        manifest["parents"][1]["target"] = "causal_sft_i2v/both/seed0"

    image_world.edit(f"{WAYS}/channels/seed0/manifest.json", lambda manifest: manifest["parents"].pop())
    image_world.edit(f"{WAYS}/both/seed1/manifest.json", mistaken)
    image_world.edit(f"{WAYS}/both/seed2/manifest.json", lambda m: m["parents"][1].update(compute=None))
    text = refused(image_world, WAYS)
    assert "channels/seed0/manifest.json: parents: the compute of causal_sft_i2v/channels/seed0 is not" in text
    assert "both/seed1/manifest.json: parents: the compute of causal_sft_i2v/both/seed1 is not" in text
    assert "both/seed2/manifest.json: parents: the compute of causal_sft_i2v/both/seed2 is not" in text


def test_settings_that_come_with_a_varied_one_are_known(image_world):
    results = read_results(load_declaration(IMAGES, image_world.root), image_world.root)
    assert results.implied == ("model", "teacher")
    assert read_results(load_declaration(WAYS, image_world.root), image_world.root).implied == ("model",)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda b: b.update(frames=69), "student.long.frames: 69, but 141 in"),
        (lambda b: b.update(clips=16), "student.long.clips: 16, but 64 in"),
        (lambda b: b["segments"].pop(), "student.long.segments.start: [0, 36, 72], but [0, 36, 72, 108] in"),
        (lambda b: b["switch"].update(at=36), "student.long.switch.at: 36, but 72 in"),
        (lambda b: b["switch"].update(delay_cap=60), "student.long.switch.delay_cap: 60, but 69 in"),
        (lambda b: b["by_frame"]["frame"].pop(), "student.long.by_frame.frame: "),
    ],
)
def test_long_evaluations_must_be_alike(long_world, change, expected):
    long_world.edit(f"{NAME}/one_stage/seed1/cards.json", lambda card: change(card["models"]["student"]["long"]))
    assert f"one_stage/seed1/cards.json: models.{expected}" in refused(long_world)


def test_arms_that_are_switched_at_different_frames_are_told_what_to_change(long_world):
    def later(card):
        for model in ("student", "init"):
            switch = card["models"][model]["long"]["switch"]
            switch.update(at=76, delay_cap=65, frame=switch["frame"][:-1], obeyed=switch["obeyed"][:-1])

    for seed in (0, 1, 2):
        long_world.edit(f"{NAME}/one_stage/seed{seed}/cards.json", later)
    text = refused(long_world)
    for seed in (0, 1, 2):
        assert f"one_stage/seed{seed}/cards.json: models.student.long.switch.at: 76, but 72 in" in text
    assert "different blocks (rollout.frames_per_block, a given first frame), take an evaluate_frames" in text


def test_a_long_evaluation_that_was_asked_for_must_be_there(long_world):
    long_world.edit(f"{NAME}/two_stage/seed2/cards.json", lambda card: card["models"]["init"].pop("long"))
    read_results(load_declaration(NAME, long_world.root), long_world.root)  # nobody asked
    long_world.edit(f"{NAME}/two_stage/seed2/manifest.json", lambda m: m["config"].update(evaluate_frames=36))
    assert "two_stage/seed2/cards.json: models.init.long: missing; evaluate" in refused(long_world)


def test_the_student_that_a_run_started_from_must_be_counted(world):
    arms = read_results(load_declaration(NAME, world.root), world.root).arms
    arms["two_stage"][1].manifest["config"]["init"].update(kind="student", path="checkpoints/other/arm")
    (problem,) = uncounted_parents(arms)
    assert "two_stage/seed1/manifest.json: parents: the compute of other/arm/seed1 is not recorded" in problem


@pytest.mark.parametrize("content", ["", "update,fvd\n", "[1, 2]", "null\n", "update,fvd\n0\n"])
def test_a_damaged_table_is_refused_and_not_counted_as_no_measurement(world, content):
    path = world.root / "results" / NAME / "two_stage/seed0/quality.csv"
    path.write_text(content)
    assert "two_stage/seed0/quality.csv: damaged, expected a header and rows" in refused(world)


@pytest.mark.parametrize(("content", "what"), [("[1]", "holds [1], expected an object"), ("{}", "has no config")])
def test_a_manifest_of_another_shape_is_named(world, content, what):
    (world.root / "results" / NAME / "two_stage/seed0/manifest.json").write_text(content)
    assert f"two_stage/seed0/manifest.json: {what}" in refused(world)
