import pytest

from harness.config.metrics import METRICS, OF_LONG_CLIPS, better


@pytest.mark.parametrize(
    ("name", "good", "bad"), [("fvd", 1.0, 2.0), ("recall", 0.9, 0.1), ("ink", 0.95, 1.2), ("ink", 1.1, 0.8)]
)
def test_direction(name, good, bad):
    assert better(name, good, bad)
    assert not better(name, bad, good)
    assert not better(name, good, good)


def test_the_panel_is_complete():
    assert set(METRICS) == {
        *("fvd", "conditional_distance", "recall", "precision", "caption_accuracy", "digit_accuracy", "color_accuracy"),
        *("motion_accuracy", "identity", "rigid_error", "diversity", "saturation", "ink"),
        *("mode_coverage", "motion_energy", "first_frame_psnr", "first_frame_ssim", "image_identity"),
        *("late_motion", "static_collapse", "fvd_gap"),
        *OF_LONG_CLIPS,
    }
