import json

import numpy as np
import pytest
import torch
from digit_world import stacked
from safetensors.torch import save

from harness.config.schema import EvaluatorsConfig
from harness.errors import HarnessError
from harness.evaluation import fit_evaluators as module
from harness.evaluation.fit_evaluators import deterministic, fit_evaluators, projection, schedule

SHORT = EvaluatorsConfig(steps=2, batch_size=16)


@pytest.fixture(scope="module")
def few(training_clips):
    clips = training_clips[:48]
    return stacked(clips)[:, :9], [clip.attributes for clip in clips]


def weights(evaluators) -> bytes:
    return save(evaluators.state_dict())


def test_the_same_input_gives_the_same_bytes_whatever_the_global_state(few):
    first = weights(fit_evaluators(*few, SHORT, source="moving_digits"))
    torch.manual_seed(5)
    torch.rand(3)
    assert weights(fit_evaluators(*few, SHORT, source="moving_digits")) == first
    other = EvaluatorsConfig(steps=2, batch_size=16, seed=1)
    assert weights(fit_evaluators(*few, other, source="moving_digits")) != first


def test_it_leaves_threads_and_random_state_alone(few):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with deterministic(0):
        assert torch.get_num_threads() == 1
        torch.rand(5)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert torch.equal(torch.rand(1), expected)


def test_training_learns_the_captions(world):
    features = world.evaluators.video_net(world.good)
    outputs = world.evaluators.video_net.predict(features)
    for name, least in (("color", 0.95), ("moves", 0.95), ("speed", 0.9)):
        right = outputs[name].argmax(1) == module.attribute_targets(world.attributes)[name]
        assert right.float().mean() > least, name
    digits = world.evaluators.measure(world.good * 2 - 1).digits
    assert (digits.probabilities.mean(1).argmax(1) == [a["digit"] for a in world.attributes]).mean() > 0.85


def test_progress_counts_every_step_of_both_networks(few):
    seen = []
    fit_evaluators(*few, SHORT, source="moving_digits", progress=lambda *a: seen.append(a))
    assert seen[:2] == [("video network", 1, 2), ("video network", 2, 2)]
    assert seen[-1] == ("digit network", 8, 8)


def test_videos_have_no_digit_network(few):
    videos, _ = few
    evaluators = fit_evaluators(videos, [{}] * len(videos), SHORT, source="videos")
    measured = evaluators.measure(videos[:2])
    assert evaluators.digit_net is None
    assert measured.digits is None
    assert measured.features.shape == (2, 24)


def test_too_little_data_is_told(few):
    videos, attributes = few
    with pytest.raises(HarnessError, match="15 training clips are too few"):
        fit_evaluators(videos[:15], attributes[:15], SHORT, source="moving_digits")
    with pytest.raises(HarnessError, match="clips of 3 frames are too short"):
        fit_evaluators(videos[:, :3], attributes, SHORT, source="moving_digits")


def test_the_projection_whitens_with_a_floor_and_gives_blocks_equal_weight():
    rng = torch.Generator().manual_seed(0)
    scale = torch.logspace(1, -3, 30)
    raw = torch.cat(
        [torch.randn(500, 30, generator=rng) * scale, 5 * torch.randn(500, 4, generator=rng), torch.zeros(500, 4)], 1
    )
    mean, directions = projection(raw, embedding=4)
    z = (raw - mean) @ directions
    assert z.shape == (500, 24 + 4 + 4)
    assert z[:, :24].square().sum(1).mean().item() == pytest.approx(32, rel=1e-3)
    assert z[:, 24:28].square().sum(1).mean().item() == pytest.approx(32, rel=1e-3)
    spread = z[:, :24].std(0)
    assert spread[-1] < 0.01 * spread[0]  # a direction in which real clips hardly differ stays small
    moved = (raw[0] + torch.cat([torch.zeros(34), torch.ones(4)]) - mean) @ directions
    assert (moved - z[0])[28:].square().sum().item() == pytest.approx(4 * 32 / (4 * 25), rel=0.1)


def test_the_schedule_warms_up_and_ends_low():
    values = [schedule(step, 100) for step in range(100)]
    assert values[0] < 0.2
    assert max(values) <= 1.0
    assert values[-1] < 0.05


def test_the_verb_writes_evaluators(root):
    config = json.loads((root / "checkpoints/evaluators/config.json").read_text())
    assert config["geometry"]["frames"] == 9
    assert config["geometry"]["steps"] == 2


def test_training_clips_without_digits_are_small(root):
    videos, attributes = module.training_clips(root / "data/clips/train", digits=False, limit=3)
    assert videos.shape == (3, 9, 24, 24, 3)
    assert videos.dtype == np.uint8
    assert len(attributes) == 3
