import json
import os

import pytest
import torch
from checkpoint_makers import I2V, T2V, make_diffusers, random_state
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import PeftModel
from safetensors.torch import load_file

from harness.cli import main as harness
from harness.errors import HarnessError
from harness.formats.exporting import FORMATS, export_checkpoint, find
from harness.formats.importing import ImportRequest, import_checkpoint
from harness.io import sha256_file, write_json
from harness.models.checkpoint import WEIGHTS
from harness.models.lora import Update, merge, write_adapter

pytestmark = pytest.mark.usefixtures("small_presets")
SUFFIX = {"diffusers": "", "original": "", "single_file": ".safetensors", "self_forcing": ".pt"}
TARGET = "claim/arm/seed0"
MANIFEST = {
    "target": TARGET,
    "fingerprint": "f00d",
    "command": "python harness/train.py --target claim/arm/seed0",
    "config": {
        "method": "dmd",
        "seed": 0,
        "preset": "tiny",
        "data": "data/encoded",
        "frames": 9,
        "init": {"kind": "causal_sft"},
        "rollout": {"attention": "causal", "denoising_steps": [1000, 500], "shift": 3.0, "window": -1, "sink": 0},
        "dmd": {"cfg_scale": 2.0},
    },
    "inputs": {"data": "beef"},
    "updates": {"generator": 100, "critic": 550},
    "git": {"commit": "abc", "dirty": True},
    "packages": {"torch": "2.7.0"},
    "parents": [{"target": "teacher", "fingerprint": "1234", "compute": {}}],
}
CARDS = {
    "models": {
        "init": {"metrics": {"fvd": {"value": 99.0, "low": 1, "high": 2}}},
        "student": {
            "label": "Student",
            "metrics": {"fvd": {"value": 21.84, "low": 21.7, "high": 21.9}, "none": {"value": None}},
            "sampler": {"kind": "few_step", "steps": 2},
        },
    },
    "protocol": {"clips": 256, "seed": 1234, "size": [24, 24]},
}


@pytest.fixture
def project(tmp_path):
    """A project with one trained target."""
    make_diffusers(tmp_path / "checkpoints" / TARGET / "model", random_state(T2V), T2V)
    write_json(tmp_path / "results" / TARGET / "manifest.json", MANIFEST)
    write_json(tmp_path / "results" / TARGET / "cards.json", CARDS)
    return tmp_path


@pytest.mark.parametrize("geometry", [T2V, I2V], ids=["t2v", "i2v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None], ids=["f32", "bf16", "mixed"])
@pytest.mark.parametrize("layout", FORMATS)
def test_import_export_import_is_bit_exact(tmp_path, same, layout, dtype, geometry):
    state = random_state(geometry, dtype=dtype)
    make_diffusers(tmp_path / "a", state, geometry)
    first = import_checkpoint(ImportRequest(source=str(tmp_path / "a"), out=tmp_path / "first"))
    out = tmp_path / f"export{SUFFIX[layout]}"
    export_checkpoint("first", layout, out, root=tmp_path)
    second = import_checkpoint(ImportRequest(source=str(out), out=tmp_path / "second"))
    same(load_file(tmp_path / "second" / WEIGHTS), state)
    assert second["written"][WEIGHTS] == first["written"][WEIGHTS]
    assert second["layout"] == layout


def test_stock_diffusers_loads_an_export(project, same):
    export_checkpoint(TARGET, "diffusers", project / "out", root=project)
    same(dict(WanTransformer3DModel.from_pretrained(project / "out").state_dict()), random_state(T2V))


@pytest.mark.parametrize("layout", FORMATS)
def test_the_card_says_what_it_is_and_where_it_is_from(project, layout):
    out = project / f"export{SUFFIX[layout]}"
    export_checkpoint(TARGET, layout, out, dtype="bf16", root=project)
    card = out / "README.md" if not SUFFIX[layout] else project / "export.README.md"
    text = card.read_text()
    for words in (
        f"# {TARGET}\n",
        "preset: small",
        "Weights: bfloat16",
        "`dmd` from `causal_sft`",
        "550 critic updates, 100 generator updates",
        "denoising steps [1000, 500] at shift 3.0",
        "cfg_scale 2.0",
        "input `data`: SHA-256 `beef`",
        "| fvd | 21.84 | [21.7, 21.9] |",
        "clips 256, seed 1234",
        "fingerprint `f00d`",
        "commit `abc` with local changes",
        "starts from `teacher`, fingerprint `1234`",
    ):
        assert words in text
    assert "99" not in text.split("## Provenance")[0]
    file = out if SUFFIX[layout] else out / WEIGHTS
    assert f"- `{file.name}`: SHA-256 `{sha256_file(file)}`" in text
    weights = torch.load(out, weights_only=True)["generator"] if layout == "self_forcing" else load_file(file)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_targets_folders_and_ad_hoc_runs_are_found(project, monkeypatch):
    make_diffusers(project / "runs/mine/checkpoints/model", random_state(T2V), T2V)
    manifest = {"target": "mine", "ad_hoc": True, "fingerprint": "f"}
    write_json(project / "runs/mine/manifest.json", manifest)
    write_json(project / "runs/mine/evaluation/cards.json", CARDS | {"run": "f"})
    make_diffusers(project / "checkpoints" / TARGET / "init", random_state(T2V), T2V)
    for what in (TARGET, f"checkpoints/{TARGET}", f"checkpoints/{TARGET}/model"):
        found = find(what, project)
        assert found.folder == project / "checkpoints" / TARGET / "model"
        assert found.provenance.manifest == MANIFEST
        assert found.provenance.cards == CARDS
    for what in ("mine", "runs/mine", "runs/mine/checkpoints", "runs/mine/checkpoints/model"):
        found = find(what, project)
        assert found.folder == project / "runs/mine/checkpoints/model"
        assert (found.provenance.name, found.provenance.manifest) == ("mine", manifest)
        assert found.provenance.cards == CARDS | {"run": "f"}
    write_json(project / "runs/mine/evaluation/cards.json", CARDS | {"run": "of an earlier one"})
    assert find("mine", project).provenance.cards is None
    init = find(f"checkpoints/{TARGET}/init", project).provenance
    assert (init.name, init.manifest, init.cards) == ("init", None, None)
    with pytest.raises(HarnessError, match=r"no model at .*checkpoints/clam or"):
        find("clam", project)
    monkeypatch.chdir(project)
    assert find(TARGET, type(project)(".")).provenance.manifest == MANIFEST


def test_the_origin_of_an_import_is_told(project):
    source = str(project / "checkpoints" / TARGET / "model")
    import_checkpoint(ImportRequest(source=source, out=project / "imported"))
    export_checkpoint("imported", "diffusers", project / "out", root=project)
    text = (project / "out/README.md").read_text()
    assert f"imported from `{source}`" in text
    assert "Not evaluated." in text
    marker = json.loads((project / "out/origin.json").read_text())
    assert (marker["source"], marker["layout"]) == ("imported", "diffusers")
    assert marker["written"][WEIGHTS] == sha256_file(project / "out" / WEIGHTS)
    export_checkpoint("imported", "diffusers", project / "out", root=project)  # our own is replaced


def test_what_cannot_be_written_is_refused(project):
    before = sorted(os.listdir(project))
    for layout, suffix in (("single_file", "safetensors"), ("self_forcing", "pt")):
        with pytest.raises(HarnessError, match=rf"is one file, expected a name that ends in \.{suffix}"):
            export_checkpoint(TARGET, layout, project / "out", root=project)
    with pytest.raises(HarnessError, match="not written by import or export"):
        export_checkpoint(TARGET, "original", project / "results", root=project)
    weights = project / "checkpoints" / TARGET / "model" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(HarnessError, match="truncated"):
        export_checkpoint(TARGET, "self_forcing", project / "a.pt", root=project)
    assert sorted(os.listdir(project)) == before


def test_the_verb(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    assert harness(["export", TARGET, "--format", "single_file", "--out", "a.safetensors"]) == 0
    assert f"a.safetensors: {TARGET} as single_file" in capsys.readouterr().err
    assert harness(["export", "nothing", "--format", "original", "--out", "b"]) == 2
    assert "no model at" in capsys.readouterr().err


@pytest.fixture
def adapted(project):
    """A base, and the adapter and the network that a run with `lora.rank` has made of it."""
    state, modules = random_state(T2V), ("blocks.0.attn1.to_q", "blocks.1.ffn.net.2", "blocks.1.attn2.to_v")
    make_diffusers(project / "base", state, T2V)
    rng, updates = torch.Generator().manual_seed(3), {}
    for module in modules:
        rows, columns = state[f"{module}.weight"].shape
        a, b = torch.randn(2, columns, generator=rng), torch.randn(rows, 2, generator=rng)
        updates[f"{module}.weight"] = Update(a, b, 1.5)
    merged = {name: merge(weight, updates[name]) if name in updates else weight for name, weight in state.items()}
    folder = project / "checkpoints" / TARGET / "model"
    make_diffusers(folder, merged, T2V)
    write_adapter(folder / "adapter", updates)
    return updates, merged


def test_base_and_exported_adapter_are_the_trained_network_bit_for_bit(project, adapted, same):
    export_checkpoint(TARGET, "peft", project / "out", root=project)
    request = ImportRequest(source=str(project / "base"), out=project / "merged", lora=str(project / "out"))
    assert import_checkpoint(request)["lora"]["scales"] == [1.5]
    same(load_file(project / "merged" / WEIGHTS), adapted[1])
    assert not (project / "out" / WEIGHTS).exists()


def test_peft_loads_an_exported_adapter(project, adapted):
    export_checkpoint(TARGET, "peft", project / "out", root=project)
    base = WanTransformer3DModel.from_pretrained(project / "base")
    merged = PeftModel.from_pretrained(base, str(project / "out")).merge_and_unload()
    found = merged.state_dict()
    for name, weight in adapted[1].items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6)


def test_longlives_adapter_file_comes_back(project, adapted):
    out = project / "lora.pt"
    assert harness(["export", str(project / "checkpoints" / TARGET), "--format", "longlive", "--out", str(out)]) == 0
    content = torch.load(out, weights_only=True)
    assert content.keys() == {"generator_lora"}
    modules = ("blocks.0.self_attn.q", "blocks.1.ffn.2", "blocks.1.cross_attn.v")
    assert content["generator_lora"].keys() == {
        f"base_model.model.{module}.lora_{side}.weight" for module in modules for side in "AB"
    }
    request = ImportRequest(source=str(project / "base"), out=project / "merged", lora=str(out))
    assert import_checkpoint(request)["lora"]["scales"] == [1.0]
    found = load_file(project / "merged" / WEIGHTS)
    for name, weight in adapted[1].items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6)
    assert "`generator_lora`" in (project / "lora.README.md").read_text()


def test_an_adapter_in_bf16_and_its_card(project, adapted):
    export_checkpoint(TARGET, "peft", project / "out", dtype="bf16", root=project)
    tensors = load_file(project / "out/adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    text = (project / "out/README.md").read_text()
    assert "Only the adapter is here" in text
    assert "Weights: bfloat16" in text
    assert f"- `adapter_model.safetensors`: SHA-256 `{sha256_file(project / 'out/adapter_model.safetensors')}`" in text


def test_a_network_without_adapter_has_none_to_export(project):
    for layout, out in (("peft", "out"), ("longlive", "out.pt")):
        with pytest.raises(HarnessError, match=r"seed0: no adapter at .*model/adapter: .*`lora.rank`.*self_forcing"):
            export_checkpoint(TARGET, layout, project / out, root=project)
        assert not (project / out).exists()
    update = Update(torch.ones(1, 4), torch.ones(4, 1), 1.0)
    write_adapter(project / "checkpoints" / TARGET / "model/adapter", {"blocks.0.ffn.net.2.weight": update})
    with pytest.raises(HarnessError, match=r"expected a name that ends in \.pt"):
        export_checkpoint(TARGET, "longlive", project / "out.safetensors", root=project)
