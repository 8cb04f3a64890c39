import json
import subprocess
import sys

import pytest

from harness.comparison import compare
from harness.comparison.compare import load_comparisons, main, print_verdicts, rounded
from harness.errors import HarnessError
from harness.io import read_json

NAME = "two_stage_vs_one_stage"


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
