import json

import numpy as np
import pytest
import torch
from digit_world import softened

from harness.errors import HarnessError
from harness.evaluation.evaluators import (
    CHUNK,
    Measurements,
    evaluators_digest,
    late_motion,
    load_evaluators,
    rigid_error,
    save_evaluators,
    unit_range,
)


def test_saving_and_loading_changes_no_bit(world, tmp_path):
    save_evaluators(world.evaluators, tmp_path)
    again = load_evaluators(tmp_path)
    before, after = world.evaluators.measure(world.good[:5] * 2 - 1), again.measure(world.good[:5] * 2 - 1)
    assert np.array_equal(before.features, after.features)
    assert np.array_equal(before.digits.handwriting, after.digits.handwriting)
    assert evaluators_digest(tmp_path) == json.loads((tmp_path / "config.json").read_text())["sha256"]


def test_a_damaged_file_is_named(world, tmp_path):
    save_evaluators(world.evaluators, tmp_path)
    file = tmp_path / "evaluators.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(HarnessError, match=r"evaluators\.safetensors: its sha256 differs"):
        load_evaluators(tmp_path)


def test_a_missing_or_foreign_folder_is_named(world, tmp_path):
    with pytest.raises(HarnessError, match=r"config\.json: no such file"):
        load_evaluators(tmp_path)
    save_evaluators(world.evaluators, tmp_path)
    (tmp_path / "config.json").write_text('{"schema": 2}')
    with pytest.raises(HarnessError, match="not an evaluators' config of this version"):
        load_evaluators(tmp_path)


def test_files_and_vae_output_are_measured_alike(world):
    pixels = (world.good[:3] * 255).round().to(torch.uint8)
    a = world.evaluators.measure(pixels.permute(0, 2, 3, 4, 1).numpy())
    b = world.evaluators.measure(pixels.float() / 127.5 - 1)
    np.testing.assert_allclose(a.features, b.features, atol=1e-4)


def test_clips_are_measured_one_by_one_as_together(world):
    together = world.evaluators.measure(world.good[:4] * 2 - 1)
    apart = Measurements.cat([world.evaluators.measure(clip[None] * 2 - 1) for clip in world.good[:4]])
    np.testing.assert_allclose(together.features, apart.features, atol=1e-3)
    np.testing.assert_allclose(together.select(np.array([2])).brightness, apart.brightness[2:3])
    assert len(apart) == 4


def test_too_few_frames_or_clips(world):
    with pytest.raises(HarnessError, match="clips of 4 frames cannot be measured"):
        world.evaluators.measure(world.good[:1, :, :4])
    with pytest.raises(HarnessError, match="no clips"):
        world.evaluators.measure(world.good[:0])


def test_rigid_error_of_a_still_a_changing_and_an_empty_clip():
    frame = torch.rand(1, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    still = frame.expand(-1, -1, 6, -1, -1)
    assert rigid_error(still).max() < 1e-6
    flashing = still * torch.tensor([1.0, 0.0] * 3)[None, None, :, None, None]
    assert rigid_error(flashing).numpy() == pytest.approx(np.ones((1, 6)))
    assert rigid_error(torch.zeros(1, 3, 4, 8, 8)).min() == 1


def test_unit_range_of_both_forms():
    assert unit_range(np.full((1, 5, 4, 4, 3), 255, np.uint8)).max() == 1
    assert unit_range(torch.full((1, 3, 5, 4, 4), -3.0)).min() == 0


def test_images_are_measured_one_by_one_as_together(world):
    images, video = world.images[:4], softened(world.good[:4]) * 2 - 1
    together = world.evaluators.measure(video, images).image
    apart = Measurements.cat([world.evaluators.measure(video[i : i + 1], images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together.psnr, apart.image.psnr)
    np.testing.assert_allclose(together.ssim, apart.image.ssim)
    np.testing.assert_allclose(together.identity, apart.image.identity, atol=1e-5)
    assert apart.select(np.array([3])).image.psnr.tolist() == apart.image.psnr[3:].tolist()


def test_the_images_of_every_chunk_are_those_of_its_clips(world):
    count = CHUNK + 3
    measured = world.evaluators.measure(world.good[:count] * 2 - 1, world.images[:count])
    assert (measured.image.psnr > 50).all()
    assert (measured.image.identity[:, 0] > 0.999).all()


def test_clips_without_an_image_have_none(world):
    measured = world.evaluators.measure(world.good[:2] * 2 - 1)
    assert measured.image is None
    assert measured.select(np.array([1])).image is None


def test_late_motion_leaves_out_the_step_from_the_first_frame(world):
    jump = torch.zeros(1, 3, 13, 24, 24)
    jump[:, :, 1:] = 1
    measured = world.evaluators.measure(jump * 2 - 1)
    assert measured.late_motion.tolist() == [0]
    assert measured.motion_energy[0] == pytest.approx(1 / 12)


def test_late_motion_is_change_that_outlasts_four_frames():
    video = torch.rand(2, 3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert late_motion(video.repeat(1, 1, 4, 1, 1)).tolist() == [0, 0]  # a loop
    ramp = torch.linspace(0, 1, 17)[None, None, :, None, None].expand(1, 3, 17, 6, 6)
    assert late_motion(ramp).item() == pytest.approx(4 / 16)
    step = torch.zeros(1, 3, 11, 6, 6)
    step[:, :, 6:] = 1  # four of the six pairs of frames 1 … 10 lie on both sides
    assert late_motion(step).item() == pytest.approx(4 / 6)
    assert late_motion(ramp[:, :, :5]).item() == pytest.approx(3 / 16)  # the shortest clip that is measured
