"""What a picture becomes: the same for a network that reads it and for one that is given the first frame."""

import pytest
import torch
from image_project import LATENT, SIZE

from harness.data.conditions import image_condition
from harness.errors import HarnessError
from harness.models.codec import load_vae
from harness.models.image import load_image_encoder
from harness.pipeline.inputs import image_inputs, reads_image


@pytest.fixture(scope="module")
def encoders(project):
    folder = project / "checkpoints/encoders"
    return load_vae(folder / "vae"), load_image_encoder(folder / "image_encoder")


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_network_that_reads_images_gets_all_of_the_data_stages_condition(encoders):
    vae, eyes = encoders
    made, expected = image_inputs(vae, eyes, pictures(), 5, tokens=True), image_condition(vae, eyes, pictures(), 5)
    assert made.keys() == {"image_tokens", "y", "first_latent"}
    assert all(torch.equal(part, getattr(expected, name)) for name, part in made.items())
    assert made["y"].shape == (2, 4 + LATENT[0], 5, *LATENT[2:])


def test_the_first_latent_alone_is_the_same_latent(encoders):
    vae, eyes = encoders
    alone = image_inputs(vae, None, pictures(), 5, tokens=False)
    assert alone.keys() == {"first_latent"}
    expected = image_condition(vae, eyes, pictures(), 5).first_latent
    assert alone["first_latent"].dtype == expected.dtype == torch.float32
    assert torch.allclose(alone["first_latent"], expected, atol=1e-6)
    assert not torch.allclose(expected[0], expected[1], atol=0.1)


def test_tokens_need_an_image_encoder(encoders):
    with pytest.raises(HarnessError, match=r"no image encoder.*encoders\.image_encoder"):
        image_inputs(encoders[0], None, pictures(), 3, tokens=True)


def test_which_networks_read_an_image(pipelines):
    reading = {way: reads_image(pipeline.transformer) for way, pipeline in pipelines.items()}
    assert reading == {"none": False, "channels": True, "first_latent": False, "both": True}
