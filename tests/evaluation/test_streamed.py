import io

import numpy as np
import torch

from harness.evaluation.streamed import FrameProgress, clip_noise, progress_text


def test_noise_depends_on_clip_and_block_alone():
    shape = (2, 4, 3, 6, 6)
    draw = clip_noise(5, range(2), shape)
    block = draw(9, 12)
    assert block.shape == (2, 4, 3, 6, 6)
    assert torch.equal(block, clip_noise(5, range(2), shape)(9, 12))
    assert torch.equal(clip_noise(5, [1], shape)(9, 12), block[1:])
    for other in (draw(12, 15), clip_noise(6, range(2), shape)(9, 12), block.flip(0)):
        assert not torch.equal(other, block)
    assert abs(float(np.std(draw(0, 50).numpy())) - 1) < 0.05


def test_progress_says_how_long_it_will_take():
    assert progress_text(0, 2000, 1.0) == "0 of 2,000 frames"
    assert progress_text(500, 2000, 50.0) == "500 of 2,000 frames, 10.0 a second, 2:30 left"


def test_lines_come_at_the_end_and_not_too_often():
    out = io.StringIO()
    progress = FrameProgress(9, interval=60, out=out)
    for _ in range(3):
        progress.advance(3)
    assert out.getvalue().startswith("9 of 9 frames, ")
    assert out.getvalue().count("\n") == 1
