"""Words → vectors: a UMT5 encoder and its tokenizer, read from transformers folders.

The real Wan text encoder (UMT5-XXL, 512 positions) and the small stand-in are the same classes and are loaded by the
same code. The stand-in is a UMT5 encoder of a few layers with *random, frozen* weights drawn from a seed, and a
word-level tokenizer; nothing in it is trained. Random features of a short, regular caption are enough for a
denoiser's cross-attention to tell captions apart.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import ftfy
import torch
from attrs import frozen
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from harness.errors import HarnessError

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5
HEAD_DIM = 16


@frozen
class TextEncoder:
    """A frozen encoder with its tokenizer. `max_length` is in tokens, the end token included."""

    tokenizer: PreTrainedTokenizerBase
    model: UMT5EncoderModel
    max_length: int = 512

    @property
    def dim(self) -> int:
        """Width of one token's vector."""
        return self.model.config.d_model


@frozen
class EncodedText:
    """One prompt: `vectors` float32 `[L, D]` without padding, and what the tokenizer lost."""

    vectors: Tensor
    unknown_words: int
    truncated: bool


def clean_prompt(text: str) -> str:
    """Repair broken Unicode, unescape HTML (twice, as Wan does) and make every run of white space one space."""
    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", repaired).strip()


def words_of(captions: Iterable[str]) -> list[str]:
    """The sorted vocabulary of `captions`, split as `word_tokenizer` splits."""
    splitter = pre_tokenizers.Whitespace()
    return sorted(
        {word for caption in captions for word, _ in splitter.pre_tokenize_str(clean_prompt(caption).lower())}
    )


def word_tokenizer(words: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer with one token per word or punctuation mark, `</s>` at the end; unknown words become
    `<unk>`.
    """
    vocabulary = {
        token: i for i, token in enumerate([PAD, END, UNKNOWN, *(w for w in words if w not in (PAD, END, UNKNOWN))])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def random_umt5(vocabulary: int, *, dim: int, layers: int, seed: int) -> UMT5EncoderModel:
    """A frozen UMT5 encoder with random weights that depend on the arguments only. `dim` is a multiple of 16.

    Raises:
        HarnessError: `dim` is not a multiple of the head size.
    """
    if dim % HEAD_DIM:
        raise HarnessError(
            f"encoders.text_dim is {dim}, expected a multiple of {HEAD_DIM} for `text_encoder: random_umt5`"
        )
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=HEAD_DIM,
        d_ff=2 * dim,
        num_layers=layers,
        num_heads=dim // HEAD_DIM,
        dropout_rate=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UMT5EncoderModel(config)
    return model.eval().requires_grad_(False)


def tokenizer_folder(text_encoder: str | Path) -> Path:
    """Where the tokenizer of a text encoder folder lies: beside it under the name `tokenizer` (as in a diffusers
    pipeline), else inside it.

    Raises:
        HarnessError: it is in neither place.
    """
    folder = Path(text_encoder)
    for candidate in (folder.parent / "tokenizer", folder):
        if (candidate / "tokenizer_config.json").is_file():
            return candidate
    raise HarnessError(
        f"{folder}: no tokenizer found. Expected `tokenizer_config.json` in {folder.parent / 'tokenizer'} or in the "
        f"folder itself; copy the tokenizer of the same model there"
    )


def load_text_encoder(folder: str | Path, tokenizer: str | Path | None = None, *, max_length: int = 512) -> TextEncoder:
    """A UMT5 encoder and its tokenizer from local transformers folders, frozen, in the precision in which they were
    saved.

    Raises:
        HarnessError: a folder is missing, is of another kind, or its weights cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise HarnessError(
            f"{folder / 'config.json'}: no such file. Expected a transformers folder of a UMT5 encoder; "
            f"`python -m harness encoders` makes the small one"
        )
    tokenizer = Path(tokenizer) if tokenizer is not None else tokenizer_folder(folder)
    try:
        config = UMT5Config.from_pretrained(str(folder), local_files_only=True)
        if config.model_type != "umt5":
            raise HarnessError(f"{folder / 'config.json'}: model_type is {config.model_type!r}, expected 'umt5'")
        model, info = UMT5EncoderModel.from_pretrained(  # type: ignore[misc]
            str(folder),
            config=config,
            local_files_only=True,
            dtype="auto",
            use_safetensors=True,
            output_loading_info=True,
        )
        words = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    except HarnessError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds for a damaged file
        raise HarnessError(
            f"{folder}: cannot be read as a UMT5 encoder with tokenizer {tokenizer} ({error})"
        ) from error
    missing = sorted(set(info["missing_keys"]) - {"encoder.embed_tokens.weight"})  # tied to `shared.weight`
    if missing:
        raise HarnessError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}; copy the folder again"
        )
    return TextEncoder(words, model.eval().requires_grad_(False), max_length)


@torch.no_grad()
def encode_prompt(encoder: TextEncoder, prompt: str) -> EncodedText:
    """Encode one prompt, cleaned as Wan cleans it, to its real length; the caller pads with zeros.

    One prompt at a time and without padding: the vectors depend on the prompt alone, not on its neighbors in a batch
    (padding is masked in the encoder, so the values are those of a padded call). An empty prompt gives the end token
    alone.
    """
    ids = encoder.tokenizer(clean_prompt(prompt), add_special_tokens=True, verbose=False)["input_ids"]
    truncated = len(ids) > encoder.max_length  # type: ignore[arg-type]
    if truncated:
        ids = encoder.tokenizer(
            clean_prompt(prompt), add_special_tokens=True, truncation=True, max_length=encoder.max_length
        )["input_ids"]
    tokens = torch.tensor([ids], device=encoder.model.device)
    vectors = encoder.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
    unknown = ids.count(encoder.tokenizer.unk_token_id)  # type: ignore[union-attr]
    return EncodedText(vectors.float().cpu(), unknown, truncated)
