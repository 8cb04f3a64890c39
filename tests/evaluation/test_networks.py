import pytest
import torch

from harness.evaluation.networks import DigitNet, VideoNet, shrink


@pytest.mark.parametrize("size", [(5, 16, 24), (9, 24, 24), (17, 32, 20)])
def test_video_features_have_one_size_for_all_clips(size):
    net = VideoNet({"kind": 5})
    features = net(torch.rand(2, 3, *size))
    assert features.shape == (2, 64)
    assert net.predict(features)["kind"].shape == (2, 5)


def test_features_of_a_clip_do_not_depend_on_its_neighbors():
    torch.manual_seed(0)
    net, clips = VideoNet({"kind": 5}), torch.rand(3, 3, 9, 16, 16)
    torch.testing.assert_close(net(clips)[1:2], net(clips[1:2]), atol=1e-5, rtol=1e-4)


def test_features_see_the_order_of_frames():
    torch.manual_seed(0)
    net, clips = VideoNet({}), torch.rand(1, 3, 9, 16, 16)
    assert (net(clips) - net(clips.flip(2))).abs().max() > 1e-3


@pytest.mark.parametrize("crop", [8, 12, 14])
def test_digit_net(crop):
    embedding, logits = DigitNet(crop)(torch.rand(4, crop, crop))
    assert embedding.shape == (4, 16)
    assert logits.shape == (4, 10)


def test_large_clips_are_averaged_down_and_small_ones_kept():
    small = torch.rand(1, 3, 5, 24, 24)
    assert shrink(small) is small
    large = torch.rand(2, 3, 5, 120, 208)
    assert shrink(large).shape == (2, 3, 5, 18, 32)
    assert shrink(large).mean().item() == pytest.approx(large.mean().item(), abs=0.02)
