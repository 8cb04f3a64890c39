import pytest
import torch
from attrs import evolve

from harness.planning.compute import work_of_pass
from harness.planning.rehearsal import ACTIVATIONS, CACHE, CASTS, GRADIENTS, PROMPT, extrapolate, make_batch, rehearse


def total(parts):
    return sum(parts.values())


@pytest.mark.parametrize(
    ("method", "phase", "settings", "layers"),
    [
        ("sft", "generator", (), (7,)),
        ("causal_sft", "generator", ("parallelism.activation_checkpointing=true",), (6,)),
        pytest.param("dmd", "generator", ("rollout.window=4",), (7, 7, 7), marks=pytest.mark.slow),
        ("dmd", "critic", ("parallelism.activation_checkpointing=true",), (5, 4, 4)),
        pytest.param(
            "dmd", "generator", ("parallelism.activation_checkpointing=true",), (5, 7, 7), marks=pytest.mark.slow
        ),
    ],
)
def test_short_rehearsals_give_the_numbers_of_the_whole_one(small, method, phase, settings, layers):
    scene = small(method, *settings, layers=layers)
    whole = max(rehearse(scene, phase).values(), key=lambda peak: peak.total)
    assert total(extrapolate(scene, phase)) == pytest.approx(whole.total, rel=1e-4)


def test_parts_are_named(small):
    scene = small("dmd", layers=(2, 2, 2))
    windows = rehearse(scene, "generator")
    seen = {label for peak in windows.values() for label in peak.parts}
    assert {CACHE, PROMPT, ACTIVATIONS} <= seen
    cache = max(peak.parts.get(CACHE, 0) for peak in windows.values())
    tokens = 3 * scene.networks[0][1].tokens_per_frame(scene.height, scene.width)  # one block is kept: the last is not
    assert cache >= scene.microbatch * tokens * scene.networks[0][1].dim * 2 * 4 * 2  # keys and values of two layers


def test_gradients_are_there_from_the_start_with_microbatches_and_sharded(small):
    one = rehearse(small("sft"), "generator")
    four = rehearse(small("sft", "parallelism.device_microbatch_size=1"), "generator")
    assert GRADIENTS not in next(iter(one.values())).parts
    whole = next(iter(four.values())).parts[GRADIENTS]
    sharded = small("sft", "parallelism.device_microbatch_size=1", "parallelism.kind=fsdp2", world_size=2)
    assert next(iter(rehearse(sharded, "generator").values())).parts[GRADIENTS] == pytest.approx(whole / 2, rel=1e-3)


def highest(scene, phase):
    return total(extrapolate(scene, phase))


def test_settings_have_their_effect(small):
    base = highest(small("causal_sft"), "generator")
    assert highest(small("causal_sft", "parallelism.activation_checkpointing=true"), "generator") < 0.8 * base
    assert highest(small("causal_sft", "parallelism.device_microbatch_size=1"), "generator") < 0.6 * base


def test_a_window_bounds_the_cache(small):
    windows = [
        rehearse(small("dmd", *window, frames=12, layers=(2, 2, 2)), "critic") for window in ((), ("rollout.window=6",))
    ]
    whole, cut = (max(peak.parts.get(CACHE, 0) for peak in peaks.values()) for peaks in windows)
    assert 0 < cut < 0.8 * whole


def test_rollouts_ahead_hold_a_cache_for_each(small):
    settings = ("dmd.critic_updates_per_generator_update=4", "parallelism.activation_checkpointing=true")
    alone = rehearse(small("dmd", *settings, frames=12, batch=1), "critic")
    ahead = rehearse(small("dmd", *settings, "dmd.rollouts_ahead=true", frames=12, batch=1), "critic")
    caches = [max(peak.parts.get(CACHE, 0) for peak in windows.values()) for windows in (alone, ahead)]
    assert caches[1] == pytest.approx(4 * caches[0], rel=1e-3)


def test_bf16_halves_activations_and_keeps_no_layers_casts_to_the_end(small):
    single, half = (rehearse(small("sft", *s, layers=(2,)), "generator") for s in ((), ("precision=bf16",)))
    activations = [max(peak.parts.get(ACTIVATIONS, 0) for peak in windows.values()) for windows in (single, half)]
    assert activations[1] < 0.8 * activations[0]
    settings = ("precision=bf16", "parallelism.activation_checkpointing=true")
    held = []
    for layers in (2, 3):
        windows = rehearse(small("sft", *settings, layers=(layers,)), "generator")
        held.append(max(peak.parts.get(CASTS, 0) for window, peak in windows.items() if window.stage == "after"))
    assert held[0] == held[1]  # what is left belongs to no layer


def test_a_batch_has_what_the_networks_read(small):
    batch = make_batch(small("sft"), 3, device="cpu")
    assert batch["latent"].shape == (3, 16, 6, 4, 4)
    assert batch["condition"].text.shape == (3, 5, 8)
    assert batch["condition"].y is None
    assert batch["condition"].unconditional_text.shape[0] == 1
    assert not torch.equal(batch["condition"].text, torch.zeros(3, 5, 8))


def image_scene(small, way, attention="causal", method="dmd"):
    """Text-to-video generator where it is only given the first frame; critic and teacher read the image."""
    scene = small(method, f"rollout.image_conditioning={way}", f"rollout.attention={attention}", layers=(1, 1, 1))
    reads = {"in_channels": 36, "image_dim": 6, "added_kv_proj_dim": 24}
    networks = tuple(
        (role, shape if role == "generator" and way == "first_latent" else evolve(shape, **reads))
        for role, shape in scene.networks
    )
    return evolve(scene, networks=networks, image_tokens=7)


def test_a_batch_with_an_image(small):
    condition = make_batch(image_scene(small, "first_latent"), 3, device="cpu")["condition"]
    assert condition.image_tokens.shape == (3, 7, 6)
    assert condition.y.shape == (3, 20, 6, 4, 4)
    assert condition.first_latent.shape == (3, 16, 1, 4, 4)
    assert condition.positions is None
    scene = small("sft")
    positions = evolve(scene, networks=(("generator", evolve(scene.networks[0][1], in_channels=21)),))
    condition = make_batch(positions, 3, device="cpu")["condition"]
    assert condition.positions.shape == (3, 5, 6, 4, 4)
    assert (condition.y, condition.image_tokens, condition.first_latent) == (None, None, None)


@pytest.mark.parametrize("way", ["channels", "first_latent", "both"])
@pytest.mark.parametrize(("method", "attention"), [("dmd", "causal"), ("dmd", "bidirectional"), ("sft", "causal")])
def test_image_to_video_is_rehearsed_and_counted(small, way, method, attention):
    scene = image_scene(small, way, attention, method)
    assert rehearse(scene, "generator")
    work = work_of_pass(scene, "generator", 1)
    blocks = 2 if (method, attention) == ("dmd", "causal") else 1  # of 3 frames: of 6, or of 5 after a given one
    assert work["generator", "with gradient"].calls == blocks
    if (method, attention) == ("dmd", "causal"):
        assert work["generator", "to fill the cache"].calls == blocks - 1 + (way != "channels")
