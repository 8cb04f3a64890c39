import json

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from harness.errors import HarnessError
from harness.models.text import (
    TextEncoder,
    clean_prompt,
    encode_prompt,
    load_text_encoder,
    random_umt5,
    word_tokenizer,
    words_of,
)

CAPTIONS = ["a red 3 moving left slowly", "a blue 4 moving right quickly"]


@pytest.fixture(scope="module")
def encoder():
    tokenizer = word_tokenizer(words_of(CAPTIONS), 512)
    return TextEncoder(tokenizer, random_umt5(len(tokenizer), dim=32, layers=2, seed=0), 512)


@pytest.fixture
def saved(encoder, tmp_path):
    encoder.model.save_pretrained(str(tmp_path / "text_encoder"), safe_serialization=True)
    encoder.tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    return tmp_path / "text_encoder"


def test_cleaning_is_that_of_wan():
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    for text in [
        "  a  cat\n\tsleeps ",
        "salt &amp;amp; pepper",
        "&amp;amp;amp;amp;lt;",
        "&amp;amp;amp;lt; <",
        "it\u2019s",
        "schÃ¶n",
        "",
        "ﬁsh",
    ]:
        assert clean_prompt(text) == prompt_clean(text)


def test_vocabulary_is_sorted_and_cleaned():
    assert words_of(["B  a,", "a &amp; b"]) == ["&", ",", "a", "b"]


def test_the_tokenizer_has_one_token_per_word_and_an_end(encoder):
    ids = encoder.tokenizer("A red 3, moving", add_special_tokens=True)["input_ids"]
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == ["a", "red", "3", "<unk>", "moving", "</s>"]
    assert [encoder.tokenizer.convert_tokens_to_ids(t) for t in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]


def test_encoding_is_that_of_the_wan_pipeline(encoder):
    """Wan pads to the full length with a mask and cuts afterwards; we do not pad at all."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline

    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    pipeline = WanPipeline(encoder.tokenizer, encoder.model, vae, FlowMatchEulerDiscreteScheduler())
    prompts = [*CAPTIONS, "a  red &amp; 3 ", ""]
    theirs = pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=20, device="cpu")
    for prompt, expected in zip(prompts, theirs, strict=True):
        ours = encode_prompt(encoder, prompt).vectors
        assert torch.allclose(ours, expected[: len(ours)], atol=1e-5)
        assert not expected[len(ours) :].any()


def test_different_captions_get_different_vectors(encoder):
    a, b = (encode_prompt(encoder, caption).vectors for caption in CAPTIONS)
    assert a.shape == b.shape == (7, 32)
    assert (a - b).abs().mean() > 0.1
    assert encode_prompt(encoder, "").vectors.shape == (1, 32)


def test_unknown_words_and_truncation_are_told(encoder):
    short = TextEncoder(encoder.tokenizer, encoder.model, 4)
    assert encode_prompt(encoder, "a zebra and a red 3").unknown_words == 2
    assert not encode_prompt(short, "a red 3").truncated
    cut = encode_prompt(short, "a red 3 moving")
    assert cut.truncated
    assert torch.allclose(cut.vectors, encode_prompt(short, "a red 3").vectors)


def test_weights_depend_on_the_seed_only(encoder):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    same = random_umt5(encoder.model.config.vocab_size, dim=32, layers=2, seed=0)
    other = random_umt5(encoder.model.config.vocab_size, dim=32, layers=2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    assert torch.equal(same.state_dict()[name], encoder.model.state_dict()[name])
    assert not torch.equal(other.state_dict()[name], encoder.model.state_dict()[name])
    assert not any(p.requires_grad for p in same.parameters())


def test_saved_and_loaded_it_is_the_same(encoder, saved):
    loaded = load_text_encoder(saved)
    assert torch.equal(encode_prompt(loaded, CAPTIONS[0]).vectors, encode_prompt(encoder, CAPTIONS[0]).vectors)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training


def test_half_precision_weights_stay_so(encoder, saved):
    encoder.model.to(torch.bfloat16).save_pretrained(str(saved), safe_serialization=True)
    encoder.model.float()
    loaded = load_text_encoder(saved)
    assert loaded.model.dtype == torch.bfloat16
    assert encode_prompt(loaded, CAPTIONS[0]).vectors.dtype == torch.float32


@pytest.mark.parametrize("damage", ["gone", "cut", "missing", "other", "tokenizer", "no tokenizer"])
def test_damaged_folders_are_named(saved, damage):
    weights = saved / "model.safetensors"
    if damage == "gone":
        (saved / "config.json").unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps({**config, "num_layers": 3}))
    elif damage == "other":
        T5EncoderModel(T5Config(vocab_size=10, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
            str(saved)
        )
    elif damage == "tokenizer":
        (saved.parent / "tokenizer" / "tokenizer.json").write_text("{")
    else:
        (saved.parent / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(HarnessError, match=str(saved)):
        load_text_encoder(saved)


def test_shards_in_bf16_are_read_as_they_were_saved(encoder, tmp_path):
    """The published text encoder: several safetensors files with an index, in bf16; the tokenizer beside it."""
    half = random_umt5(encoder.model.config.vocab_size, dim=32, layers=2, seed=0).to(torch.bfloat16)
    half.save_pretrained(str(tmp_path / "text_encoder"), safe_serialization=True, max_shard_size="8KB")
    encoder.tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    assert len(list((tmp_path / "text_encoder").glob("model-*-of-*.safetensors"))) > 1
    loaded = load_text_encoder(tmp_path / "text_encoder")
    assert loaded.model.dtype == torch.bfloat16
    expected = TextEncoder(encoder.tokenizer, half, 512)
    for caption in CAPTIONS:
        assert torch.equal(encode_prompt(loaded, caption).vectors, encode_prompt(expected, caption).vectors)
