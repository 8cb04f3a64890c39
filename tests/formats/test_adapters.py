import json

import pytest
import torch
from checkpoint_makers import T2V, make_self_forcing, make_single, random_state
from safetensors.torch import load_file, save_file

from harness.cli import main as harness
from harness.errors import HarnessError
from harness.formats.adapters import merged, read_adapter
from harness.formats.importing import ImportRequest, import_checkpoint
from harness.formats.sources import total_sum
from harness.formats.tensor_stream import from_tensors
from harness.io import sha256_file
from harness.models.checkpoint import WEIGHTS
from harness.models.lora import Update
from harness.models.original_names import to_diffusers

RANK = 3
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODULES = {"blocks.0.self_attn.q": (24, 24), "blocks.1.ffn.0": (32, 24), "blocks.1.cross_attn.v": (24, 24)}


def factors():
    """module → (A, B), of Wan's original module names."""
    rng = torch.Generator().manual_seed(3)
    return {
        module: (torch.randn(RANK, n_in, generator=rng), torch.randn(n_out, RANK, generator=rng))
        for module, (n_out, n_in) in MODULES.items()
    }


def peft_names(prefix="base_model.model."):
    state = {}
    for module, (a, b) in factors().items():
        state |= {f"{prefix}{module}.lora_A.weight": a, f"{prefix}{module}.lora_B.weight": b}
    return state


def expected(state, scale):
    """The merged base, by arithmetic alone."""
    result = dict(state)
    for module, (a, b) in factors().items():
        name = next(iter(to_diffusers({f"{module}.weight": None})))
        update = torch.einsum("or,ri->oi", b.double(), a.double()) * scale
        result[name] = (state[name].double() + update).to(state[name].dtype)
    return result


def peft_folder(path, **config):
    path.mkdir()
    save_file(peft_names(), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 6, **config}))
    return path


def longlive(path):
    other = {name: tensor + 1 for name, tensor in peft_names().items()}
    torch.save({"generator_lora": peft_names(), "critic_lora": other, "step": 5}, path)
    return path


def kohya(path):
    state = {}
    for module, (a, b) in factors().items():
        name = f"diffusion_model.{module}"
        state |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(1.5)}
    save_file(state, path)
    return path


def flat(path):
    torch.save(peft_names("model._fsdp_wrapped_module."), path)
    return path


@pytest.mark.parametrize(
    ("make", "name", "options", "scale"),
    [
        (peft_folder, "peft", {}, 2.0),
        (longlive, "lora.pt", {}, 1.0),
        (longlive, "lora.pt", {"alpha": 1.5}, 0.5),
        (kohya, "lora.safetensors", {}, 0.5),
        (flat, "flat.pt", {}, 1.0),
    ],
)
def test_an_adapter_is_merged_into_its_base(tmp_path, small_presets, make, name, options, scale):
    state = random_state(T2V)
    base = make_self_forcing(tmp_path / "base.pt", state, T2V)
    adapter = make(tmp_path / name)
    request = ImportRequest(source=str(base), out=tmp_path / "out", lora=str(adapter), **options)
    origin = import_checkpoint(request)
    found, wanted = load_file(tmp_path / "out" / WEIGHTS), expected(state, scale)
    assert found.keys() == wanted.keys()
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-6, atol=1e-6)
    changed = {key for key in wanted if not torch.equal(found[key], state[key])}
    assert changed == set(to_diffusers({f"{module}.weight": 0 for module in MODULES}))
    assert origin["lora"]["scales"] == [scale]
    assert origin["lora"]["alpha"] == options.get("alpha")
    file = adapter / "adapter_model.safetensors" if adapter.is_dir() else adapter
    assert origin["lora"]["files"][file.name] == sha256_file(file)


def test_an_adapter_of_the_hub_is_pinned_apart_from_its_base(tmp_path, small_presets, monkeypatch, capsys):
    base = make_self_forcing(tmp_path / "base.pt", random_state(T2V), T2V)
    snapshot = tmp_path / "hub" / COMMIT
    snapshot.parent.mkdir()
    peft_folder(snapshot)
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"]))
        return str(snapshot)

    monkeypatch.setattr("harness.formats.sources._snapshot_download", download)
    command = ["import", str(base), "--out", str(tmp_path / "out"), "--lora", "owner/adapter"]
    assert harness([*command, "--lora-revision", "main"]) == 0
    assert asked == [("owner/adapter", "main")]
    files = {name: sha256_file(snapshot / name) for name in ("adapter_config.json", "adapter_model.safetensors")}
    line = f"--sha256 {sha256_file(base)} --lora-revision {COMMIT} --lora-sha256 {total_sum(files)}"
    assert f"pin it: {line}\n" in capsys.readouterr().err
    assert harness([*command, *line.split()]) == 0
    (snapshot / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 7}))
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    capsys.readouterr()
    assert harness([*command, *line.split()]) == 2
    text = capsys.readouterr().err
    assert "owner/adapter: its SHA-256 is" in text
    assert f"--lora-sha256 is {total_sum(files)}" in text
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before


def test_options_of_an_adapter_need_one(tmp_path, small_presets):
    base = make_self_forcing(tmp_path / "base.pt", random_state(T2V), T2V)
    for options, words in (
        ({"alpha": 0.0}, r"--lora-alpha 0\.0"),
        ({"lora_revision": "main"}, "--lora-revision main"),
        ({"lora_sha256": "00"}, "--lora-sha256 00"),
    ):
        with pytest.raises(HarnessError, match=f"{words}: is of an adapter, and there is none"):
            import_checkpoint(ImportRequest(source=str(base), out=tmp_path / "out", **options))
    request = ImportRequest(
        source=str(base), out=tmp_path / "out", lora=str(longlive(tmp_path / "a.pt")), lora_revision="main"
    )
    with pytest.raises(HarnessError, match=r"a\.pt: --lora-revision main: a file or folder here has no revision"):
        import_checkpoint(request)


def test_a_quantised_adapter_is_refused_and_a_whole_alpha_is_not(tmp_path):
    state = peft_names()
    alphas = {f"{module}.alpha": torch.tensor(6) for module in MODULES}
    torch.save(state | alphas, tmp_path / "a.pt")
    assert {update.scale for update in read_adapter(tmp_path / "a.pt").values()} == {2.0}
    torch.save({name: tensor.char() for name, tensor in state.items()}, tmp_path / "a.pt")
    with pytest.raises(HarnessError, match=r"a\.pt: .*lora_A\.weight is of type int8.*Quantised"):
        read_adapter(tmp_path / "a.pt")


def test_an_adapter_of_another_network_is_refused():
    base = from_tensors({"x.weight": torch.zeros(4, 4)})
    update = Update(torch.zeros(2, 5), torch.zeros(4, 2), 1.0)
    with pytest.raises(HarnessError, match=r"adapts x.weight \[4, 5\], the base has \[4, 4\]; .*another model"):
        merged(base, {"x.weight": update}, "lora")
    with pytest.raises(HarnessError, match=r"adapts y.weight \[4, 5\], the base has no such weight"):
        merged(base, {"y.weight": update}, "lora")


def test_what_is_no_plain_adapter_is_refused(tmp_path, small_presets):
    with pytest.raises(HarnessError, match="use_dora: only plain LoRA"):
        read_adapter(peft_folder(tmp_path / "dora", use_dora=True))
    torch.save({"critic": {}, "step": 1}, tmp_path / "a.pt")
    with pytest.raises(HarnessError, match=r"no adapter in it .*holds critic, step"):
        read_adapter(tmp_path / "a.pt")
    with pytest.raises(HarnessError, match="is no part of a LoRA"):
        read_adapter(make_single(tmp_path / "full.safetensors", random_state(T2V), T2V))
    halves = {name: t for name, t in peft_names().items() if "lora_B" not in name}
    save_file(halves, tmp_path / "half.safetensors")
    with pytest.raises(HarnessError, match="incomplete or do not multiply"):
        read_adapter(tmp_path / "half.safetensors")
    odd = {name: t[:2] if "lora_A" in name else t for name, t in peft_names().items()}
    save_file({name: t.contiguous() for name, t in odd.items()}, tmp_path / "odd.safetensors")
    with pytest.raises(HarnessError, match="do not multiply"):
        read_adapter(tmp_path / "odd.safetensors")
