"""Peak memory of conversions and of loading, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.models.causal_wan import CausalWan

ROOT = Path(__file__).resolve().parents[2]
GEOMETRY = {"num_attention_heads": 4, "attention_head_dim": 128, "num_layers": 24, "ffn_dim": 2048, "text_dim": 64}
SHARD = 100 * 10**6
# Prints, for each call, how far the resident memory rose above what it was before, in bytes.
MEASURE = """
import gc, json, sys
from pathlib import Path
import torch
from harness.formats.exporting import export_checkpoint
from harness.formats.importing import ImportRequest, import_checkpoint
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_model

def status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
with torch.device("meta"):
    CausalWan(num_attention_heads=4, attention_head_dim=128, num_layers=24, ffn_dim=2048)  # warm up
source, out, calls, found = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), {}
for name, call in calls.items():
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    scope = dict(globals())
    exec(call, scope)
    found[name] = status("VmHWM") - before
    del scope
print(json.dumps(found))
"""
CALLS = {
    "import": "import_checkpoint(ImportRequest(source=str(source), out=out / 'a'))",
    "import_bf16": "import_checkpoint(ImportRequest(source=str(source), out=out / 'b', dtype='bf16'))",
    "export_original": "export_checkpoint(str(source), 'original', out / 'c')",
    "export_single_file": "export_checkpoint(str(source), 'single_file', out / 'd.safetensors')",
    "export_self_forcing": "export_checkpoint(str(source), 'self_forcing', out / 'e.pt')",
    "load": "model = load_model(source)\nsum(float(p.detach().sum()) for p in model.parameters())",
    "load_bf16": "model = load_model(source, dtype=torch.bfloat16)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint of about 400 MB in shards of at most 100 MB."""
    path = tmp_path_factory.mktemp("memory") / "model"
    with torch.device("meta"):
        model = CausalWan(**GEOMETRY)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    model.save_pretrained(path, max_shard_size=SHARD)
    return path


@pytest.fixture(scope="module")
def peaks(folder) -> dict[str, int]:
    """Call → bytes, all measured in one process."""
    arguments = [str(folder), str(folder.parent / "out"), json.dumps(CALLS)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def sizes(folder: Path) -> tuple[int, int]:
    shards = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return max(shards), sum(shards)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["import", "import_bf16", "export_original", "export_single_file"])
def test_a_conversion_holds_one_shard_never_the_model(folder, peaks, call):
    shard, model = sizes(folder)
    print(f"{call}: {peaks[call] / 1e6:.0f} MB; largest shard {shard / 1e6:.0f} MB, model {model / 1e6:.0f} MB")
    assert model > 4 * shard
    assert 0.5 * shard < peaks[call] <= 1.2 * shard


@pytest.mark.slow
@pytest.mark.parametrize("call", ["export_self_forcing", "load", "load_bf16"])
def test_what_needs_the_model_holds_it_once(folder, peaks, call):
    shard, model = sizes(folder)
    held = model // 2 if call == "load_bf16" else model
    print(f"{call}: {peaks[call] / 1e6:.0f} MB; largest shard {shard / 1e6:.0f} MB, model {held / 1e6:.0f} MB")
    assert 0.5 * held < peaks[call] <= 1.2 * (shard + held)
