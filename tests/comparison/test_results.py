import pytest

from harness.comparison.declaration import load_declaration
from harness.comparison.results import read_results, read_rows
from harness.errors import HarnessError

NAME = "two_stage_vs_one_stage"


def refused(world) -> str:
    with pytest.raises(HarnessError) as caught:
        read_results(load_declaration(NAME, world.root), world.root)
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
    assert "two_stage/seed2/manifest.json: parents: the compute of causal_sft is not recorded" in refused(world)


def test_rows_leave_out_what_is_no_number(tmp_path):
    path = tmp_path / "quality.csv"
    path.write_text("update,fvd,note\n0,nan,start\n10,61.5,ok\n")
    assert read_rows(path) == [{"update": 0.0}, {"update": 10.0, "fvd": 61.5}]
