import pytest

from harness.comparison import tables, views
from harness.comparison.declaration import load_declaration
from harness.comparison.results import read_results

NAME = "two_stage_vs_one_stage"


@pytest.fixture
def read(world):
    return lambda: pair(world, NAME)


def pair(world, name):
    declaration = load_declaration(name, world.root)
    return declaration, read_results(declaration, world.root)


def test_paired_table_keeps_every_seed(read):
    row = next(row for row in tables.paired_table(*read()) if row["metric"] == "recall")
    assert row["arms"]["two_stage"]["seeds"] == pytest.approx({"0": 0.745, "1": 0.74, "2": 0.735})
    assert row["pairs"][0]["arms"] == ["two_stage", "one_stage"]
    assert row["pairs"][0]["gains"] == pytest.approx([0.055, 0.0525, 0.055])


def test_every_model_is_listed_with_its_kind_of_interval(read):
    rows = {(row["source"], row["model"]): row for row in tables.models_table(*read())}
    assert len(rows) == 5 + 3 + 2 * 2
    teacher, sft = rows[("teacher", "teacher")], rows[("causal_sft", "causal_sft")]
    assert (teacher["interval_of"], teacher["n"], teacher["metrics"]["fvd"]["low"]) == ("evaluation", 1, 49.0 * 0.99)
    assert (sft["interval_of"], sft["n"], sft["metrics"]["fvd"]["value"]) == ("seeds", 3, 61.5)


def test_the_distance_to_the_full_teacher_is_stated(read):
    rows = {(row["arm"], row["model"]): row for row in tables.against_baselines(*read(), "fvd")}
    assert rows[("two_stage", "teacher")]["gain"]["value"] == pytest.approx(-3.0)
    assert rows[("two_stage", "teacher_cut")]["apart"] is True
    assert rows[("one_stage", "causal_sft")]["apart"] is False


def test_guardrails(world, read):
    assert all(row["kept"] for row in tables.guardrails(*read()))
    for seed in (0, 1, 2):
        world.edit(
            f"{NAME}/one_stage/seed{seed}/cards.json",
            lambda c: c["models"]["student"]["metrics"]["ink"].update(value=1.4),
        )
    broken = [(row["arm"], row["metric"]) for row in tables.guardrails(*read()) if not row["kept"]]
    assert broken == [("one_stage", "ink")]


def test_settings_show_an_undeclared_difference(world, read):
    assert tables.settings(*read())["differ"] == {"init.kind": {"two_stage": "causal_sft", "one_stage": "teacher"}}
    world.edit(f"{NAME}/one_stage/seed0/manifest.json", lambda m: m["config"]["dmd"].update(shift=7.0))
    assert tables.settings(*read())["undeclared"] == ["dmd.shift"]


def test_budget_adds_what_parents_spent(read):
    budget = tables.budget(*read())
    by_arm = {run["arm"]: run for run in budget["runs"]}
    assert budget["equal"] is True
    assert (by_arm["two_stage"]["teraflops"], by_arm["two_stage"]["teraflops_before"]) == (280.0, 80.0)
    assert by_arm["one_stage"]["teraflops"] == 200.0


def test_quality_by_frame_has_a_line_per_seed_and_references(read):
    identity = tables.by_frame(read()[1])["identity"]
    assert {name: len(lines) for name, lines in identity.items()} == {
        "real": 1,
        "teacher": 1,
        "two_stage": 3,
        "one_stage": 3,
    }


def test_provenance_names_every_result(read):
    rows = tables.provenance(read()[1])
    assert [row["target"] for row in rows][-1] == "teacher"
    assert rows[0]["commit"].startswith("0123456789")
    assert rows[0]["parents"] == ["teacher", "causal_sft/seed0"]


def test_every_different_teacher_is_listed_with_whom_it_teaches(image_world):
    rows = tables.models_table(*pair(image_world, "i2v_vs_t2v"))
    listed = [(row["source"], row["model"], row["metrics"]["fvd"]["value"]) for row in rows[:8]]
    assert listed == [
        ("teacher", "real", 18.0),
        ("teacher", "codec", 22.0),
        ("teacher", "teacher", 49.0),
        ("teacher_i2v", "teacher", 40.0),
        ("teacher", "teacher_cut", 110.0),
        ("teacher_i2v", "teacher_cut", 90.0),
        ("teacher", "teacher_cut_cfg", 98.0),
        ("teacher_i2v", "teacher_cut_cfg", 80.0),
    ]
    assert (rows[2]["label"], rows[3]["label"]) == ("teacher (Text to video)", "teacher (Image to video)")
    assert (rows[0]["label"], len(rows)) == ("real", 8 + 2 * 2)


def test_a_shared_teacher_is_listed_once(image_world):
    rows = tables.models_table(*pair(image_world, "i2v_conditioning"))
    assert [(row["source"], row["label"]) for row in rows[:3]] == [
        ("teacher_i2v", "real"),
        ("teacher_i2v", "codec"),
        ("teacher_i2v", "teacher"),
    ]
    assert len(rows) == 5 + 3 * 2
    assert "causal_sft" not in {row["model"] for row in rows}


def test_what_only_another_card_measured_of_real_clips_is_kept(image_world):
    def more(card):
        card["models"]["real"]["metrics"]["fvd"]["value"] = 17.0
        card["models"]["real"]["metrics"]["rigid_error"]["value"] = 0.5

    image_world.edit("teacher_i2v/cards.json", more)
    image_world.edit("teacher/cards.json", lambda card: card["models"]["real"]["metrics"].pop("rigid_error"))
    real = tables.models_table(*pair(image_world, "i2v_vs_t2v"))[0]["metrics"]
    assert (real["fvd"]["value"], real["rigid_error"]["value"]) == (18.0, 0.5)


def test_baselines_are_compared_on_what_they_have(image_world):
    declaration, results = pair(image_world, "i2v_vs_t2v")
    models = tables.models_table(declaration, results)
    assert tables.level_metric(declaration.primary, declaration.metrics, models) == "fvd"
    assert tables.level_metric("fvd", ["recall", "fvd"], models) == "fvd"
    assert tables.level_metric("recall", [], []) == "recall"
    rows = {(row["arm"], row["model"]): row for row in tables.against_baselines(declaration, results, "fvd")}
    assert rows[("i2v", "teacher")]["gain"]["value"] == pytest.approx(40.0 - 56.5)
    assert rows[("t2v", "teacher")]["gain"]["value"] == pytest.approx(49.0 - 87.5)
    assert len(rows) == 2 * (5 + 1)


def test_quality_by_frame_has_a_line_per_teacher(image_world):
    identity = tables.by_frame(pair(image_world, "i2v_vs_t2v")[1])["identity"]
    assert {name: [line[0] for line in lines] for name, lines in identity.items() if name in ("real", "teacher")} == {
        "real": [1 - 18 / 500],
        "teacher": [1 - 49 / 500, 1 - 40 / 500],
    }


def test_settings_that_follow_from_a_varied_one_are_no_undeclared_difference(image_world):
    found = tables.settings(*pair(image_world, "i2v_vs_t2v"))
    assert (found["implied"], found["undeclared"]) == (["model", "teacher"], [])
    image_world.edit("i2v_vs_t2v/t2v/seed0/manifest.json", lambda m: m["config"]["dmd"].update(shift=7.0))
    assert tables.settings(*pair(image_world, "i2v_vs_t2v"))["undeclared"] == ["dmd.shift"]


def test_what_different_teachers_cost_is_stated(image_world):
    assert tables.budget(*pair(image_world, "i2v_vs_t2v"))["teachers"] == [
        {"target": "teacher", "arms": ["t2v"], "after": [], "teraflops": 500.0, "device_seconds": 250.0},
        {"target": "teacher_i2v", "arms": ["i2v"], "after": ["teacher"], "teraflops": 120.0, "device_seconds": 60.0},
    ]
    conditioning = tables.budget(*pair(image_world, "i2v_conditioning"))
    assert "teachers" not in conditioning
    assert {run["teraflops_before"] for run in conditioning["runs"]} == {80.0}


def test_provenance_and_cost_hold_runs_that_only_their_children_name(image_world):
    rows = tables.provenance(pair(image_world, "i2v_conditioning")[1])
    named = [row for row in rows if row["command"] is None]
    ways = [f"causal_sft_i2v/{way}/seed{seed}" for way in ("both", "channels", "first_latent") for seed in range(3)]
    assert [row["target"] for row in named] == [*ways, "teacher"]
    cost = views.total_cost([{"provenance": rows}])
    assert (cost["runs"], cost["teraflops"]) == (9 + 1 + 9 + 1, 9 * 200 + 120 + 9 * 80 + 500)


def test_an_entry_of_the_protocol_that_differs_is_told_for_each_teacher(image_world):
    protocol = tables.protocol(pair(image_world, "i2v_vs_t2v")[1])
    assert protocol["image"] == {"teacher": None, "teacher_i2v": {"given": "first frames", "sha256": "34" * 32}}
    assert protocol["clips"] == 128
    assert tables.protocol(pair(image_world, "i2v_conditioning")[1])["image"]["given"] == "first frames"


def test_the_alarm_is_told_with_its_updates(image_world):
    rows = tables.static_collapse(pair(image_world, "i2v_vs_t2v")[1])
    assert len(rows) == 6
    assert rows[0] == {"arm": "t2v", "seed": 0, "readings": 5, "lowest": 0.6, "fired": []}
    image_world.set_motion("i2v_vs_t2v/i2v/seed1", {0: 0.5, 20: 0.31})
    fired = {
        (row["arm"], row["seed"]): row["fired"] for row in tables.static_collapse(pair(image_world, "i2v_vs_t2v")[1])
    }
    assert [key for key, readings in fired.items() if readings] == [("i2v", 1)]
    assert fired[("i2v", 1)] == [{"update": 20, "value": 0.31}]


def test_runs_that_were_not_watched_are_not_told(read):
    assert tables.static_collapse(read()[1]) == []
