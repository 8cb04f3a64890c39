import pytest
import torch
from attrs import evolve
from torch import nn

from harness.config.schema import RolloutConfig
from harness.evaluation.samplers import ForwardCounter, Sampler, Stopwatch, cut_steps
from harness.models.condition import Condition

ROLLOUT = RolloutConfig(frames_per_block=2, denoising_steps=(1000, 500), shift=3.0)


class Decay(nn.Module):
    """A denoiser double: velocity proportional to its input, the same whatever the condition."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, hidden_states, timestep, encoder_hidden_states, cache=None, write_cache=False, **other):
        return (self.rate * hidden_states,)


def sample(sampler: Sampler, frames: int = 6, seed: int = 0) -> tuple[torch.Tensor, float]:
    """Latents of two clips, and the forwards counted per clip."""
    noise = torch.randn(2, 4, frames, 2, 2, generator=torch.Generator().manual_seed(1))
    model = Decay()
    with ForwardCounter(frames).counting(model) as counter:
        latents = sampler(model, noise, Condition(text=torch.zeros(2, 3, 4)), torch.Generator().manual_seed(seed))
    assert latents.shape == noise.shape
    assert not latents.requires_grad
    model(torch.zeros(1, 4, frames, 2, 2), None, None)
    return latents, counter.total / 2


@pytest.mark.parametrize(
    ("sampler", "described", "counted"),
    [
        (Sampler(kind="euler", rollout=ROLLOUT, steps=5), {"forwards_per_video": 5}, 5),
        (Sampler(kind="euler", rollout=ROLLOUT, steps=5, cfg_scale=2.0), {"forwards_per_video": 10}, 10),
        (Sampler.few_step(evolve(ROLLOUT, attention="bidirectional")), {"forwards_per_video": 2}, 2),
        # two of three blocks are written to the cache as well: 2 + 2/3
        (Sampler.few_step(ROLLOUT), {"forwards_per_block": 2}, 2 + 2 / 3),
        (Sampler(kind="causal_euler", rollout=ROLLOUT, steps=3), {"forwards_per_block": 3}, 3 + 2 / 3),
        (
            Sampler(kind="causal_euler", rollout=ROLLOUT, steps=3, cfg_scale=2.0),
            {"forwards_per_block": 6},
            6 + 4 / 3,
        ),
    ],
)
def test_forwards_are_what_they_are_said_to_be(sampler, described, counted):
    assert described.items() <= sampler.describe().items()
    assert [sampler.describe()["forwards"]] == list(described.values())
    assert sample(sampler)[1] == pytest.approx(counted)


def test_the_counter_stops_with_its_context():
    model, counter = Decay(), ForwardCounter(4)
    with counter.counting(model):
        model(torch.zeros(3, 4, 2, 2, 2), None, None)
    model(torch.zeros(3, 4, 2, 2, 2), None, None)
    assert counter.total == pytest.approx(1.5)


def test_only_the_few_step_sampler_draws_noise():
    few, euler = Sampler.few_step(ROLLOUT), Sampler(kind="euler", rollout=ROLLOUT, steps=2)
    assert torch.equal(sample(few, seed=0)[0], sample(few, seed=0)[0])
    assert not torch.equal(sample(few, seed=0)[0], sample(few, seed=1)[0])
    assert torch.equal(sample(euler, seed=0)[0], sample(euler, seed=1)[0])


def test_guided_steps_fit_in_the_forwards():
    assert [cut_steps(n) for n in (1, 2, 3, 4, 8)] == [1, 1, 1, 2, 4]


def test_the_stopwatch_adds_up():
    watch = Stopwatch(torch.device("cpu"))
    with watch:
        pass
    first = watch.seconds
    with watch:
        torch.rand(200, 200) @ torch.rand(200, 200)
    assert watch.seconds > first >= 0


@pytest.mark.parametrize("kind", ["few_step", "euler", "causal_euler"])
@pytest.mark.parametrize("way", ["none", "channels", "first_latent", "both"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_given_first_frame_stays_in_every_sampler(kind, way, attention):
    rollout = evolve(ROLLOUT, image_conditioning=way, attention=attention)
    noise = torch.randn(2, 4, 6, 2, 2, generator=torch.Generator().manual_seed(1))
    first = torch.full((2, 4, 1, 2, 2), 3.0)
    condition = Condition(text=torch.zeros(2, 3, 4), first_latent=first)
    latents = Sampler(kind=kind, rollout=rollout, steps=2)(Decay(), noise, condition, torch.Generator().manual_seed(0))
    assert latents.shape == noise.shape
    assert torch.equal(latents[:, :, :1], first) == (way in ("first_latent", "both"))
    assert not (latents[:, :, 1:] == 3).any()


def test_the_way_of_the_image_is_described():
    assert "image_conditioning" not in Sampler.few_step(ROLLOUT).describe()
    assert Sampler.few_step(evolve(ROLLOUT, image_conditioning="both")).describe()["image_conditioning"] == "both"
