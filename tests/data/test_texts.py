import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from harness.data.encode import Encoders, encode
from harness.data.loader import build_dataloader
from harness.data.texts import load_negative, load_unconditional, padded, write_empty_texts
from harness.errors import HarnessError
from harness.io import read_json
from harness.models.text import encode_prompt

NEGATIVE = "a blue 9"


@pytest.fixture(scope="module")
def encode_text(data):
    return partial(encode_prompt, Encoders.load(data.encoders, text_length=data.text_length).text)


@pytest.fixture(scope="module")
def guided(data, tmp_path_factory):
    """The same clips encoded with a negative prompt."""
    root = tmp_path_factory.mktemp("guided")
    out = root / "encoded"
    encode(data.clips, data.encoders, out, text_length=data.text_length, negative_prompt=NEGATIVE, work=root / "work")
    return out


def test_padding():
    assert padded(torch.ones(2, 3, dtype=torch.float16), 4, "t").tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 2
    with pytest.raises(HarnessError, match=r"clip 7: the text takes 2 tokens, but encoders\.text_length is 1"):
        padded(torch.ones(2, 3), 1, "clip 7")


def test_without_a_negative_prompt_guidance_leads_away_from_the_empty_one(data):
    empty = load_unconditional(data.encoded, data.text_length)
    assert empty.shape == (1, data.text_length, 32)
    assert empty.dtype == torch.float32
    assert torch.equal(load_negative(data.encoded, data.text_length), empty)
    assert "negative_prompt" not in read_json(data.encoded / "fingerprint.json")


def test_a_negative_prompt_is_stored_beside_the_empty_one(data, guided, encode_text):
    stored = load_negative(guided, data.text_length)
    vectors = encode_text(NEGATIVE).vectors
    assert torch.equal(stored[0, : len(vectors)], vectors.half().float())
    assert torch.equal(load_unconditional(guided, data.text_length), load_unconditional(data.encoded, data.text_length))
    assert read_json(guided / "fingerprint.json")["negative_prompt"] == NEGATIVE


def test_guidance_gets_the_negative_prompt_and_caption_dropout_the_empty_one(data, guided):
    def unconditional(**arguments):
        loader = build_dataloader(guided / "train", 4, seed=0, text_length=data.text_length, **arguments)
        return next(iter(loader))["condition"].unconditional_text

    assert torch.equal(unconditional(), load_unconditional(guided, data.text_length))
    assert torch.equal(unconditional(guidance=True), load_negative(guided, data.text_length))
    assert not torch.equal(unconditional(), unconditional(guidance=True))


def test_a_negative_prompt_that_is_too_long(encode_text, tmp_path):
    with pytest.raises(HarnessError, match=r"encoders\.negative_prompt: 'red red .* has more tokens than"):
        write_empty_texts(tmp_path, encode_text, "red " * 30)


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.full((2, 32), float("nan")), "has values that are not finite"),
        (
            torch.ones(2, 32, dtype=torch.int64),
            r"expected one tensor `text` .* found text \[2, 32\] torch.int64",
        ),
        (torch.ones(32), r"expected one tensor `text` .* found text \[32\] torch.float32"),
    ],
)
def test_a_text_that_is_no_embedding_is_refused(tmp_path, tensor, what):
    save_file({"text": tensor}, tmp_path / "unconditional.safetensors")
    with pytest.raises(HarnessError, match=r"unconditional\.safetensors: " + what):
        load_unconditional(tmp_path, 8)


@pytest.mark.parametrize("name", ["unconditional.safetensors", "negative.safetensors"])
def test_damage_is_named(data, guided, tmp_path, name):
    folder = shutil.copytree(guided, tmp_path / "encoded")
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    load = load_negative if name.startswith("negative") else load_unconditional
    with pytest.raises(HarnessError, match=name.replace(".", r"\.") + ": damaged"):
        load(folder, data.text_length)
