import json
import os

import pytest
import torch
from checkpoint_makers import (
    I2V,
    T2V,
    make_diffusers,
    make_original,
    make_pipeline,
    make_self_forcing,
    make_single,
    random_state,
    wrapped,
)
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from harness.cli import main as harness
from harness.errors import HarnessError
from harness.formats.importing import ImportRequest, import_checkpoint, main
from harness.io import sha256_file
from harness.models.checkpoint import WEIGHTS, load_model
from harness.models.original_names import to_original

pytestmark = pytest.mark.usefixtures("small_presets")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAKERS = {
    "diffusers": make_diffusers,
    "pipeline": make_pipeline,
    "original": make_original,
    "single.safetensors": make_single,
    "self_forcing.pt": make_self_forcing,
}


def run(source, out, **options):
    return import_checkpoint(ImportRequest(source=str(source), out=out, **options))


def imported(out):
    folder = out / "transformer" if (out / "transformer").is_dir() else out
    return load_file(folder / WEIGHTS)


@pytest.mark.parametrize("geometry", [T2V, I2V], ids=["t2v", "i2v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None], ids=["f32", "bf16", "mixed"])
@pytest.mark.parametrize("layout", MAKERS)
def test_every_layout_is_imported_bit_for_bit(tmp_path, same, layout, dtype, geometry):
    state = random_state(geometry, dtype=dtype)
    source = MAKERS[layout](tmp_path / layout, state, geometry)
    origin = run(source, tmp_path / "out")
    same(imported(tmp_path / "out"), state)
    assert origin["presets"] == ["small-i2v" if geometry is I2V else "small"]
    assert origin["weights"] == ("generator_ema" if layout == "self_forcing.pt" else None)
    model = tmp_path / "out" / ("transformer" if layout == "pipeline" else "")
    same(load_model(model).state_dict(), state)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([layout, "out"])


def test_stock_diffusers_loads_an_import(tmp_path, same):
    state = random_state(I2V)
    run(make_self_forcing(tmp_path / "a.pt", state, I2V), tmp_path / "out")
    model, problems = WanTransformer3DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    same(model.state_dict(), state)
    assert not any(problems.values())
    assert (model.config.image_dim, model.config.added_kv_proj_dim) == (6, 24)
    assert tuple(model.config.patch_size) == (1, 2, 2)


def test_a_pipeline_comes_with_its_other_parts(tmp_path):
    source = make_pipeline(tmp_path / "wan", random_state(T2V), T2V)
    (source / ".cache").mkdir()
    (source / ".cache/lock").touch()
    origin = run(source, tmp_path / "out")
    assert json.loads((tmp_path / "out/vae/config.json").read_text()) == {"part": "vae/config.json"}
    assert (tmp_path / "out/model_index.json").is_file()
    assert not (tmp_path / "out/.cache").exists()
    assert origin["files"]["vae/config.json"] == sha256_file(source / "vae/config.json")
    assert "transformer/config.json" in origin["files"]
    assert not any("cache" in name for name in origin["files"])
    again = run(tmp_path / "out", tmp_path / "again")  # an import is a source too
    assert again["written"] == origin["written"]
    assert "origin.json" not in again["files"]


def test_the_origin_says_where_from_and_what_was_written(tmp_path):
    source = make_self_forcing(tmp_path / "a.pt", random_state(T2V), T2V)
    origin = run(source, tmp_path / "out", dtype="bf16")
    assert json.loads((tmp_path / "out/origin.json").read_text()) == origin
    assert origin["source"] == str(source)
    assert origin["files"] == {"a.pt": sha256_file(source)}
    assert origin["sha256"] == sha256_file(source)
    assert origin["revision"] is None
    assert (origin["layout"], origin["dtype"], origin["lora"]) == ("self_forcing", "bf16", None)
    out = tmp_path / "out"
    assert origin["written"] == {name: sha256_file(out / name) for name in ("config.json", WEIGHTS)}
    assert {tensor.dtype for tensor in imported(out).values()} == {torch.bfloat16}


def test_raw_weights_and_other_keys(tmp_path, same):
    state = random_state(T2V)
    source = make_self_forcing(tmp_path / "a.pt", state, T2V)
    origin = run(source, tmp_path / "raw", weights="raw")
    assert origin["weights"] == "generator"
    same(imported(tmp_path / "raw"), {name: tensor + 1 for name, tensor in state.items()})
    contents = {
        "model": {"model": wrapped(state, inner="_orig_mod.")},
        "state_dict": to_original(state),  # as Self-Forcing-Plus converts them
        "generator": {"generator": wrapped(state, inner=""), "critic": {}, "step": 3},
    }
    for key, content in contents.items():
        torch.save(content, tmp_path / f"{key}.pt")
        assert run(tmp_path / f"{key}.pt", tmp_path / key)["weights"] == key
        same(imported(tmp_path / key), state)


def test_parameters_that_no_network_reads_are_left_out_and_named(tmp_path, same):
    state = random_state(I2V)
    source = make_diffusers(tmp_path / "a", state, I2V)
    extra = {f"blocks.{n}.attn2.norm_added_q.weight": torch.ones(24) for n in range(2)}
    save_file(state | extra, source / WEIGHTS, metadata={"format": "pt"})
    assert run(source, tmp_path / "out")["ignored"] == sorted(extra)
    same(imported(tmp_path / "out"), state)


def test_a_hub_repository_is_pinned(tmp_path, capsys):
    snapshot = tmp_path / "hub/snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    make_pipeline(snapshot, random_state(T2V), T2V)
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"]))
        return str(snapshot)

    request = ImportRequest(source="Wan-AI/Small", out=tmp_path / "out", revision="main")
    origin = import_checkpoint(request, download)
    assert asked == [("Wan-AI/Small", "main")]
    assert origin["revision"] == COMMIT
    assert len(origin["files"]) > 5


def test_a_wrong_sum_stops_before_anything_is_written(tmp_path):
    source = make_single(tmp_path / "a.safetensors", random_state(T2V), T2V)
    right = sha256_file(source)
    run(source, tmp_path / "out", sha256=right.upper())
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(HarnessError, match=rf"its SHA-256 is {right}, --sha256 is 00.*damaged or another version"):
        run(source, tmp_path / "new", sha256="00")
    assert sorted(os.listdir(tmp_path)) == before
    folder = make_original(tmp_path / "original", random_state(T2V), T2V)
    origin = run(folder, tmp_path / "second")
    run(folder, tmp_path / "second", sha256=origin["sha256"])
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(HarnessError, match="another version"):
        run(folder, tmp_path / "second", sha256=origin["sha256"])


def damaged(make, change):
    def source(folder):
        path = make(folder / ("a.pt" if make is make_self_forcing else "a.safetensors"), random_state(T2V), T2V)
        change(path)
        return path

    return source


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def edit(change):
    def apply(path):
        state = load_file(path)
        change(state)
        save_file(state, path)

    return apply


def edit_pt(change):
    def apply(path):
        content = torch.load(path, weights_only=True)
        change(content["generator_ema"])
        torch.save(content, path)

    return apply


HEAD = "model.diffusion_model.head.head.bias"
PT_HEAD = "model._fsdp_wrapped_module.head.head.bias"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (damaged(make_single, truncate), r"cannot be read as safetensors .*truncated"),
        (damaged(make_self_forcing, truncate), r"cannot be read as a PyTorch file .*truncated"),
        (damaged(make_single, edit(lambda s: s.pop(HEAD))), r"1 missing: proj_out.bias.*looks like preset small"),
        (damaged(make_single, edit(lambda s: s.update(more=torch.ones(1)))), r"unexpected parameters: .*more"),
        (
            damaged(make_single, edit(lambda s: s.update({HEAD: torch.ones(3)}))),
            r"1 of another shape: proj_out.bias \[3\] instead of \[16\]",
        ),
        (
            damaged(make_single, edit(lambda s: [s.pop(name) for name in list(s) if "blocks.1." in name])),
            r"no config.json, and it looks like no preset; nearest is small \(num_layers is 1, not 2\)",
        ),
        (damaged(make_single, edit(lambda s: s.update({HEAD: torch.ones(16).char()}))), r"is of type I8.*[Qq]uantised"),
        (
            damaged(make_self_forcing, edit_pt(lambda s: s.update({PT_HEAD: torch.ones(16).char()}))),
            r"head.bias is of type int8.*[Qq]uantised",
        ),
        (
            damaged(make_self_forcing, edit_pt(lambda s: s.update({PT_HEAD: torch.ones(16).to(torch.float8_e4m3fn)}))),
            r"head.bias is of type float8_e4m3fn.*[Qq]uantised",
        ),
        (damaged(make_single, edit(lambda s: [s.clear(), s.update(x=torch.ones(1))])), r"not the parameters of a Wan"),
    ],
    ids=[
        "short file",
        "short pt",
        "missing",
        "unexpected",
        "shape",
        "layers",
        "quantised",
        "quantised pt",
        "fp8 pt",
        "foreign",
    ],
)
@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_damaged_and_foreign_files_are_refused_and_nothing_is_written(tmp_path, source, words, dtype):
    path = source(tmp_path)
    with pytest.raises(HarnessError, match=words):
        run(path, tmp_path / "out", dtype=dtype)
    assert os.listdir(tmp_path) == [path.name]


def test_another_preset_is_named(tmp_path):
    source = make_single(tmp_path / "a.safetensors", random_state(T2V), T2V)
    words = r"not of preset small-i2v: .*in_channels is 4, not 7; it looks like preset small$"
    with pytest.raises(HarnessError, match=words):
        run(source, tmp_path / "out", preset="small-i2v")
    folder = make_diffusers(tmp_path / "folder", random_state(T2V), T2V)
    with pytest.raises(HarnessError, match=words):
        run(folder, tmp_path / "out", preset="small-i2v")
    run(folder, tmp_path / "out", preset="small")


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ({"critic": 1}, {}, r"no generator_ema or generator or model in it; it holds critic.*another stage"),
        (
            {"generator_lora": 1, "critic_lora": 1},
            {},
            r"It is an adapter: import its base, and give this file as --lora",
        ),
        ({"generator": 1}, {"weights": "ema"}, r"no generator_ema in it; it holds generator. There are other weights"),
        ({"generator_ema": 1}, {"weights": "raw"}, r"no generator or model in it"),
        ({"optimizer": 1}, {}, r"another stage"),
    ],
)
def test_a_checkpoint_of_another_stage_says_what_it_holds(tmp_path, content, options, words):
    torch.save({key: {"a.weight": torch.ones(1)} for key in content}, tmp_path / "a.pt")
    with pytest.raises(HarnessError, match=words):
        run(tmp_path / "a.pt", tmp_path / "out", **options)


def test_a_half_written_import_leaves_the_earlier_one(tmp_path, same, monkeypatch):
    first = random_state(T2V, seed=1)
    run(make_single(tmp_path / "a.safetensors", first, T2V), tmp_path / "out")
    second = make_single(tmp_path / "b.safetensors", random_state(T2V, seed=2), T2V)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HarnessError, match=r"out: cannot be written \(No space left"):
        run(second, tmp_path / "out")
    same(imported(tmp_path / "out"), first)
    assert len(os.listdir(tmp_path)) == 3


def test_a_folder_that_is_not_an_import_is_not_replaced(tmp_path):
    source = make_single(tmp_path / "a.safetensors", random_state(T2V), T2V)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(HarnessError, match=r"not written by import or export"):
        run(source, tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    run(source, tmp_path / "empty")
    run(source, tmp_path / "empty")


def test_the_verb(tmp_path, capsys):
    source = make_self_forcing(tmp_path / "a.pt", random_state(T2V), T2V)
    out = tmp_path / "out"
    assert harness(["import", str(source), "--out", str(out), "--preset", "small", "--weights", "ema"]) == 0
    text = capsys.readouterr().err
    assert f"imported from {source} (self_forcing, generator_ema; small)" in text
    assert f"pin it: --sha256 {sha256_file(source)}" in text
    assert harness(["import", str(tmp_path / "nothing here"), "--out", str(out)]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"--{option}" in text for option in ("preset", "revision", "sha256", "weights", "lora", "dtype"))


def test_weights_are_chosen_only_where_there_is_a_choice(tmp_path):
    source = make_single(tmp_path / "a.safetensors", random_state(T2V), T2V)
    with pytest.raises(HarnessError, match=r"--weights raw: only `\.pt` files"):
        run(source, tmp_path / "out", weights="raw")
