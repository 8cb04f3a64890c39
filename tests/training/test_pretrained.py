"""A preset with a pretrained teacher, on tiny networks in the real folder layout."""

import json
import re
import shlex
import shutil

import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file, save_file

from harness import train
from harness.cli import main as harness
from harness.config.load import resolve_target
from harness.errors import HarnessError
from harness.formats.exporting import export_checkpoint
from harness.formats.importing import ImportRequest, import_checkpoint
from harness.io import read_json, sha256_file
from harness.models.checkpoint import WEIGHTS, load_model, save_model
from harness.models.original_names import to_original
from harness.models.presets import build_model
from harness.training.inputs import init_folder, input_digests, teacher_folder

PRETRAINED = "pretrained/wan-tiny"


@pytest.fixture
def pretrained(project, monkeypatch):
    """A project whose preset names a pretrained pipeline; nothing is trained in it."""
    source = project / "downloaded"
    save_model(build_model("tiny", zero_output=False), source / "transformer")
    for name in ("vae/config.json", "model_index.json"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("{}")
    import_checkpoint(ImportRequest(source="downloaded", out=project / PRETRAINED, preset="tiny"))
    shutil.rmtree(source)
    shutil.rmtree(project / "checkpoints")
    name_teacher(project, PRETRAINED)
    monkeypatch.setattr("harness.training.session.train", lambda *_, **__: pytest.fail("it was trained"))
    return project


def name_teacher(project, teacher):
    text = (project / "params.yaml").read_text()
    text, count = re.subn(r"(?m)^(      teacher:) checkpoints/teacher\b(?!_)", rf"\1 {teacher}", text)
    assert count == 2
    (project / "params.yaml").write_text(text)


def import_teacher():
    return train.main(["--target", "teacher"])


def test_the_teacher_is_imported_not_trained(pretrained, capsys):
    assert import_teacher() == 0
    folder = pretrained / "checkpoints/teacher/model"
    source = pretrained / PRETRAINED / "transformer"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", WEIGHTS]
    assert (folder / WEIGHTS).samefile(source / WEIGHTS)
    assert load_model(folder).config["num_layers"] == 4
    manifest = read_json(pretrained / "results/teacher/manifest.json")
    origin = read_json(pretrained / PRETRAINED / "origin.json")
    assert manifest["imported"]["source"] == "downloaded"
    assert manifest["imported"]["files"] == origin["files"]
    assert manifest["imported"]["written"] == {name: sha256_file(folder / name) for name in ("config.json", WEIGHTS)}
    assert (manifest["target"], manifest["ad_hoc"], manifest["compute"]["teraflops"]) == ("teacher", False, 0.0)
    assert manifest["config"]["teacher"] == PRETRAINED
    history = (pretrained / "results/teacher/history.csv").read_text()
    assert history.startswith("batch,update,")
    assert history.count("\n") == 1
    assert not (pretrained / ".work").exists()


def test_importing_again_gives_the_same_run_and_replaces_the_folder(pretrained):
    assert import_teacher() == 0
    first = read_json(pretrained / "results/teacher/manifest.json")
    (pretrained / "checkpoints/teacher/stale").touch()
    assert import_teacher() == 0
    assert read_json(pretrained / "results/teacher/manifest.json") == first
    assert [p.name for p in (pretrained / "checkpoints/teacher").iterdir()] == ["model"]


def test_other_processes_of_a_launch_wait_for_nothing(pretrained, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert import_teacher() == 0
    assert not (pretrained / "checkpoints").exists()


def test_later_stages_start_from_the_pretrained_network(pretrained):
    config = resolve_target("causal_sft/seed0", pretrained)
    assert teacher_folder(config, pretrained) == init_folder(config, pretrained)
    assert init_folder(config, pretrained) == pretrained / PRETRAINED / "transformer"


@pytest.mark.parametrize("place", ["", "model", "transformer"])
def test_every_place_of_the_network_is_found(project, place, small_run):
    save_model(build_model("tiny"), project / "mine" / place)
    config = small_run(project, "dmd", "teacher=mine", "init.kind=checkpoint", "init.path=mine")
    assert teacher_folder(config, project) == project / "mine" / place
    assert init_folder(config, project) == project / "mine" / place
    assert input_digests(config, project)["teacher"] == input_digests(config, project)["init"]


def test_a_folder_that_import_did_not_write_serves_too(pretrained):
    (pretrained / PRETRAINED / "origin.json").unlink()
    assert import_teacher() == 0
    imported = read_json(pretrained / "results/teacher/manifest.json")["imported"]
    assert (imported["source"], imported["revision"]) == (PRETRAINED, None)


def remove(folder):
    shutil.rmtree(folder)


def truncate(folder):
    path = folder / "transformer" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])


def edit(folder):
    path = folder / "transformer" / WEIGHTS
    state = load_file(path)
    state["proj_out.bias"] += 1
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "no such file or folder"),
        (truncate, "truncated or damaged"),
        (edit, f"{WEIGHTS} differ from what"),
    ],
)
def test_a_missing_or_damaged_folder_names_the_command(pretrained, capsys, damage, words):
    sum_ = read_json(pretrained / PRETRAINED / "origin.json")["sha256"]
    damage(pretrained / PRETRAINED)
    assert import_teacher() == 2
    text = capsys.readouterr().err
    source = "SOURCE" if damage is remove else f"downloaded --sha256 {sum_}"
    assert words in text
    assert f"\n  python -m harness import {source} --preset tiny --out {PRETRAINED}\n" in text
    assert not (pretrained / "checkpoints").exists()
    assert not (pretrained / "results").exists()


@pytest.mark.parametrize("choices", ["--weights raw --lora-alpha 1.5 --dtype bf16", "--weights ema", ""])
def test_the_named_command_imports_the_same_again(pretrained, capsys, monkeypatch, choices):
    state = to_original(build_model("tiny", zero_output=False).state_dict())
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"generator": state, "generator_ema": averaged}, pretrained / "a base.pt")
    module = "blocks.0.self_attn.q"
    out_features, in_features = state[f"{module}.weight"].shape
    factors = {
        f"{module}.lora_A.weight": torch.ones(2, in_features),
        f"{module}.lora_B.weight": torch.ones(out_features, 2),
    }
    torch.save({"generator_lora": factors}, pretrained / "lora.pt")
    monkeypatch.chdir(pretrained)
    command = ["import", "a base.pt", *choices.split(), "--lora", "lora.pt", "--preset", "tiny", "--out", PRETRAINED]
    assert harness(command) == 0
    path = pretrained / PRETRAINED / WEIGHTS
    first = path.read_bytes()
    path.write_bytes(first[:-10])
    capsys.readouterr()
    assert import_teacher() == 2
    words = shlex.split(capsys.readouterr().err.strip().splitlines()[-1])
    assert words[:3] == ["python", "-m", "harness"]
    assert {"--sha256", "--lora-sha256"} <= set(words)
    assert harness(words[3:]) == 0
    assert path.read_bytes() == first


def test_another_presets_network_is_refused(pretrained, capsys):
    config = json.loads((pretrained / PRETRAINED / "transformer/config.json").read_text())
    model = build_model("tiny").from_config(config | {"num_layers": 1})
    shutil.rmtree(pretrained / PRETRAINED)
    save_model(model, pretrained / PRETRAINED)
    assert import_teacher() == 2
    assert "not of preset tiny: num_layers is 1, not 4" in capsys.readouterr().err


def test_a_folder_that_must_be_converted_first_is_refused(pretrained, capsys):
    export_checkpoint(PRETRAINED, "original", pretrained / "original")
    shutil.rmtree(pretrained / PRETRAINED)
    (pretrained / "original").rename(pretrained / PRETRAINED)
    assert import_teacher() == 2
    assert "is not as `import` writes it" in capsys.readouterr().err
    assert not (pretrained / "checkpoints").exists()


@pytest.mark.parametrize("adhoc", [False, True])
def test_what_is_asked_to_train_is_trained(project, monkeypatch, capsys, adhoc):
    def trained(*_, **__):
        raise HarnessError("it trains")

    monkeypatch.setattr("harness.training.session.train", trained)
    words = ["--target", "teacher"]
    if adhoc:  # a run of one's own may be called so
        name_teacher(project, "mine")
        (project / "own.yaml").write_text("preset: smoke\nmethod: sft\nseed: 0\ninit: {kind: random}\n")
        words = ["own.yaml", "--name", "teacher"]
    assert train.main(words) == 2
    assert "error: it trains" in capsys.readouterr().err


def test_a_run_names_the_command_for_wans_own_weights(project, small_run):
    config = evolve(small_run(project, "dmd"), model="wan2.1-t2v-1.3b", teacher="pretrained/wan2.1-t2v-1.3b")
    command = (
        "python -m harness import Wan-AI/Wan2.1-T2V-1.3B-Diffusers --preset wan2.1-t2v-1.3b "
        "--out pretrained/wan2.1-t2v-1.3b"
    )
    with pytest.raises(HarnessError, match=command):
        input_digests(config, project)


def test_an_image_to_video_teacher_is_imported_too(pretrained, monkeypatch):
    torch.manual_seed(1)
    save_model(build_model("tiny-i2v", zero_output=False), pretrained / "downloaded/transformer")
    import_checkpoint(ImportRequest(source="downloaded", out=pretrained / "pretrained/i2v", preset="tiny-i2v"))
    text = (pretrained / "params.yaml").read_text()
    assert text.count("teacher: checkpoints/teacher_i2v") == 2
    (pretrained / "params.yaml").write_text(text.replace("checkpoints/teacher_i2v", "pretrained/i2v"))
    assert train.main(["--target", "teacher_i2v"]) == 0
    assert load_model(pretrained / "checkpoints/teacher_i2v/model").config["image_dim"] == 64
    assert read_json(pretrained / "results/teacher_i2v/manifest.json")["config"]["teacher"] == "pretrained/i2v"
    assert not (pretrained / "checkpoints/teacher").exists()
