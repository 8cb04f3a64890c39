import pytest
import torch
from point_world import MEAN, SHAPE, STD, AffineGenerator, GaussianDenoiser, make_batch, make_dmd, train

from harness.config.schema import AdamWConfig, DMDConfig, RolloutConfig
from harness.diffusion.distribution_matching import dmd_gradient
from harness.errors import HarnessError
from harness.methods import dmd as dmd_module
from harness.methods.draws import Draws
from harness.methods.long_sequence import Clip
from harness.models.condition import Condition


def shifted_levels(shift, low, high):
    """All noise levels that the score timestep can take, each as likely as the others."""
    u = torch.arange(1000, dtype=torch.float64) / 1000
    return (1000 * shift * u / (1 + (shift - 1) * u)).clamp(low, high) / 1000


def test_the_expected_gradient_is_the_analytic_score_difference():
    """The difference of x0 is sigma²/(1 − sigma) times that of the scores, in the mean over noised samples."""
    m_g, s_g, m_f, s_f, scale = -0.5, 0.8, 0.4, 0.9, 1.5
    method = make_dmd(generator_mean=m_g, critic=GaussianDenoiser(m_f, s_f), cfg_scale=scale)
    method.generator.std.data.fill_(s_g)
    batch = make_batch(100_000)
    method.loss(method(batch), batch).backward()

    sigma = shifted_levels(3.0, 20.0, 980.0)
    mean_x_t = (1 - sigma) * m_g  # of the samples of caption 1; those of −1 mirror them

    def expected_score(mean, std):
        return -(mean_x_t - (1 - sigma) * mean) / (((1 - sigma) * std) ** 2 + sigma**2)

    difference = expected_score(m_f, s_f) - expected_score(scale * MEAN, STD)
    analytic = (sigma**2 / (1 - sigma) * difference).mean().item()
    assert method.generator.mean.grad.item() == pytest.approx(analytic, rel=0.02)
    assert analytic < 0  # descending it raises the mean, toward the teacher's


def test_the_gradient_vanishes_where_the_generator_has_the_teachers_law():
    method = make_dmd(generator_mean=1.5, critic=GaussianDenoiser(1.5 * MEAN, STD), cfg_scale=1.5)
    batch = make_batch(20_000)
    method.loss(method(batch), batch).backward()
    assert abs(method.generator.mean.grad.item()) < 1e-6
    assert abs(method.generator.std.grad.item()) < 1e-6


def distance_after_training(**changes):
    method = make_dmd(**{k: v for k, v in changes.items() if k != "critic_updates"})
    train(method, updates=60, critic_updates=changes.get("critic_updates", 5))
    return abs(method.generator.mean.item() - 1.5 * MEAN), abs(method.generator.std.item() - STD)


@pytest.mark.parametrize("normalize", ["none", "sample"])
def test_a_few_dozen_updates_bring_the_generator_to_the_guided_teacher(normalize):
    mean_error, std_error = distance_after_training(normalize_gradient=normalize)
    assert mean_error < 0.15
    assert std_error < 0.25


def test_planted_faults_keep_it_away(monkeypatch):
    assert distance_after_training(cfg_scale=1.0)[0] > 0.3  # guidance forgotten
    assert distance_after_training(critic_updates=0)[0] > 0.3  # a critic that never learns
    monkeypatch.setattr(dmd_module, "dmd_gradient", lambda *args: -dmd_gradient(*args))
    assert distance_after_training()[0] > 1.0  # the wrong sign


def test_the_generators_turn_leaves_critic_and_teacher_without_gradient():
    method, batch = make_dmd(), make_batch(4)
    method.loss(method(batch), batch).backward()
    assert all(p.grad is not None for p in method.generator.parameters())
    assert all(p.grad is None for p in [*method.critic.parameters(), *method.teacher.parameters()])
    assert method.critic.calls == [(4, False)]
    assert method.teacher.calls == [(8, False)]  # both halves in one call


def test_the_critics_turn_leaves_generator_and_teacher_without_gradient():
    method, batch = make_dmd(), make_batch(4)
    method.phase = "critic"
    outputs = method(batch)
    method.loss(outputs, batch).backward()
    assert all(p.grad is not None for p in method.critic.parameters())
    assert all(p.grad is None for p in [*method.generator.parameters(), *method.teacher.parameters()])
    assert method.teacher.calls == []
    assert method.critic.calls == [(4, True)]  # conditional only
    assert outputs["metrics"]["critic_loss"] == outputs["loss"]


def test_the_critics_loss_is_flow_matching_on_the_generators_samples():
    method, batch = make_dmd(critic=GaussianDenoiser(0.3, 0.7)), make_batch(4)
    method.phase, method.draws = "critic", Draws.at(3, 5)
    loss = method(batch)["loss"]
    draws = Draws.at(3, 5)
    torch.randint(0, 1, (1,), generator=draws.shared)
    captions = batch["condition"].text.reshape(-1, 1, 1, 1, 1)
    x = -0.5 * captions + STD * torch.randn(4, *SHAPE, generator=draws.local)
    u = torch.randint(0, 1000, (4,), generator=draws.local) / 1000
    sigma = (3 * u / (1 + 2 * u)).clamp(0.02, 0.98).reshape(-1, 1, 1, 1, 1)
    noise = torch.randn(4, *SHAPE, generator=draws.local)
    (velocity,) = method.critic((1 - sigma) * x + sigma * noise, 1000 * sigma.flatten(), batch["condition"].text)
    assert loss.item() == pytest.approx((velocity - (noise - x)).square().mean().item(), rel=1e-5)


def test_the_teacher_is_frozen_for_good():
    method = make_dmd()
    method.train()
    assert method.generator.training
    assert not method.teacher.training
    assert not any(p.requires_grad for p in method.teacher.parameters())
    groups = method.parameter_groups()
    assert [group["name"] for group in groups] == ["generator", "critic"]
    listed = {id(p) for group in groups for p in group["params"]}
    assert listed == {id(p) for p in [*method.generator.parameters(), *method.critic.parameters()]}
    assert list(method.networks()) == ["generator", "critic", "teacher"]


def test_each_group_has_its_own_settings():
    method = make_dmd(
        generator_optimizer=AdamWConfig(lr=1e-3, betas=(0.0, 0.99)),
        critic_optimizer=AdamWConfig(lr=2e-3, weight_decay=0.1),
    )
    generator, critic = method.parameter_groups()
    assert (generator["lr"], generator["betas"]) == (1e-3, (0.0, 0.99))
    assert (critic["lr"], critic["weight_decay"]) == (2e-3, 0.1)


@pytest.mark.parametrize("phase", ["generator", "critic"])
def test_all_randomness_is_counted(phase):
    method, batch = make_dmd(), make_batch(4)
    method.phase = phase
    state = torch.get_rng_state()
    losses = []
    for place in (5, 6, 5):
        method.draws = Draws.at(0, place)
        losses.append(method(batch)["loss"].item())
    assert losses[0] == losses[2] != losses[1]
    assert torch.equal(state, torch.get_rng_state())


def test_the_pieces_of_a_batch_share_the_exit_step_and_nothing_else():
    rollout = RolloutConfig(attention="bidirectional", denoising_steps=(1000, 750, 500, 250))
    method, batch = make_dmd(rollout=rollout), make_batch(4)
    exits = set()
    for place in range(12):
        outputs = []
        for piece in (0, 1):
            method.draws = Draws.at(0, place, piece)
            outputs.append(method(batch))
        assert outputs[0]["metrics"]["exit_step"] == outputs[1]["metrics"]["exit_step"]
        assert outputs[0]["loss"] != outputs[1]["loss"]
        exits.add(outputs[0]["metrics"]["exit_step"].item())
    assert len(exits) > 1


def test_what_is_watched_in_a_generator_update():
    method, batch = make_dmd(critic=GaussianDenoiser(5.0)), make_batch(64)
    metrics = method(batch)["metrics"]
    assert set(metrics) == {"dmd_gradient_norm", "teacher_distance", "critic_lag", "sample_std", "exit_step"}
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
    assert metrics["critic_lag"] > 1.2  # it believes in samples far from where they are
    known = make_dmd(critic=GaussianDenoiser(-0.5))
    assert known(batch)["metrics"]["critic_lag"] < 1.0


def test_early_frames_of_a_long_rollout_are_left_out_of_the_loss():
    class Cached(AffineGenerator):
        def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict=False, **_):
            return super().forward(hidden_states, timestep, encoder_hidden_states)

    def gradient(frames, gradient_frames):
        rollout = RolloutConfig(frames_per_block=1, denoising_steps=(1000,), gradient_frames=gradient_frames)
        method = make_dmd(rollout=rollout, critic=GaussianDenoiser(0.0))
        method.generator = Cached(-0.5)
        batch = make_batch(2000) | {"latent": torch.zeros(2000, 1, frames, 1, 1)}
        method.loss(method(batch), batch).backward()
        return method.generator.mean.grad.item()

    assert gradient(frames=4, gradient_frames=2) == pytest.approx(gradient(frames=4, gradient_frames=4), rel=0.1)


def test_an_empty_range_of_timesteps_is_refused():
    with pytest.raises(HarnessError, match=r"dmd\.min_t: 990.*dmd\.max_t: 980"):
        make_dmd(min_t=990.0)


def test_the_loss_does_not_depend_on_the_clips_pixels():
    method, batch = make_dmd(), make_batch(4)
    method.draws = Draws.at(0, 1)
    first = method(batch)["loss"]
    method.draws = Draws.at(0, 1)
    assert method(batch | {"latent": torch.ones(4, *SHAPE)})["loss"] == first


def test_settings_default_to_the_references():
    config = DMDConfig(
        generator_updates=1, generator_optimizer=AdamWConfig(lr=1e-6), critic_optimizer=AdamWConfig(lr=1e-6)
    )
    assert config.cfg_scale == 4.0
    assert (config.min_t, config.max_t, config.normalize_gradient) == (20.0, 980.0, "sample")


@pytest.mark.parametrize("exit_step", ["uniform", "last"])
def test_samples_made_ahead_are_those_of_their_turn(exit_step):
    rollout = RolloutConfig(attention="bidirectional", denoising_steps=(1000, 750, 500), exit_step=exit_step)
    batches = [make_batch(4, number) for number in range(3)]

    def losses(ahead):
        method = make_dmd(rollout=rollout)
        method.phase = "critic"
        found, waiting = [], []
        for number, batch in enumerate(batches):
            method.draws = Draws.at(2, number)
            if ahead and number == 0:
                method.upcoming = [
                    (later["latent"], later["condition"], Draws.at(2, n)) for n, later in enumerate(batches) if n > 0
                ]
            outputs = method(batch)
            method.upcoming = ()
            waiting.append(len(method.made))
            found.append((outputs["loss"].item(), outputs["metrics"]["exit_step"].item()))
        return found, waiting

    separate, none = losses(ahead=False)
    together, waiting = losses(ahead=True)
    assert none == [0, 0, 0]
    assert waiting == [2, 1, 0]
    assert [exits for _, exits in together] == [exits for _, exits in separate]
    assert [loss for loss, _ in together] == pytest.approx([loss for loss, _ in separate], rel=1e-5)
    assert len({loss for loss, _ in separate}) == 3


class EndOf:
    """A sequence whose clips are given: recognisable carried frames, then new ones from the generator."""

    made = 7

    def __init__(self, new_from, gradient_from=None, frames=4):
        self.new_from, self.frames = new_from, frames
        self.gradient_from = new_from if gradient_from is None else gradient_from
        self.condition = Condition(text=torch.ones(3, 1, 1))

    def extend(self, generator, like, condition, draws):
        noise = draws.noise_like(like.expand(-1, -1, self.frames, -1, -1))
        (velocity,) = generator(noise, torch.full((3,), 1000.0), self.condition.text)
        x = noise - velocity
        carried = torch.full_like(x[:, :, : self.new_from], 5.0)
        x = torch.cat([carried, x[:, :, self.new_from :]], dim=2)
        self.x, self.calls = x, [*getattr(self, "calls", []), torch.is_grad_enabled()]
        return Clip(
            x=x, condition=self.condition, exit_steps=[0], new_from=self.new_from, gradient_from=self.gradient_from
        )


class Seen(GaussianDenoiser):
    """Keeps what it was asked."""

    def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict=False):
        self.asked = hidden_states, timestep, encoder_hidden_states
        return super().forward(hidden_states, timestep, encoder_hidden_states)


@pytest.mark.parametrize(("new_from", "gradient_from"), [(2, 2), (1, 3), (0, 0)])
@pytest.mark.parametrize("normalize", ["none", "sample"])
def test_in_long_tuning_the_teacher_sees_the_whole_clip_and_judges_the_new_frames(new_from, gradient_from, normalize):
    method = make_dmd(critic=Seen(0.3, 0.7), normalize_gradient=normalize)
    method.sequence = sequence = EndOf(new_from, gradient_from)
    batch = {"latent": torch.zeros(3, 1, 4, 1, 1), "condition": Condition(text=-torch.ones(3, 1, 1))}
    outputs = method(batch)
    assert sequence.calls == [True]
    x_t, t, text = method.critic.asked
    assert x_t.shape == (3, 1, 4, 1, 1)
    assert torch.equal(text, torch.ones(3, 1, 1)), "the prompt of the new frames, not the batch's"
    sequence.x.retain_grad()
    outputs["loss"].backward()
    sigma = (t / 1000).reshape(-1, 1, 1, 1, 1)
    with torch.no_grad():
        fake = x_t - sigma * method.critic(x_t, t, text)[0]
        real = x_t - sigma * (1.5 * method.teacher(x_t, t, text)[0] - 0.5 * method.teacher(x_t, t, 0 * text)[0])
        new = slice(new_from, None)
        expected = dmd_gradient(sequence.x[:, :, new], fake[:, :, new], real[:, :, new], normalize, 3)
    expected = expected[:, :, gradient_from - new_from :]
    assert torch.allclose(sequence.x.grad[:, :, gradient_from:], expected / expected.numel(), rtol=1e-4, atol=1e-7)
    assert not sequence.x.grad[:, :, :gradient_from].any()
    assert outputs["metrics"]["sequence_frames"] == 7
    assert outputs["metrics"]["sample_std"] == sequence.x[:, :, new_from:].std()


def test_in_long_tuning_the_critic_learns_the_whole_clip_under_its_prompt():
    method = make_dmd(critic=Seen(0.3, 0.7))
    method.phase, method.draws = "critic", Draws.at(3, 5)
    method.sequence = sequence = EndOf(2)
    like = torch.zeros(3, 1, 4, 1, 1)
    outputs = method({"latent": like, "condition": Condition(text=-torch.ones(3, 1, 1))})
    assert sequence.calls == [False]
    draws = Draws.at(3, 5)
    draws.noise_like(like)
    u = draws.integers(1000, 3) / 1000
    sigma = (3 * u / (1 + 2 * u)).clamp(0.02, 0.98).reshape(-1, 1, 1, 1, 1)
    noise = draws.noise_like(like)
    x_t, t, text = method.critic.asked
    assert torch.allclose(x_t, (1 - sigma) * sequence.x + sigma * noise, atol=1e-6)
    assert torch.equal(text, torch.ones(3, 1, 1))
    (velocity,) = method.critic(x_t, t, text)
    assert outputs["loss"].item() == pytest.approx((velocity - (noise - sequence.x)).square().mean().item(), rel=1e-5)
    assert outputs["metrics"]["sequence_frames"] == 7


def test_a_run_on_clips_has_no_sequence_to_watch():
    method = make_dmd()
    assert method.sequence is None
    assert "sequence_frames" not in method(make_batch(4))["metrics"]
