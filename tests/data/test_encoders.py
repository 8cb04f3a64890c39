import json
import shutil

import pytest
from attrs import evolve

from harness.data.encoders import make_encoders
from harness.errors import HarnessError
from harness.io import directory_digest
from harness.models.codec import PCACodec, load_vae
from harness.models.image import load_image_encoder
from harness.models.text import load_text_encoder


def test_what_is_made(data):
    assert isinstance(load_vae(data.encoders / "vae"), PCACodec)
    text = load_text_encoder(data.encoders / "text_encoder", max_length=data.text_length)
    assert text.dim == 32
    assert {"red", "moving", "left", "7"} <= set(text.tokenizer.get_vocab())


def test_same_settings_same_bytes_and_the_seed_matters(data, tmp_path):
    make_encoders(data.encoders_config, data.clips, tmp_path / "again")
    make_encoders(evolve(data.encoders_config, seed=1), data.clips, tmp_path / "other")
    assert directory_digest(tmp_path / "again") == directory_digest(data.encoders)
    for part, same in (("vae", True), ("tokenizer", True), ("text_encoder", False)):
        assert (directory_digest(tmp_path / "other" / part) == directory_digest(data.encoders / part)) is same


def test_an_image_encoder_is_made_where_the_preset_has_one(data, image_data):
    """In a square of the smaller side; the other parts stay byte for byte the same."""
    assert not (data.encoders / "image_encoder").exists()
    encoder = load_image_encoder(image_data.encoders / "image_encoder", image_data.encoders / "image_processor")
    assert (encoder.num_tokens, encoder.dim) == (17, 16)  # (16 / 4)² and the class token
    assert encoder.model.config.num_hidden_layers == 3
    for part in ("vae", "text_encoder", "tokenizer"):
        assert directory_digest(image_data.encoders / part) == directory_digest(data.encoders / part)


def test_the_image_encoder_depends_on_the_seed_alone(image_data, tmp_path):
    make_encoders(image_data.encoders_config, image_data.clips, tmp_path / "again")
    assert directory_digest(tmp_path / "again") == directory_digest(image_data.encoders)
    make_encoders(evolve(image_data.encoders_config, seed=1), image_data.clips, tmp_path / "other")
    for part, same in (("image_encoder", False), ("image_processor", True)):
        other = directory_digest(tmp_path / "other" / part)
        assert (other == directory_digest(image_data.encoders / part)) is same


@pytest.mark.parametrize("place", ["pipeline", "part", "processor inside"])
def test_a_given_image_encoder_is_copied_with_its_processor(image_data, tmp_path, place):
    folder = image_data.encoders if place == "pipeline" else image_data.encoders / "image_encoder"
    if place == "processor inside":
        folder = shutil.copytree(folder, tmp_path / "clip" / "encoder")
        shutil.copy(image_data.encoders / "image_processor/preprocessor_config.json", folder)
    make_encoders(
        evolve(image_data.encoders_config, image_encoder=str(folder)), image_data.clips, tmp_path / "out" / "copy"
    )
    for part in ("image_encoder", "image_processor"):
        source = folder if (part, place) == ("image_encoder", "processor inside") else image_data.encoders / part
        assert directory_digest(tmp_path / "out" / "copy" / part) == directory_digest(source)


@pytest.mark.parametrize("whole_pipeline", [True, False])
def test_given_folders_are_copied(data, tmp_path, whole_pipeline):
    config = evolve(
        data.encoders_config,
        vae=str(data.encoders if whole_pipeline else data.encoders / "vae"),
        text_encoder=str(data.encoders if whole_pipeline else data.encoders / "text_encoder"),
    )
    make_encoders(config, "not needed", tmp_path / "copy")
    assert directory_digest(tmp_path / "copy") == directory_digest(data.encoders)


def test_a_tokenizer_inside_the_text_encoder_folder(data, tmp_path):
    shutil.copytree(data.encoders / "text_encoder", tmp_path / "t5" / "encoder")
    for file in (data.encoders / "tokenizer").iterdir():
        shutil.copy(file, tmp_path / "t5" / "encoder")
    config = evolve(data.encoders_config, text_encoder=str(tmp_path / "t5" / "encoder"))
    make_encoders(config, data.clips, tmp_path / "copy")
    assert load_text_encoder(tmp_path / "copy" / "text_encoder").dim == 32


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"vae": "/nowhere"}, r"encoders\.vae: /nowhere: no `config\.json`"),
        ({"text_encoder": "/nowhere"}, r"encoders\.text_encoder: /nowhere: no `config\.json`"),
        ({"vae": "HERE", "latent_channels": 8}, r"encoders\.latent_channels is 8, the VAE in .* has 16"),
        ({"text_encoder": "HERE", "text_dim": 64}, r"encoders\.text_dim is 64, the text encoder in .* has 32"),
        ({"image_encoder": "/nowhere"}, r"encoders\.image_encoder: /nowhere: no `config\.json`"),
        ({"image_encoder": "random_clip", "image_dim": 18}, r"encoders\.image_dim is 18, expected a multiple of 4"),
        ({"text_dim": 40}, r"encoders\.text_dim is 40, expected a multiple of 16"),
    ],
)
def test_what_does_not_fit_is_refused(data, tmp_path, change, expected):
    change = {key: str(data.encoders) if value == "HERE" else value for key, value in change.items()}
    with pytest.raises(HarnessError, match=expected):
        make_encoders(evolve(data.encoders_config, **change), data.clips, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_encoder_of_another_width_is_refused(image_data, tmp_path):
    config = evolve(image_data.encoders_config, image_encoder=str(image_data.encoders), image_dim=1280)
    with pytest.raises(HarnessError, match=r"encoders\.image_dim is 1280, the image encoder in .* has 16"):
        make_encoders(config, image_data.clips, tmp_path / "out")


def test_an_image_encoder_without_processor(image_data, tmp_path):
    shutil.copytree(image_data.encoders / "image_encoder", tmp_path / "alone")
    config = evolve(image_data.encoders_config, image_encoder=str(tmp_path / "alone"))
    with pytest.raises(HarnessError, match="no image processor found"):
        make_encoders(config, image_data.clips, tmp_path / "out")


def test_no_clips(data, tmp_path):
    with pytest.raises(HarnessError, match=r"train/index\.json: no such file"):
        make_encoders(data.encoders_config, tmp_path, tmp_path / "out")


def test_text_encoder_without_tokenizer(data, tmp_path):
    shutil.copytree(data.encoders / "text_encoder", tmp_path / "alone")
    config = evolve(data.encoders_config, text_encoder=str(tmp_path / "alone"))
    with pytest.raises(HarnessError, match="no tokenizer found"):
        make_encoders(config, data.clips, tmp_path / "out")


def test_the_codec_kept_its_config(data):
    config = json.loads((data.encoders / "vae" / "config.json").read_text())
    assert config["_class_name"] == "PCACodec"
    assert len(config["latents_std"]) == 16
