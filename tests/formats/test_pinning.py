import json
import shutil
import subprocess
import sys

import pytest
from checkpoint_makers import T2V, make_pipeline, random_state

from harness.config.documents import read_yaml
from harness.errors import HarnessError
from harness.formats.importing import main
from harness.formats.pinning import PIPELINE, pin, same_import
from harness.io import directory_digest

pytestmark = pytest.mark.usefixtures("small_presets")
ORIGIN = {
    "source": "owner/name",
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "files": {"a": "11", "b": "22"},
    "weights": "generator_ema",
    "dtype": "bf16",
    "lora": None,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], check=True, capture_output=True)
    return tmp_path


def test_the_command_repeats_every_choice_and_admits_only_what_was_read():
    lora = {"source": "lora.pt", "revision": None, "files": {"lora.pt": "33"}, "alpha": 8.0}
    words = same_import({**ORIGIN, "lora": lora}, "small", "pretrained/x").split()
    options = dict(zip(words[5::2], words[6::2]))
    assert words[:5] == ["python", "-m", "harness", "import", "owner/name"]
    assert options.pop("--sha256") not in ("11", "22")  # of both files
    assert options == {
        "--revision": ORIGIN["revision"],
        "--lora-sha256": "33",
        "--weights": "ema",
        "--dtype": "bf16",
        "--lora": "lora.pt",
        "--lora-alpha": "8.0",
        "--preset": "small",
        "--out": "pretrained/x",
    }


def test_a_pinned_import_is_repeated_by_dvc_and_refuses_other_weights(project, monkeypatch):
    source = make_pipeline(project / "source", random_state(T2V, dtype=None), T2V)
    out = project / "pretrained" / "wan2.1-small"
    assert main([str(source), "--out", str(out), "--pin"]) == 0
    stage = read_yaml(project / PIPELINE)["stages"]["wan2_1-small"]
    assert stage["outs"] == [{"pretrained/wan2.1-small": {"cache": False, "persist": True}}]
    lock = read_yaml(project / "pretrained/dvc.lock")["stages"]["wan2_1-small"]
    assert lock["outs"][0]["path"] == "pretrained/wan2.1-small"
    before = directory_digest(out)
    dvc = [sys.executable, "-m", "dvc", "repro", str(PIPELINE)]
    idle = subprocess.run(dvc, capture_output=True, text=True)
    assert idle.returncode == 0
    assert "Running stage" not in idle.stdout
    words = stage["cmd"].split()
    shutil.rmtree(out)
    assert main(words[4:]) == 0  # what DVC runs where the folder is missing
    assert directory_digest(out) == before
    status = subprocess.run([*dvc[:3], "status", "--json", str(PIPELINE)], capture_output=True, text=True)
    assert json.loads(status.stdout) == {}
    weights = min((source / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(HarnessError, match="its SHA-256 is"):
        main(words[4:])
    assert directory_digest(out) == before


def test_a_second_pin_replaces_its_own_stage_and_keeps_the_others(project):
    for name in ("one", "two"):
        out = project / "pretrained" / name
        out.mkdir(parents=True)
        (out / "file").write_text(name)
        pin(ORIGIN, None, out)
    first = read_yaml(project / "pretrained/dvc.lock")["stages"]["one"]
    (project / "pretrained/one/file").write_text("changed")
    pin({**ORIGIN, "dtype": None}, None, project / "pretrained/one")
    stages = read_yaml(project / PIPELINE)["stages"]
    assert "--dtype" not in stages["one"]["cmd"]
    assert "--dtype" in stages["two"]["cmd"]
    assert read_yaml(project / "pretrained/dvc.lock")["stages"]["one"] != first
    other = project / "elsewhere" / "one"
    other.mkdir(parents=True)
    with pytest.raises(HarnessError, match=r"stages\.one pins pretrained/one"):
        pin(ORIGIN, None, other)


def test_a_folder_outside_the_project_is_refused_before_anything_is_read(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x"
    with pytest.raises(HarnessError, match="has to lie in the project"):
        main(["no-such-source", "--out", str(outside), "--pin"])
    assert not outside.exists()


def test_outside_a_dvc_project_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HarnessError, match="is no DVC project"):
        main(["no-such-source", "--out", "pretrained/x", "--pin"])
