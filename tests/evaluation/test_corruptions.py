import pytest
import torch

from harness.evaluation.corruptions import KINDS, PatchCoder, blur, codec_like, corrupt, freeze_frames, shuffle_frames


@pytest.fixture
def clip(world) -> torch.Tensor:
    return world.good[0]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_but_clean_changes_the_clip(clip, kind):
    before = clip.clone()
    damaged = corrupt(clip, kind, rng())
    assert damaged.shape == clip.shape
    assert 0 <= damaged.min() <= damaged.max() <= 1
    assert torch.equal(damaged, clip) == (kind == "clean")
    assert torch.equal(clip, before)
    assert torch.equal(damaged, corrupt(clip, kind, rng()))


def test_shuffling_keeps_the_frames_and_freezing_ends_still(clip):
    shuffled = shuffle_frames(clip, rng(1))
    assert sorted(f.sum().item() for f in shuffled.unbind(1)) == sorted(f.sum().item() for f in clip.unbind(1))
    frozen = freeze_frames(clip, rng(1))
    assert torch.equal(frozen[:, -1], frozen[:, -4])
    assert torch.equal(frozen[:, 0], clip[:, 0])


def test_blur_keeps_the_mean_on_a_torus():
    image = torch.rand(2, 8, 8, generator=rng())
    torch.testing.assert_close(blur(image, 3).mean((1, 2)), image.mean((1, 2)))
    assert blur(image, 3).std() < 0.6 * image.std()


def test_the_patch_coder_loses_little_and_keeps_the_ink(world):
    clips = world.good[:24]
    coder = PatchCoder(clips)
    coded = coder(clips, rng(3))
    error = (coded - clips).square().mean().sqrt()
    assert 0.002 < error < 0.1
    assert coded.mean().item() == pytest.approx(clips.mean().item(), rel=0.25)  # clamped noise adds light
    assert torch.equal(coded, coder(clips, rng(3)))


def test_the_patch_coder_keeps_a_bright_background(world):
    clips = 0.5 + 0.3 * world.good[:24]
    assert PatchCoder(clips)(clips, rng(3)).mean().item() == pytest.approx(clips.mean().item(), abs=0.02)


def test_the_patch_coder_takes_sizes_that_do_not_divide():
    clips = torch.rand(8, 3, 7, 10, 13, generator=rng())
    assert PatchCoder(clips)(clips, rng()).shape == clips.shape


def test_codec_like_crops_stay_near(world):
    crops = torch.rand(6, 14, 14, generator=rng())
    changed = codec_like(crops, rng(1))
    assert changed.shape == crops.shape
    assert not torch.equal(changed, crops)
