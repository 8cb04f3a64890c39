"""A small finished project: true as it is, and one lie at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import write_run

from harness import train
from harness.cli import main as harness
from harness.config.documents import dump_yaml, read_yaml
from harness.config.load import resolve_target, to_dict
from harness.data.mds import ENCODED_COLUMNS, write_mds
from harness.io import directory_digest, read_json, write_json
from harness.models.checkpoint import WEIGHTS, save_model
from harness.models.presets import build_model
from harness.reference import claims
from harness.reference.claims import pinned_versions
from harness.reference.verify import main, verify
from harness.tracking.locks import dvc_md5
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.manifest import package_versions

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("teacher", "causal_sft/seed0", "causal_vs_bidirectional/causal/seed0")


def write_encoded(folder, value=0.0):
    sample = {
        "key": "clip",
        "latent": np.full((16, 3, 4, 4), value, np.float16),
        "text": np.zeros((3, 64), np.float16),
        "first_frame": np.zeros((8, 8, 3), np.uint8),
        "caption": "a caption",
        "attributes": {},
    }
    for split in ("train", "validation"):
        write_mds(folder / split, ENCODED_COLUMNS, [sample] * 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Data, weights, results and locks of three runs that belong together."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copy(ROOT / "params.yaml", root)
    (root / "experiments/causal_vs_bidirectional").mkdir(parents=True)
    experiment = "experiments/causal_vs_bidirectional/experiment.yaml"
    shutil.copy(ROOT / experiment, root / experiment)
    (root / "requirements.lock").write_text("".join(f"{name}=={v} \\\n" for name, v in package_versions().items()))
    parts = ("vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")
    for name in (*(f"encoders/{part}" for part in parts), "evaluators"):
        (root / "checkpoints" / name).mkdir(parents=True)
        (root / "checkpoints" / name / "weights").write_text(name)
    for folder in ("data/clips", "data/encoded"):
        write_encoded(root / folder)
    digests = {part: directory_digest(root / "checkpoints/encoders" / part) for part in parts}
    write_json(root / "data/encoded/fingerprint.json", {"schema": 1, **digests})
    for target in TARGETS:
        model = root / "checkpoints" / target / "model"
        model.mkdir(parents=True)
        (model / "weights").write_text(target)
    for target in TARGETS:
        write_result(root, target)
    write_locks(root)
    return root


def write_result(root, target):
    config = resolve_target(target, root)
    folder = write_run(root / "results" / target, updates=10)
    inputs = input_digests(config, root)
    teacher = root / "results/teacher/manifest.json"
    parents = [{"target": "teacher", "fingerprint": read_json(teacher)["fingerprint"]}] if target != "teacher" else []
    metrics = {"late_motion": {"value": 1.25, "low": 1.2, "high": 1.3}}
    write_json(root / "results" / target / "cards.json", {"protocol": {}, "models": {"teacher": {"metrics": metrics}}})
    quality = (folder / "quality.csv").read_text().splitlines()[-1].split(",")
    manifest = {
        "ad_hoc": False,
        "config": to_dict(config),
        "inputs": inputs,
        "fingerprint": quick_fingerprint(config, inputs),
        "world_size": 1,
        "parents": parents,
        "git": {"commit": None, "dirty": False, "diff_sha256": None},
        "packages": {"python": "3.11.7", **package_versions()},
        "lock_sha256": hashlib.sha256((root / "requirements.lock").read_bytes()).hexdigest(),
        "updates": {"generator": 10, "critic": 10},
        "best": {"metric": "fvd", "update": 10, "value": float(quality[-1])},
    }
    write_json(folder / "manifest.json", manifest)


def write_locks(root):
    data = read_yaml(root / "params.yaml")["presets"]["tiny"]["data"]

    def lock(path, stages):
        entries = {}
        for name, (deps, outs) in stages.items():
            items = [[{"path": p, "md5": dvc_md5(root / p)} for p in paths] for paths in (deps, outs)]
            entries[name] = {"cmd": "c", "deps": items[0], "outs": items[1]}
            entries[name]["params"] = {"params.yaml": {"preset": "tiny", "presets.tiny.data": data}}
        (root / path).write_text(json.dumps({"schema": "2.0", "stages": entries}))

    lock(
        "dvc.lock",
        {
            "encode": (["data/clips", "checkpoints/encoders"], ["data/encoded"]),
            "teacher": (["data/encoded"], ["checkpoints/teacher", "results/teacher/history.csv"]),
        },
    )
    run = "causal_vs_bidirectional/causal/seed0"
    outs = [f"checkpoints/{run}", f"results/{run}/history.csv"]
    lock("experiments/causal_vs_bidirectional/dvc.lock", {"train@causal-0": (["checkpoints/teacher"], outs)})


FINGERPRINTS = {}


def quick_fingerprint(config, inputs, world_size=1):
    """`fingerprint`, which reads all the code, once for each run."""
    key = json.dumps([to_dict(config), inputs, world_size], sort_keys=True)
    if key not in FINGERPRINTS:
        FINGERPRINTS[key] = fingerprint(config, inputs, world_size)
    return FINGERPRINTS[key]


@pytest.fixture
def project(finished, tmp_path, monkeypatch) -> Path:
    """A copy to spoil; the working directory."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "fingerprint", quick_fingerprint)
    return tmp_path


def told(*words):
    """(subject, claim, detail) of every mismatch."""
    return [(c.subject, c.claim, c.detail) for c in verify(words) if c.outcome == "mismatch"]


def edit(path, change):
    content = read_json(path)
    change(content)
    write_json(path, content)


def replace(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def test_a_project_that_is_what_it_says(project, capsys):
    assert harness(["verify"]) == 0
    text = capsys.readouterr().out
    assert "claims hold, 0 do not, 0 could not be checked" in text
    assert "Does not hold" not in text
    assert verify(["causal_vs_bidirectional"])


def test_a_clone_without_data_says_what_it_could_not_check(project, capsys):
    shutil.rmtree("data")
    shutil.rmtree("checkpoints")
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "Could not be checked (a fresh clone has no data" in text
    assert "causal_sft/seed0 and 4 more: data/encoded is not here" in text
    assert "Does not hold" not in text


def test_a_setting_that_was_changed_since(project):
    replace("params.yaml", "cfg_scale: 2.0", "cfg_scale: 3.0")
    (found,) = told()
    assert found == (TARGETS[2], "config", "dmd.cfg_scale: trained with 2.0, declared now 3.0")


def test_a_setting_of_the_lock_that_was_changed_since(project):
    replace("params.yaml", "      fps: 8\n", "      fps: 9\n")
    assert {detail for _, _, detail in told()} == {"params.yaml: presets.tiny.data.fps is 9, recorded 8"}


def test_settings_that_the_schema_does_not_know_any_more(project):
    edit("results/teacher/manifest.json", lambda m: m["config"].update(gone=1))
    (found,) = told("teacher")
    assert found[:2] == ("teacher", "config")
    assert "config.gone" in found[2]


def test_an_experiment_that_is_gone(project):
    shutil.rmtree("experiments/causal_vs_bidirectional")
    assert any("is broken or gone" in detail for _, _, detail in told(TARGETS[2]))


def test_another_teacher(project):
    Path("checkpoints/teacher/model/weights").write_text("another")
    found = told()
    assert [s for s, c, _ in found if c == "inputs"] == ["causal_sft/seed0", TARGETS[2], TARGETS[2]]
    assert any(detail.startswith("teacher: checkpoints/teacher/model is ") for _, _, detail in found)
    assert [(s, d.split(":")[0]) for s, c, d in found if c == "files"] == [
        ("dvc.lock", "checkpoints/teacher"),
        ("experiments/causal_vs_bidirectional/dvc.lock", "checkpoints/teacher"),
    ]


def test_a_teacher_that_was_trained_anew(project):
    edit("results/teacher/manifest.json", lambda m: m.update(fingerprint="f" * 64))
    found = told("causal_sft")
    assert [(s, c) for s, c, _ in found] == [("causal_sft/seed0", "parents")]
    assert "is run ffffffffffff now" in found[0][2]


def test_other_code(project, monkeypatch):
    monkeypatch.setattr(claims, "fingerprint", lambda *arguments: "another")
    found = told(TARGETS[2])
    assert [(s, c) for s, c, _ in found] == [(TARGETS[2], "code")]
    assert "no repository to ask" in found[0][2]
    monkeypatch.setattr(claims, "_changed", lambda root, commit, files: ["harness/methods/dmd.py"])
    edit("results/teacher/manifest.json", lambda m: m["git"].update(commit="c" * 40, dirty=True))
    assert "since commit cccccccccccc: harness/methods/dmd.py" in told("teacher")[0][2]
    assert [c.detail for c in verify(["teacher"]) if c.outcome == "note"] == [
        "made with edits after commit cccccccccccc"
    ]


def test_other_packages(project):
    replace("requirements.lock", "torch==", "torch==9.")
    found = told()
    assert [(s, c) for s, c, _ in found] == [(target, "packages") for target in sorted(TARGETS)]
    assert "→ 9." in found[0][2]


def test_a_lock_that_changed_in_nothing_that_counts_is_a_note(project):
    with open("requirements.lock", "a") as file:
        file.write("another==1.0\n")
    assert told() == []
    assert any("has changed since" in check.detail for check in verify() if check.outcome == "note")
    lock = "a-b==1.2 \\\n    --hash=sha256:00\nc==3; python_version > '3'\n"
    assert pinned_versions(lock) == {"a-b": "1.2", "c": "3"}


def test_stale_shards(project):
    write_encoded(project / "data/new", value=1.0)
    shutil.rmtree("data/encoded/train")
    Path("data/new/train").rename("data/encoded/train")
    found = told()
    assert {s for s, c, _ in found if c == "inputs"} == set(TARGETS)
    assert any(s == "dvc.lock" and d.startswith("data/encoded: md5") for s, _, d in found)


def test_a_teacher_whose_card_moves_otherwise(project):
    card = Path("results/teacher/cards.json")
    card.write_text(card.read_text().replace("1.25", "1.5"))
    found = [(subject, detail) for subject, claim, detail in told() if claim == "inputs"]
    assert all("`late_motion` on the card of checkpoints/teacher is not what" in detail for _, detail in found)
    assert {subject for subject, _ in found} >= {target for target in TARGETS if target != "teacher"}


def test_a_damaged_card_of_the_teacher_is_told_and_the_rest_is_checked(project):
    Path("results/teacher/cards.json").write_text('{"models": {"teacher": {"metrics": {}}}}')
    found = told()
    what = "cards.json: models.teacher.metrics.late_motion is missing"
    damaged = {s for s, c, d in found if c == "inputs" and what in d}
    assert damaged >= {target for target in TARGETS if target != "teacher"}
    assert {c for s, c, _ in found if s in damaged} == {"inputs"}


@pytest.mark.parametrize("part", ["vae", "tokenizer", "image_encoder", "image_processor"])
def test_shards_of_other_encoders(project, part):
    Path("checkpoints/encoders", part, "weights").write_text("another")
    found = told("teacher")
    assert [(s, c) for s, c, _ in found if s == "data/encoded"] == [("data/encoded", "encoders")]
    assert "run `dvc repro encode`" in next(d for s, _, d in found if s == "data/encoded")


def test_a_damaged_shard(project):
    (shard,) = Path("data/encoded/train").glob("*.mds")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    found = told("teacher")
    assert any(c == "shards" and "damaged" in d for _, c, d in found)
    assert not any(c == "inputs" for _, c, _ in found)  # their digest is over the indices


def test_tables_that_were_cut(project):
    path = Path("results/teacher/history.csv")
    path.write_text("\n".join(path.read_text().splitlines()[:-4]) + "\n")
    found = told("teacher")
    assert {d for s, c, d in found if c == "tables"} == {
        f"{path}: ends at generator update 8, the manifest says 10",
        f"{path}: ends at critic update 8, the manifest says 10",
    }
    assert any(d.startswith("results/teacher/history.csv: md5") for _, c, d in found if c == "files")
    edit("results/causal_sft/seed0/manifest.json", lambda m: m["best"].update(value=1.0))
    assert "best fvd of the manifest is not in quality.csv" in told("causal_sft")[0][2]


def test_only_what_is_named(project):
    Path("results/teacher/history.csv").write_text("spoilt\n")
    assert told("causal_vs_bidirectional/causal") == []
    assert told("experiments/causal_vs_bidirectional") == []
    assert told("teacher")
    assert harness(["verify", "nothing"]) == 2


def test_an_ad_hoc_run_has_no_declaration(project):
    shutil.copytree("results/teacher", "runs/mine")
    edit("runs/mine/manifest.json", lambda m: m.update(ad_hoc=True))
    edit("runs/mine/manifest.json", lambda m: m["config"]["sft"].update(shift=9.0))
    found = told("mine")
    assert [(s, c) for s, c, _ in found] == [("mine", "code")]  # settings and fingerprint do not belong together


def test_a_manifest_without_settings(project):
    edit("results/teacher/manifest.json", lambda m: m.pop("config"))
    assert "no `config`" in told("teacher")[0][2]


@pytest.fixture
def imported(project) -> Path:
    """The project with a teacher that is imported, not trained."""
    params = read_yaml("params.yaml")
    params["presets"]["tiny"]["run"]["teacher"] = "pretrained/mine"
    Path("params.yaml").write_text(dump_yaml(params))
    save_model(build_model("tiny", zero_output=False), project / "pretrained/mine")
    shutil.rmtree("checkpoints/teacher")
    shutil.rmtree("results/teacher")
    assert train.main(["--target", "teacher"]) == 0
    write_locks(project)
    return project


def test_a_teacher_that_was_imported(imported):
    assert told("teacher") == []
    assert [(c.claim, c.outcome) for c in verify(["teacher"]) if (c.subject, c.claim) == ("teacher", "weights")] == [
        ("weights", "ok")
    ]
    folder = Path("checkpoints/teacher/model")
    (folder / "config.json").unlink()
    (folder / "config.json").write_text("{}")
    (folder / "more").touch()
    (folder / WEIGHTS).unlink()
    found = [detail for subject, claim, detail in told("teacher") if (subject, claim) == ("teacher", "weights")]
    assert found[0].startswith(f"{folder}/config.json: is 44136fa355b3, imported was ")
    assert found[1:] == [f"{folder}/{WEIGHTS}: is gone", f"{folder}/more: was not imported"]
    shutil.rmtree("checkpoints")
    assert told("teacher") == []
    assert "checkpoints/teacher/model is not here" in [c.detail for c in verify(["teacher"]) if c.outcome == "missing"]


def test_an_import_whose_record_was_edited(imported):
    edit("results/teacher/manifest.json", lambda m: m.update(fingerprint="f" * 64))
    assert ("teacher", "weights", "the fingerprint is not that of the recorded sums") in told("teacher")
    edit("results/teacher/manifest.json", lambda m: m.update(imported={}))
    assert any("no sums of the imported files" in detail for _, _, detail in told("teacher"))
