import json
from pathlib import Path

import pytest
import torch
import yaml

from harness.config.documents import read_yaml
from harness.data.encode import Encoders
from harness.data.loader import build_dataloader
from harness.data.mds import load_split
from harness.data.problems import Report
from harness.data.prompts import encode_prompts, main, read_prompts
from harness.data.shards import verify_data, verify_encoders
from harness.data.texts import load_negative, load_unconditional
from harness.errors import HarnessError
from harness.io import read_json
from harness.models.condition import position_channels
from harness.models.text import encode_prompt

ROOT = Path(__file__).resolve().parents[2]


CLIPS = {"latent_shape": [16, 3, 4, 6], "position_channels": True}


@pytest.fixture
def encoder(data):
    return Encoders.load(data.encoders, text_length=data.text_length).text


def test_text_list(tmp_path):
    (tmp_path / "p.txt").write_text("a red 3\n  a   blue &amp; green 4 \r\nlast\n\n\n", newline="")
    assert [(p.key, p.text) for p in read_prompts(tmp_path / "p.txt")] == [
        ("prompt-000000", "a red 3"),
        ("prompt-000001", "a blue & green 4"),
        ("prompt-000002", "last"),
    ]


@pytest.mark.parametrize("header", ["prompt,other", "other,prompt", "caption,other", '"prompt","other"'])
def test_table(tmp_path, header):
    row = "x,wanted" if header.startswith("other") else "wanted,x"
    (tmp_path / "p.csv").write_text(f"{header}\n{row}\n")
    assert [p.text for p in read_prompts(tmp_path / "p.csv")] == ["wanted"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.txt", b"one\n\nthree\n", "prompt 2 is empty"),
        ("p.txt", b"\n\n", "has no prompts"),
        ("p.txt", b"\xff\xfe", "not UTF-8"),
        ("p.csv", b"name\nx\n", "no column prompt"),
        ("p.json", b"[]", "is .txt or .csv, got .json"),
        ("gone.txt", None, "no such file"),
    ],
)
def test_unusable_lists(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HarnessError, match=expected):
        read_prompts(tmp_path / name)


def test_an_empty_prompt_is_counted_when_skips_are_allowed(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\nthree\n")
    report = Report()
    assert [p.key for p in read_prompts(tmp_path / "p.txt", report)] == ["prompt-000000", "prompt-000002"]
    assert report.counts() == {"empty_prompt": 1}


def test_encoded_prompts_give_batches_without_latents(data, encoder, tmp_path):
    (tmp_path / "p.txt").write_text("a red 3 moving left slowly\na zebra\na blue 4 moving up quickly\n")
    report = encode_prompts(read_prompts(tmp_path / "p.txt"), encoder, data.encoders, tmp_path / "out", clips=CLIPS)
    assert report.written == {"prompts": 3}
    assert report.unknown_words == 1
    split = load_split(tmp_path / "out" / "prompts")
    assert split["caption"][1] == "a zebra"
    expected = encode_prompt(encoder, "a zebra").vectors.half().numpy()
    assert (split["text"][1] == expected).all()
    loader = build_dataloader(
        tmp_path / "out" / "prompts", 3, seed=0, text_length=data.text_length, shuffle=False, drop_last=False
    )
    batch = next(iter(loader))
    assert "latent" not in batch
    assert torch.equal(batch["condition"].text[1, :3], torch.from_numpy(expected).float())
    assert verify_data(tmp_path / "out") == {"prompts": 3}
    assert verify_encoders(tmp_path / "out", data.encoders) == ("text_encoder", "tokenizer")
    assert torch.equal(batch["condition"].positions[0], position_channels(3, 4, 6))
    fingerprint = json.loads((tmp_path / "out" / "fingerprint.json").read_text())
    assert fingerprint["text_encoder"] == json.loads((data.encoded / "fingerprint.json").read_text())["text_encoder"]


def test_the_verb_takes_shapes_and_the_negative_prompt_of_the_preset(data, tmp_path, monkeypatch, capsys):
    params = read_yaml(ROOT / "params.yaml")
    preset = params["presets"][params["preset"]]
    preset["data"] |= {"height": 16, "width": 24}
    preset["encoders"] |= {"text_length": data.text_length, "text_dim": 32, "negative_prompt": "a blue 9"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "p.txt").write_text("a red 3\na blue 4\n")
    monkeypatch.chdir(tmp_path)
    assert main(["p.txt", "--encoders", str(data.encoders)]) == 0
    assert "train on them with `prompts=data/prompts`" in capsys.readouterr().err
    fingerprint = read_json(tmp_path / "data/prompts/fingerprint.json")
    channels, _, *size = read_json(data.encoded / "fingerprint.json")["latent_shape"]
    assert fingerprint["latent_shape"] == [channels, 1 + (preset["data"]["frames"] - 1) // 4, *size]
    assert fingerprint["position_channels"] is preset["encoders"]["position_channels"]
    assert fingerprint["negative_prompt"] == "a blue 9"
    negative, empty = (load("data/prompts", data.text_length) for load in (load_negative, load_unconditional))
    assert not torch.equal(negative, empty)


def test_a_prompt_that_is_too_long_is_named(data, encoder, tmp_path):
    (tmp_path / "p.txt").write_text("a red 3\n" + "red " * data.text_length + "\n")
    prompts = read_prompts(tmp_path / "p.txt")
    with pytest.raises(HarnessError, match=r"1 longer than the text encoder takes:\n  prompt-000001: more than 12"):
        encode_prompts(prompts, encoder, data.encoders, tmp_path / "out", clips=CLIPS)
    assert not (tmp_path / "out").exists()
    report = encode_prompts(prompts, encoder, data.encoders, tmp_path / "out", clips=CLIPS, report=Report())
    assert report.written == {"prompts": 1}
    assert report.counts() == {"too_long": 1}
