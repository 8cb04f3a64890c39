import json

import pytest
from checkpoint_makers import T2V, make_diffusers, make_original, make_pipeline, make_single, random_state

from harness.errors import HarnessError
from harness.formats.layouts import detect
from harness.models.checkpoint import WEIGHTS

STATE = random_state(T2V)


def test_what_lies_where(tmp_path):
    folder = make_diffusers(tmp_path / "run/model", STATE, T2V)
    for path in (folder, folder.parent, folder / WEIGHTS):
        found = detect(path)
        assert (found.layout, found.config, found.weights) == (
            "diffusers",
            folder / "config.json",
            (folder / WEIGHTS,),
        )
        assert found.pipeline is None
    pipeline = make_pipeline(tmp_path / "pipeline", STATE, T2V)
    assert detect(pipeline).pipeline == pipeline
    assert len(detect(pipeline).weights) > 1
    assert detect(pipeline / "transformer").pipeline is None
    original = detect(make_original(tmp_path / "original", STATE, T2V))
    assert (original.layout, len(original.weights)) == ("original", 2)
    assert detect(make_single(tmp_path / "wan.safetensors", STATE, T2V)).layout == "single_file"
    (tmp_path / "a.pt").touch()
    assert detect(tmp_path / "a.pt").layout == "self_forcing"


def test_what_is_nothing_known(tmp_path):
    with pytest.raises(HarnessError, match="nowhere: no such file or folder"):
        detect(tmp_path / "nowhere")
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(HarnessError, match=r"no config.json, here or in .*give one of its files: checkpoint.pt"):
        detect(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(HarnessError, match=r"expected a folder, a \.safetensors file"):
        detect(tmp_path / "a.txt")
    for content, words in (({"_class_name": "AutoencoderKLWan"}, "is of AutoencoderKLWan"), ([], "nothing known")):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(HarnessError, match=words):
            detect(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    folder = make_original(tmp_path / "original", STATE, T2V)
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(HarnessError, match=r"no weights at .*00002-of-00002"):
        detect(folder)
