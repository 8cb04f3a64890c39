import json
import subprocess
import sys

import pytest

from harness.comparison import compare
from harness.comparison.compare import load_comparisons, main, print_verdicts, rounded
from harness.errors import HarnessError
from harness.io import read_json

NAME = "two_stage_vs_one_stage"
IMAGES, WAYS = "i2v_vs_t2v", "i2v_conditioning"


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_everything_the_report_needs_lands_in_one_folder(world):
    folder = main(NAME, world.root)
    found = files(folder)
    assert {"comparison.json", "curves.csv", "clips/real_0.webp", "clips/one_stage_3.webp"} <= set(found)
    columns = [column["name"] for column in json.loads(found["comparison.json"])["clips"]]
    assert columns == ["real", "teacher", "cut_teacher", "causal_sft", "two_stage", "one_stage"]


def test_rebuild_is_byte_identical_and_drops_old_clips(world):
    folder = main(NAME, world.root)
    before = files(folder)
    (folder / "clips" / "old_0.webp").write_bytes(b"old")
    main(NAME, world.root)
    assert files(folder) == before


def test_a_clip_that_a_card_names_but_is_gone(world):
    (world.root / "results" / "teacher" / "clips" / "real_2.webp").unlink()
    with pytest.raises(HarnessError, match=r"real_2\.webp: the card names this clip"):
        main(NAME, world.root)


def test_verdicts_on_the_terminal(world, capsys):
    main(NAME, world.root)
    print_verdicts(world.root)
    text = capsys.readouterr().out
    assert "[+] Causal SFT before DMD lowers the Fréchet distance." in text
    assert "better than DMD from the teacher by 10.8, interval of the gain [10.1, 11.6], n = 3" in text
    assert text.rstrip().endswith(f"Report: {world.root.resolve()}/reports/index.html")


def test_nothing_compared_yet(tmp_path):
    with pytest.raises(HarnessError, match="no comparison yet"):
        load_comparisons(tmp_path)


@pytest.mark.parametrize(("content", "what"), [("[]", "holds [], expected an object"), ("{}", "has no declaration")])
def test_a_comparison_of_another_shape_is_named(tmp_path, content, what):
    (tmp_path / "comparisons/sink").mkdir(parents=True)
    (tmp_path / "comparisons/sink/comparison.json").write_text(content)
    with pytest.raises(HarnessError) as caught:
        load_comparisons(tmp_path)
    assert f"comparisons/sink/comparison.json: {what}" in str(caught.value)


def test_floats_are_rounded_where_processors_differ():
    assert rounded({"a": [0.1 + 0.2, 1, None, True]}) == {"a": [0.3, 1, None, True]}


def test_torch_is_never_imported():
    modules = "harness.comparison.compare, harness.comparison.report, harness.comparison.pictures"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=compare.__file__.rsplit("/harness/", 1)[0]).returncode == 0


def test_a_broken_guardrail_stands_beside_the_verdict_of_its_arm(world, capsys):
    def brighten(card):
        card["models"]["student"]["metrics"]["ink"].update(value=1.5)

    def summaries():
        found = read_json(compare.main(NAME, world.root) / "comparison.json")["hypotheses"]
        return {h["name"]: (h["broken"], "guardrail broken" in h["summary"]) for h in found}

    assert set(map(str, summaries().values())) == {"([], False)"}
    for seed in range(3):
        world.edit(f"{NAME}/two_stage/seed{seed}/cards.json", brighten)
    assert summaries()["two_stages_help"] == (["ink"], True)
    compare.print_verdicts(world.root)
    assert "guardrail broken: Mean brightness" in capsys.readouterr().out


def test_the_comparison_is_handed_to_the_tracker(world, monkeypatch):
    monkeypatch.setattr(compare, "compare_request", lambda name, root: (name, root))
    published = []
    monkeypatch.setattr(compare, "publish", lambda make, root: published.append((make(), root)))
    main(NAME, world.root)
    assert published == [((NAME, world.root), world.root)]


def columns_of(world, name) -> dict[str, dict]:
    return {column["name"]: column for column in read_json(main(name, world.root) / "comparison.json")["clips"]}


def test_given_images_stand_first_and_beside_every_teacher_and_arm(image_world):
    columns = columns_of(image_world, IMAGES)
    names = ["given", "real", "teacher-t2v", "cut_teacher-t2v", "teacher-i2v", "cut_teacher-i2v", "t2v", "i2v"]
    assert list(columns) == names
    assert columns["given"]["files"] == [f"clips/given_{i}.png" for i in range(4)]
    assert [name for name, column in columns.items() if column.get("given")] == [
        "teacher-i2v",
        "cut_teacher-i2v",
        "i2v",
    ]
    assert columns["teacher-i2v"]["label"] == "teacher (Image to video)"
    assert columns["cut_teacher-t2v"]["label"] == "teacher cut cfg (Text to video)"
    folder = image_world.root / "comparisons" / IMAGES
    for name, target in (("given", f"{IMAGES}/i2v/seed0"), ("real", "teacher"), ("teacher-i2v", "teacher_i2v")):
        for file in columns[name]["files"]:
            own = file.replace("-i2v", "")
            assert (folder / file).read_bytes() == (image_world.root / "results" / target / own).read_bytes()


def test_a_shared_image_teacher_has_one_column(image_world):
    columns = columns_of(image_world, WAYS)
    assert list(columns) == ["given", "real", "teacher", "cut_teacher", "channels", "first_latent", "both"]
    assert columns["real"].get("given") is None


def test_a_given_image_that_is_gone(image_world):
    (image_world.root / "results" / IMAGES / "i2v" / "seed0" / "clips" / "given_1.png").unlink()
    with pytest.raises(HarnessError, match=r"given_1\.png: the card names this clip"):
        main(IMAGES, image_world.root)


def test_text_to_video_says_nothing_of_images(world):
    comparison = read_json(main(NAME, world.root) / "comparison.json")
    assert "static_collapse" not in comparison
    assert "baselines" not in comparison["declaration"]
    assert "implied" not in comparison["settings"]
    assert "teachers" not in comparison["budget"]
    assert not any("given" in (column["name"], *column) for column in comparison["clips"])


def test_declared_baselines_are_stated(image_world):
    comparison = read_json(main(IMAGES, image_world.root) / "comparison.json")
    wanted = {"teacher": {"t2v": "teacher", "i2v": "teacher_i2v"}, "causal_sft": None}
    assert comparison["declaration"]["baselines"] == wanted
    assert {row["model"] for row in comparison["against"]} >= {"teacher_cut_cfg", "init"}


def test_the_alarm_is_on_the_terminal(image_world, capsys):
    main(IMAGES, image_world.root)
    print_verdicts(image_world.root)
    assert "Static collapse" not in capsys.readouterr().out
    image_world.set_motion(f"{IMAGES}/i2v/seed2", {0: 0.2, 20: 0.31})
    main(IMAGES, image_world.root)
    print_verdicts(image_world.root)
    text = capsys.readouterr().out
    assert "[!] Static collapse in Image to video, seed 2, at updates 0 (before training), 20: after their" in text
    assert "moved only 0.2 times as much as the teacher's (alarm below 0.5; 2 of 5 readings)." in text
    assert text.count("Static collapse") == 1


def test_long_clips_are_copied_beside_the_short_ones(long_world):
    folder = main(NAME, long_world.root)
    comparison = read_json(folder / "comparison.json")
    long = comparison["long"]["shown"]
    assert [(column["name"], column["label"]) for column in long] == [
        ("long-init", "What all start from"),
        ("long-two_stage", "Causal SFT, then DMD"),
        ("long-one_stage", "DMD from the teacher"),
    ]
    assert long[1]["files"] == [f"clips/long-two_stage_{k}.webp" for k in range(3)]
    source = long_world.root / "results" / NAME / "two_stage" / "seed0" / "clips" / "student_long_1.webp"
    assert (folder / long[1]["files"][1]).read_bytes() == source.read_bytes()
    assert not any(column["name"].startswith("long") for column in comparison["clips"])
    assert {"real_0.webp", "long-init_2.webp"} <= {path.name for path in (folder / "clips").iterdir()}


def test_arms_with_different_starts_show_each(long_world):
    def change(card):
        card["models"]["init"]["long"]["clips"] = 64
        card["models"]["init"]["long"]["segments"][0]["metrics"]["fvd"] = 1.0

    long_world.edit(f"{NAME}/one_stage/seed0/cards.json", change)
    long = read_json(main(NAME, long_world.root) / "comparison.json")["long"]
    assert [column["label"] for column in long["shown"]][:2] == [
        "Causal SFT, then DMD: its init",
        "DMD from the teacher: its init",
    ]


def test_a_long_clip_that_is_gone(long_world):
    (long_world.root / "results" / NAME / "one_stage" / "seed0" / "clips" / "student_long_2.webp").unlink()
    with pytest.raises(HarnessError, match=r"student_long_2\.webp: the card names this clip"):
        main(NAME, long_world.root)


def test_without_a_long_evaluation_nothing_is_said_of_it(world):
    comparison = read_json(main(NAME, world.root) / "comparison.json")
    assert "long" not in comparison
    assert [column for column in comparison["clips"] if "long" in column["name"]] == []
