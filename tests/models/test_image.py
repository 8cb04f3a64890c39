"""The image encoder against diffusers' pipeline, on a tiny random checkpoint in the real folder layout."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_i2v import CLIP_DIM, save_tiny_i2v

from harness.config.schema import DataConfig, Splits
from harness.data.digits import iter_clips
from harness.errors import HarnessError
from harness.models.image import encode_images, load_image_encoder, processor_folder, random_clip


@pytest.fixture(scope="module")
def pipeline_and_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i2v")
    return save_tiny_i2v(folder), folder


@pytest.fixture
def folder(pipeline_and_folder, tmp_path):
    return shutil.copytree(pipeline_and_folder[1], tmp_path / "model")


def images(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


@pytest.mark.parametrize("size", [(48, 32), (33, 250), (480, 832), (224, 224)])
def test_tokens_are_those_of_the_wan_pipeline(pipeline_and_folder, size):
    """Penultimate hidden states, 257 tokens, of images wider and higher than 224 pixels and smaller: bit for bit."""
    pipeline, folder = pipeline_and_folder
    encoder = load_image_encoder(folder / "image_encoder")
    (image,) = images(size)
    tokens = encode_images(encoder, torch.from_numpy(image)[None])
    assert tokens.shape == (1, encoder.num_tokens, encoder.dim) == (1, 257, CLIP_DIM)
    with torch.no_grad():
        assert torch.equal(tokens, pipeline.encode_image(Image.fromarray(image)))
        states = pipeline.image_encoder(
            **pipeline.image_processor(Image.fromarray(image), return_tensors="pt"), output_hidden_states=True
        )
    assert not torch.allclose(tokens, states.last_hidden_state, atol=0.01)


def test_a_batch_is_its_images(pipeline_and_folder):
    encoder = load_image_encoder(pipeline_and_folder[1] / "image_encoder")
    first, second = (torch.from_numpy(image) for image in images((40, 60), (40, 60)))
    both = encode_images(encoder, torch.stack([first, second]))
    for one, image in zip(both, (first, second), strict=True):
        assert torch.allclose(one, encode_images(encoder, image[None])[0], atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_an_image_three_pixels_high_is_not_mistaken_for_channels_first(pipeline_and_folder):
    encoder = load_image_encoder(pipeline_and_folder[1] / "image_encoder")
    (image,) = images((3, 8))
    prepared = encoder.processor(Image.fromarray(image), return_tensors="pt", input_data_format="channels_last")
    with torch.no_grad():
        expected = encoder.model(**prepared, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(encode_images(encoder, torch.from_numpy(image)[None]), expected)


@pytest.mark.parametrize("bad", [torch.zeros(1, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_other_images_are_refused(pipeline_and_folder, bad):
    encoder = load_image_encoder(pipeline_and_folder[1] / "image_encoder")
    with pytest.raises(HarnessError, match=r"uint8 \[B, H, W, 3\]"):
        encode_images(encoder, bad)


def test_the_processor_is_found_beside_or_inside(folder):
    assert processor_folder(folder / "image_encoder") == folder / "image_processor"
    shutil.move(folder / "image_processor/preprocessor_config.json", folder / "image_encoder")
    assert processor_folder(folder / "image_encoder") == folder / "image_encoder"
    (folder / "image_encoder/preprocessor_config.json").unlink()
    with pytest.raises(HarnessError, match="no image processor found"):
        load_image_encoder(folder / "image_encoder")


def test_what_is_not_an_image_encoder_is_refused(folder):
    with pytest.raises(HarnessError, match=r"config.json: no such file"):
        load_image_encoder(folder)
    with pytest.raises(HarnessError, match=r"model_type is 'umt5', expected"):
        load_image_encoder(folder / "text_encoder", folder / "image_processor")


def test_a_truncated_file_and_missing_weights_are_told(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "image_encoder/model.safetensors"
    weights = load_file(path)
    first = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != first}, path, metadata={"format": "pt"})
    with pytest.raises(HarnessError, match=f"1 weights are missing, the first is {first}"):
        load_image_encoder(folder / "image_encoder")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HarnessError, match="cannot be read as a CLIP vision model"):
        load_image_encoder(folder / "image_encoder")


def test_the_processor_of_another_model_is_refused(folder):
    path = folder / "image_processor/preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crop_size": {"height": 336, "width": 336}}))
    with pytest.raises(HarnessError, match="reads 224×224"):
        load_image_encoder(folder / "image_encoder")


def test_a_processor_that_squeezes_the_whole_frame_is_accepted(folder):
    """As the original code does; the size that counts is then that of the resizing."""
    path = folder / "image_processor/preprocessor_config.json"
    config = json.loads(path.read_text()) | {"do_center_crop": False, "crop_size": {"height": 8, "width": 8}}
    path.write_text(json.dumps(config | {"size": {"height": 224, "width": 224}}))
    encoder = load_image_encoder(folder / "image_encoder")
    assert encode_images(encoder, torch.from_numpy(images((40, 90))[0])[None]).shape == (1, 257, CLIP_DIM)


def test_the_small_tower_is_a_real_one_and_survives_saving(tmp_path):
    tower = random_clip(24, dim=16, layers=2, seed=3)
    assert (tower.num_tokens, tower.dim) == (37, 16)
    tower.model.save_pretrained(str(tmp_path / "image_encoder"), safe_serialization=True)
    tower.processor.save_pretrained(str(tmp_path / "image_processor"))
    back = load_image_encoder(tmp_path / "image_encoder")
    for size in ((24, 24), (24, 60), (7, 100)):
        (image,) = images(size)
        tokens = encode_images(tower, torch.from_numpy(image)[None])
        assert tokens.shape == (1, 37, 16)
        assert torch.equal(encode_images(back, torch.from_numpy(image)[None]), tokens)
    assert not any(p.requires_grad for p in tower.model.parameters())


def test_the_small_tower_depends_on_its_arguments_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one = random_clip(16, dim=8, layers=2, seed=0)
    assert torch.equal(torch.rand(3), expected), "the numbers of the caller are left alone"
    same, other = random_clip(16, dim=8, layers=2, seed=0), random_clip(16, dim=8, layers=2, seed=1)
    weights = [tower.model.vision_model.encoder.layers[0].mlp.fc1.weight for tower in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("size", "dim", "expected"), [(24, 18, "image_dim is 18"), (22, 16, "is 22 pixels")])
def test_a_small_tower_that_cannot_be(size, dim, expected):
    with pytest.raises(HarnessError, match=expected):
        random_clip(size, dim=dim, layers=2, seed=0)


def guessed(train, labels, test):
    """Labels of `test` `[M, D]` by a linear classifier fitted on `train` `[N, D]` (ridge regression)."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    known, asked = ((np.c_[(x - mean) / spread, np.ones(len(x))]) for x in (train, test))
    classes = np.unique(labels)
    wanted = (labels[:, None] == classes) * 2.0 - 1
    weights = np.linalg.solve(known.T @ known + 10 * np.eye(known.shape[1]), known.T @ wanted)
    return classes[(asked @ weights).argmax(1)]


@pytest.fixture(scope="module")
def told():
    """First frames of moving digits with their tokens: (labels, tokens) of training clips and of others."""
    config = DataConfig(
        source="moving_digits", height=24, width=24, frames=1, clips=Splits(train=1200, validation=8, test=300)
    )
    tower, found = random_clip(24, dim=64, layers=2, seed=0), []
    for split in ("train", "test"):
        clips = list(iter_clips(config, split))
        labels = {name: np.array([str(clip.attributes[name]) for clip in clips]) for name in ("digit", "color")}
        frames = torch.from_numpy(np.stack([clip.video[0] for clip in clips]))
        found.append((labels, encode_images(tower, frames).double().numpy()))
    return found


@pytest.mark.parametrize(
    ("what", "reading", "at_least"),
    [("digit", "mean", 0.8), ("digit", "all", 0.9), ("color", "mean", 0.97), ("color", "class token", 0.97)],
)
def test_random_tokens_carry_the_image(told, what, reading, at_least):
    """Handwriting of other people than those fitted on; chance is 1 in 10 digits and 1 in 4 colors."""
    read = {"mean": lambda t: t.mean(1), "all": lambda t: t.reshape(len(t), -1), "class token": lambda t: t[:, 0]}
    (labels, tokens), (others, unseen) = told
    guess = guessed(read[reading](tokens), labels[what], read[reading](unseen))
    assert (guess == others[what]).mean() > at_least


def test_a_random_token_tells_its_place(told):
    """Where a patch lies can be read from its token, whatever it shows."""
    (_, tokens), (_, unseen) = told
    place = np.tile(np.arange(36), 60)
    guess = guessed(tokens[:60, 1:].reshape(-1, 64), place, unseen[:60, 1:].reshape(-1, 64))
    assert (guess == place).mean() > 0.99
