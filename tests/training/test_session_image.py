"""What a session reads of first frames: all of it in image to video, nothing else."""

import shutil

import numpy as np
import pytest
from attrs import evolve

from harness.data.mds import ENCODED_COLUMNS, IMAGE_COLUMNS, iter_samples, write_mds
from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.training import session

TOKENS = [5, 64]


def told(config, image_conditioning):
    return evolve(config, rollout=evolve(config.rollout, image_conditioning=image_conditioning))


@pytest.fixture
def with_images(project):
    """The project, its data encoded for image to video."""
    folder, rng = project / "data/encoded", np.random.default_rng(1)
    rows = [
        {
            **sample,
            "image_tokens": rng.standard_normal(TOKENS).astype(np.float16),
            "y": rng.standard_normal((20, *sample["latent"].shape[1:])).astype(np.float16),
        }
        for sample in iter_samples(folder / "train")
    ]
    shutil.rmtree(folder / "train")
    write_mds(folder / "train", ENCODED_COLUMNS | IMAGE_COLUMNS, rows)
    write_json(folder / "fingerprint.json", read_json(folder / "fingerprint.json") | {"image_tokens": TOKENS})
    return project


@pytest.mark.parametrize("way", ["channels", "first_latent", "both"])
def test_batches_have_first_frames_in_every_form(with_images, small_run, way):
    spec = session.open_data(told(small_run(with_images, "sft"), way), with_images, with_images / "work")
    batch = spec.batch_transforms(next(iter(spec.dataloader)))
    condition = batch["condition"]
    assert condition.image_tokens.shape[1:] == (5, 64)
    assert condition.y.shape[1] == 20
    assert condition.first_latent.shape[2] == 1
    assert condition.positions.shape[1] == 5


def test_text_to_video_reads_none_of_them(with_images, small_run):
    spec = session.open_data(small_run(with_images, "sft"), with_images, with_images / "work")
    condition = next(iter(spec.dataloader))["condition"]
    assert (condition.image_tokens, condition.y, condition.first_latent) == (None, None, None)


def test_data_without_images_is_refused(project, small_run):
    with pytest.raises(HarnessError, match=r"encoders\.image_encoder"):
        session.open_data(told(small_run(project, "sft"), "channels"), project, project / "work")
