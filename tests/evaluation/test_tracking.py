import pytest
import torch

from harness.evaluation import tracking


@pytest.fixture
def blob() -> torch.Tensor:
    """A smooth object on a 24×20 torus, band-limited, so that Fourier shifts are exact: `[1, 3, 1, 24, 20]`."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    shape = torch.exp(torch.cos(2 * torch.pi * (y - 12) / 24) * 2 + torch.cos(2 * torch.pi * (x - 10) / 20) * 2) / 60
    return shape.expand(1, 3, 1, 24, 20).clone()


def moved(blob: torch.Tensor, path: list[tuple[float, float]]) -> torch.Tensor:
    """The blob at these (y, x) positions, one frame each."""
    frames = blob.expand(-1, -1, len(path), -1, -1)
    return tracking.centered(frames, torch.tensor([[(24 - y, 20 - x) for y, x in path]]))


def test_positions_follow_sub_pixel_shifts(blob):
    path = [(12.0, 10.0), (12.3, 9.1), (13.75, 18.6), (22.9, 0.2)]
    found = tracking.positions(moved(blob, path))
    torch.testing.assert_close(found[0], torch.tensor(path), atol=1e-3, rtol=0)


def test_a_uniform_background_does_not_move_the_position(blob):
    video = moved(blob, [(5.2, 3.3)])
    torch.testing.assert_close(tracking.positions(video + 0.5), tracking.positions(video), atol=1e-3, rtol=0)


def test_displacements_take_the_short_way_over_the_edge():
    places = torch.tensor([[[23.5, 0.5], [0.5, 19.5], [1.0, 19.5]]])
    expected = torch.tensor([[[1.0, -1.0], [0.5, 0.0]]])
    torch.testing.assert_close(tracking.displacements(places, 24, 20), expected)


def test_centering_undoes_motion(blob):
    video = moved(blob, [(12.0, 10.0), (3.3, 17.2), (20.9, 1.4)])
    still = tracking.centered(video, tracking.positions(video))
    torch.testing.assert_close(still, blob.expand_as(still), atol=1e-3, rtol=0)


def test_crops_do_not_see_color_or_fading(blob):
    video = moved(blob, [(12.0, 10.0)] * 3)
    colored = video * torch.tensor([1.0, 0.3, 0.1])[None, :, None, None, None]
    faded = colored * torch.tensor([1.0, 0.7, 0.4])[None, None, :, None, None]
    crops = [tracking.shape_crops(v, 14) for v in (video, colored, faded)]
    assert crops[0].shape == (1, 3, 14, 14)
    torch.testing.assert_close(crops[1], crops[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(crops[2], crops[0], atol=1e-4, rtol=0)


def test_an_empty_frame_gives_an_empty_crop():
    assert tracking.shape_crops(torch.zeros(1, 3, 2, 24, 24), 14).abs().max() == 0
