import pytest

from harness.comparison import tables
from harness.comparison.declaration import load_declaration
from harness.comparison.results import read_results

NAME = "two_stage_vs_one_stage"


@pytest.fixture
def read(world):
    def again():
        declaration = load_declaration(NAME, world.root)
        return declaration, read_results(declaration, world.root)

    return again


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
    rows = {(row["arm"], row["model"]): row for row in tables.against_baselines(*read())}
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
