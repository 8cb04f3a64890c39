"""CausalWan against references that share none of its shortcuts: dense masks, the stock class, recomputation."""

import itertools
import math

import numpy as np
import pytest
import torch
from attrs import evolve
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from wan_helpers import (
    SMALL,
    SMALL_I2V,
    cached_rollout,
    randomize,
    relative_error,
    small_condition,
    small_latent,
    small_wan,
)

from harness.models.attention import CrossAttentionProcessor, block_bounds
from harness.models.attention_backend import set_backend
from harness.models.block import Layout
from harness.models.causal_wan import CausalWan, time_sinusoid
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.models.rotary import rotary_table, rotate

TOLERANCE = 1e-5
FEW = settings(max_examples=12, deadline=None, derandomize=True)
T = torch.tensor([900.0, 300.0])


class DenseWan(CausalWan):
    """The same weights over [clean ‖ noisy] with one dense mask that says, frame by frame, who sees whom."""

    visible: torch.Tensor  # bool [2F, 2F]

    def _layout(self, x, *_):
        frames, tokens = x.shape[2] // 2, (x.shape[3] // 2) * (x.shape[4] // 2)
        table = rotary_table(self.config.attention_head_dim, 0, frames, x.shape[3] // 2, x.shape[4] // 2, x.device)
        mask = self.visible.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)[None, None]
        return Layout(torch.cat([table, table]), pattern=lambda q, k, v, attend: attend(q, k, v, attn_mask=mask)), 0


def visible_frames(bounds, window=-1, sink=0):
    """Noisy block: itself and the clean frames its window leaves; clean block: the same. From the definition."""
    frames = bounds[-1][1]
    visible = torch.zeros(2 * frames, 2 * frames, dtype=torch.bool)
    for start, end in bounds:
        for past in range(start):
            everything = window == -1 or end <= window
            if everything or past < sink or past >= start - (window - sink - (end - start)):
                visible[start:end, past] = visible[frames + start : frames + end, past] = True
        visible[start:end, start:end] = visible[frames + start : frames + end, frames + start : frames + end] = True
    return visible


def dense_velocity(model, clean, noisy, t, condition, visible):
    """Velocity of the noisy half at `t` `[B]` or `[B, F]`, the clean half at t = 0, in one masked pass."""
    dense = DenseWan(**{k: v for k, v in model.config.items() if not k.startswith("_")})
    dense.load_state_dict(model.state_dict())
    dense.visible = visible
    t = t if t.ndim == 2 else t[:, None].expand(-1, noisy.shape[2])
    y = None if condition.y is None else torch.cat([condition.y, condition.y], dim=2)
    twice = Condition(text=condition.text, image_tokens=condition.image_tokens, y=y)
    both = torch.cat([torch.zeros_like(t), t], dim=1)
    return predict_velocity(dense, torch.cat([clean, noisy], dim=2), both, twice)[:, :, noisy.shape[2] :]


def grown(bounds_sizes):
    """Bounds from a list of block sizes."""
    edges = [0, *itertools.accumulate(bounds_sizes)]
    return tuple(itertools.pairwise(edges))


block_sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
resolutions = st.sampled_from([(2, 2), (2, 4), (4, 6)])


@FEW
@given(
    sizes=block_sizes,
    sink=st.integers(0, 3),
    extra=st.integers(1, 6),
    unlimited=st.booleans(),
    i2v=st.booleans(),
    batch=st.integers(1, 3),
    size=resolutions,
)
def test_cached_rollout_equals_one_masked_pass(sizes, sink, extra, unlimited, i2v, batch, size):
    """Cached = masked for any frame count, block sizes (the first of its own, the last shorter), window, sink, batch
    and resolution; non-zero text with cross-attention on; text or image to video. The buffered cache changes no bit.
    """
    bounds, window = grown(sizes), -1 if unlimited else sink + extra
    frames = bounds[-1][1]
    model = small_wan(**(SMALL_I2V if i2v else SMALL))
    condition = small_condition(batch, frames=frames if i2v else None, size=size)
    clean, noisy = (small_latent(frames, batch, seed, size) for seed in (3, 4))
    t, buffer_frames = torch.linspace(900, 300, batch), frames if unlimited else max(window, sink + max(sizes))
    with torch.no_grad():
        cached = cached_rollout(model, clean, noisy, t, bounds, condition, KVCache(window, sink))
        buffered_cache = KVCache(window, sink, buffer_frames=buffer_frames)
        buffered = cached_rollout(model, clean, noisy, t, bounds, condition, buffered_cache)
        masked = dense_velocity(model, clean, noisy, t, condition, visible_frames(bounds, window, sink))
    assert relative_error(cached, masked) < TOLERANCE
    assert torch.equal(cached, buffered)


class CountedWan(CausalWan):
    """The same weights over [clean ‖ noisy], block by block: exactly the visible frames, and positions among them."""

    bounds: tuple
    visible: torch.Tensor  # bool [2F, 2F]

    def _layout(self, x, *_):
        frames, rows, columns = x.shape[2] // 2, x.shape[3] // 2, x.shape[4] // 2
        tokens, head_dim = rows * columns, self.config.attention_head_dim

        def pattern(query, key, value, attend):
            pieces = []
            for half in (0, frames):
                for start, end in self.bounds:
                    seen = self.visible[half + start].nonzero().flatten()
                    table = rotary_table(head_dim, 0, len(seen), rows, columns, x.device)
                    places = (seen[:, None] * tokens + torch.arange(tokens)).flatten()
                    own = slice((half + start) * tokens, (half + end) * tokens)
                    current = table[-(end - start) * tokens :]
                    pieces.append(
                        attend(rotate(query[:, own], current), rotate(key[:, places], table), value[:, places])
                    )
            return torch.cat(pieces, dim=1)

        unrotated = torch.ones(2 * frames * tokens, 1, head_dim // 2, dtype=torch.complex64)
        return Layout(unrotated, pattern=pattern), 0


@FEW
@given(sizes=block_sizes, sink=st.integers(0, 3), extra=st.integers(1, 6), unlimited=st.booleans(), i2v=st.booleans())
def test_positions_in_the_window_are_places_among_the_visible_frames(sizes, sink, extra, unlimited, i2v):
    """Against attention recomputed over exactly these frames, with every key rotated anew for each block that sees it;
    text, image tokens and `y`, uneven blocks, a batch of two.
    """
    bounds, window = grown(sizes), -1 if unlimited else sink + extra
    frames, kind = bounds[-1][1], SMALL_I2V if i2v else SMALL
    condition = small_condition(frames=frames if i2v else None)
    clean, noisy = small_latent(frames, seed=3), small_latent(frames, seed=4)
    counted = small_wan(CountedWan, **kind)
    counted.bounds, counted.visible = bounds, visible_frames(bounds, window, sink)
    y = None if condition.y is None else torch.cat([condition.y, condition.y], dim=2)
    t = torch.cat([torch.zeros(2, frames), T[:, None].expand(2, frames)], dim=1)
    with torch.no_grad():
        cached = cached_rollout(
            small_wan(**kind), clean, noisy, T, bounds, condition, KVCache(window, sink, "relative")
        )
        both = predict_velocity(counted, torch.cat([clean, noisy], dim=2), t, evolve(condition, y=y))
    assert relative_error(cached, both[:, :, frames:]) < TOLERANCE


@pytest.mark.parametrize("rope", ["absolute", "relative"])
def test_a_buffered_past_is_read_without_a_copy(rope):
    """Keys and values stay in one place over a long video, and many passes over a block give what one gives."""
    model, condition, x, bounds = small_wan(), small_condition(), small_latent(40), grown([2] * 20)
    caches = [KVCache(7, 2, rope), KVCache(7, 2, rope, buffer_frames=7)]
    with torch.no_grad():
        for start, end in bounds:
            outputs = []
            for cache in caches:
                arguments = {"cache": cache, "frame_offset": start}
                passes = [predict_velocity(model, x[:, :, start:end], T, condition, **arguments) for _ in range(2)]
                assert torch.equal(*passes)
                outputs.append(passes[0])
                predict_velocity(model, passes[0], torch.zeros(2), condition, write_cache=True, **arguments)
            assert torch.equal(*outputs)
            past = caches[1].past(0, 2)
            assert past.keys[0].data_ptr() == caches[1]._store.layers[0][0].data_ptr()
            assert past.join(past.keys[0][:, :4], past.values[0][:, :4])[0].data_ptr() == past.keys[0].data_ptr()


@FEW
@given(frames=st.integers(1, 9), first=st.integers(1, 3), rest=st.integers(1, 4), i2v=st.booleans(), size=resolutions)
def test_teacher_forcing_equals_one_masked_pass(frames, first, rest, i2v, size):
    """[clean ‖ noisy] at any frame count and resolution, the first block of its own size, the last shorter."""
    model = small_wan(**(SMALL_I2V if i2v else SMALL))
    condition = small_condition(frames=frames if i2v else None, size=size)
    clean, noisy = small_latent(frames, seed=3, size=size), small_latent(frames, seed=4, size=size)
    t = torch.rand(2, frames, generator=torch.Generator().manual_seed(0)) * 1000
    with torch.no_grad():
        actual = predict_velocity(model, noisy, t, condition, clean=clean, frames_per_block=(first, rest))
        bounds = block_bounds(frames, (first, rest))
        expected = dense_velocity(model, clean, noisy, t, condition, visible_frames(bounds))
    assert relative_error(actual, expected) < TOLERANCE


@FEW
@given(frames=st.integers(1, 9), first=st.integers(1, 10), rest=st.integers(1, 4))
def test_diffusion_forcing_equals_a_rollout_that_commits_its_noisy_blocks(frames, first, rest):
    """Block-causal attention with a timestep per frame = cached, the first block of its own size, the last shorter."""
    size = (first, rest)
    model, condition = small_wan(), small_condition()
    x, t = small_latent(frames), torch.rand(2, frames, generator=torch.Generator().manual_seed(0)) * 1000
    cache, blocks = KVCache(), []
    with torch.no_grad():
        masked = predict_velocity(model, x, t, condition, frames_per_block=size)
        for start, end in block_bounds(frames, size):
            block, block_t = x[:, :, start:end], t[:, start:end]
            arguments = {"cache": cache, "frame_offset": start}
            blocks.append(predict_velocity(model, block, block_t, condition, **arguments))
            predict_velocity(model, block, block_t, condition, write_cache=True, **arguments)
    assert relative_error(torch.cat(blocks, dim=2), masked) < TOLERANCE


def test_a_clean_timestep_noises_the_context():
    model, condition, x = small_wan(), small_condition(), small_latent(6)
    arguments = {"clean": small_latent(6, seed=5), "frames_per_block": 3}
    with torch.no_grad():
        default = predict_velocity(model, x, T, condition, **arguments)
        zero = predict_velocity(model, x, T, condition, clean_t=torch.zeros(2, 6), **arguments)
        noised = predict_velocity(model, x, T, condition, clean_t=torch.full((2,), 100.0), **arguments)
    assert torch.equal(default, zero)
    assert torch.equal(default[:, :, :3], noised[:, :, :3])
    assert relative_error(noised[:, :, 3:], default[:, :, 3:]) > 1e-3


class SwitchingText(CrossAttentionProcessor):
    """Cross-attention to two prompts side by side: tokens of the first frames read one, the others the other."""

    def __init__(self, first_tokens):
        self.first = first_tokens  # bool [N]

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None, **_):
        texts = encoder_hidden_states.chunk(2, dim=1)
        outputs = [super(SwitchingText, self).__call__(attn, hidden_states, text)[0] for text in texts]
        return torch.where(self.first[None, :, None], *outputs), ()


@FEW
@given(
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    where=st.floats(0.01, 1.0),
    sink=st.integers(0, 2),
    extra=st.integers(1, 5),
    unlimited=st.booleans(),
    batch=st.integers(1, 2),
)
def test_prompt_switched_midway(sizes, where, sink, extra, unlimited, batch):
    """Cached = masked when the prompt changes at any block: what the first one left in the cache is kept, its
    cross-attention keys are not.
    """
    bounds, window = grown(sizes), -1 if unlimited else sink + extra
    frames, model = bounds[-1][1], small_wan()
    switch = bounds[math.ceil(where * (len(bounds) - 1))][0]
    first, second = small_condition(batch, seed=1, length=5), small_condition(batch, seed=7, length=5)
    clean, noisy = small_latent(frames, batch, seed=3), small_latent(frames, batch, seed=4)
    before = torch.arange(frames) < switch
    dense = small_wan(DenseWan)
    dense.visible = visible_frames(bounds, window, sink)
    for block in dense.blocks:
        block.attn2.set_processor(SwitchingText(torch.cat([before, before]).repeat_interleave(2)))
    both = Condition(text=torch.cat([first.text, second.text], dim=1))
    noisy_t = torch.linspace(900, 300, batch)
    t = torch.cat([torch.zeros(batch, frames), noisy_t[:, None].expand(batch, frames)], dim=1)
    with torch.no_grad():
        expected = predict_velocity(dense, torch.cat([clean, noisy], 2), t, both)[:, :, frames:]
        cache = KVCache(window, sink)
        switched = cached_rollout(model, clean, noisy, noisy_t, bounds, first, cache, switch=(switch, second))
        unswitched = cached_rollout(model, clean, noisy, noisy_t, bounds, first, KVCache(window, sink))
    assert relative_error(switched, expected) < TOLERANCE
    assert relative_error(unswitched[:, :, switch:], expected[:, :, switch:]) > 1e-2


@pytest.mark.parametrize("i2v", [False, True])
@pytest.mark.parametrize("mode", ["bidirectional", "one_block", "first_block_with_cache"])
def test_one_block_of_all_frames_is_the_stock_network(i2v, mode):
    """Given the float64 time sinusoid; text of 512 positions, which the stock class wants for image to video."""
    geometry = SMALL_I2V if i2v else SMALL
    model, stock = small_wan(**geometry), WanTransformer3DModel(**geometry)
    stock.load_state_dict(model.state_dict(), strict=True)
    stock.condition_embedder.timesteps_proj.forward = lambda t: time_sinusoid(t, SMALL["freq_dim"])
    condition, x = small_condition(frames=5 if i2v else None, length=512), small_latent(5)
    modes = {"one_block": {"frames_per_block": 5}, "first_block_with_cache": {"cache": KVCache()}}
    with torch.no_grad():
        expected = predict_velocity(stock, x, T, condition)
        actual = predict_velocity(model, x, T, condition, **modes.get(mode, {}))
    assert relative_error(actual, expected) < 4e-6


def _written_out(x, table):
    """The rotation in real numbers, every product and sum rounded on its own."""
    (a, b), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), torch.view_as_real(table).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


@pytest.mark.parametrize("i2v", [False, True])
def test_but_for_fused_rounding_one_block_is_the_stock_network_bit_for_bit(i2v, monkeypatch):
    """With one block = all frames the output equals stock `WanTransformer3DModel` exactly. We multiply and add in one
    step where the stock class rounds in between, and count the padding once: with neither, no bit differs.
    """
    monkeypatch.setattr(torch, "addcmul", lambda a, b, c: b * c + a)
    monkeypatch.setattr("harness.models.attention.rotate", _written_out)
    geometry = SMALL_I2V if i2v else SMALL
    model, stock = small_wan(**geometry), WanTransformer3DModel(**geometry)
    stock.load_state_dict(model.state_dict(), strict=True)
    stock.condition_embedder.timesteps_proj.forward = lambda t: time_sinusoid(t, SMALL["freq_dim"])
    text = torch.randn(2, 512, SMALL["text_dim"], generator=torch.Generator().manual_seed(0))
    condition, x = evolve(small_condition(frames=5 if i2v else None), text=text), small_latent(5)
    with torch.no_grad():
        expected = predict_velocity(stock, x, T, condition)
        assert torch.equal(predict_velocity(model, x, T, condition), expected)
        assert torch.equal(predict_velocity(model, x, T, condition, frames_per_block=5), expected)
        assert torch.equal(predict_velocity(model, x, T, condition, cache=KVCache()), expected)


@pytest.mark.parametrize("mode", [{}, {"frames_per_block": 5}, {"cache": None}])
def test_a_timestep_per_frame_is_the_stock_network_with_one_per_token(mode):
    """Wan2.2-TI2V-5B in image to video: the tokens of the first frame are at t = 0, all others at t."""
    model, stock = small_wan(), WanTransformer3DModel(**SMALL)
    stock.load_state_dict(model.state_dict(), strict=True)
    stock.condition_embedder.timesteps_proj.forward = lambda t: time_sinusoid(t, SMALL["freq_dim"])
    x, condition, t = small_latent(5), small_condition(length=512), T[:, None].repeat(1, 5)
    t[:, 0] = 0.0
    mode = {"cache": KVCache()} if "cache" in mode else mode
    with torch.no_grad():
        expected = predict_velocity(stock, x, t.repeat_interleave(2, dim=1), condition)
        actual = predict_velocity(model, x, t, condition, **mode)
        without = predict_velocity(model, x, T, condition, **mode)
    assert relative_error(actual, expected) < 4e-6
    assert relative_error(without, expected) > 1e-2


def test_gradients_are_those_of_the_stock_network():
    model, stock = small_wan(), WanTransformer3DModel(**SMALL)
    stock.load_state_dict(model.state_dict())
    stock.condition_embedder.timesteps_proj.forward = lambda t: time_sinusoid(t, SMALL["freq_dim"])
    for network in (model, stock):
        predict_velocity(network, small_latent(3), T, small_condition(length=64)).square().sum().backward()
    expected = dict(stock.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4), name


def test_time_sinusoid_is_float64_inside():
    t = np.array([1000.0, 937.5, 0.25])
    angles = t[:, None] * 10000.0 ** (-np.arange(128) / 128)
    exact = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert np.abs(time_sinusoid(torch.tensor(t, dtype=torch.float32), 256).numpy() - exact).max() < 1e-7


@pytest.mark.parametrize("mode", ["bidirectional", "diffusion_forcing", "teacher_forcing", "rollout"])
def test_every_condition_changes_the_output(mode):
    frames = 4
    model, x = small_wan(**SMALL_I2V), small_latent(frames)
    base, other = small_condition(frames=frames), small_condition(frames=frames, seed=9)

    def velocity(condition):
        if mode == "rollout":
            return cached_rollout(model, x, x, T, grown([2, 2]), condition, KVCache())
        arguments = {
            "bidirectional": {},
            "diffusion_forcing": {"frames_per_block": 2},
            "teacher_forcing": {"frames_per_block": 2, "clean": x},
        }
        return predict_velocity(model, x, T, condition, **arguments[mode])

    with torch.no_grad():
        reference = velocity(base)
        for name in ("text", "image_tokens", "y"):
            parts = {n: getattr(base, n) for n in ("text", "image_tokens", "y")} | {name: getattr(other, name)}
            changed = velocity(Condition(**parts))
            for block in (slice(0, 2), slice(2, 4)):
                assert relative_error(changed[:, :, block], reference[:, :, block]) > 1e-3, name


def _training_rollout(model, cache=None, backward_block=1, commit_last=False):
    """Exit pass and commit of three blocks of two frames; the gradients of one block's output, or of all."""
    condition, noise, cache = small_condition(), small_latent(6), cache or KVCache(window=5, sink=1)
    model.zero_grad()
    outputs = []
    for start, end in grown([2, 2, 2]):
        x0 = predict_velocity(model, noise[:, :, start:end], T, condition, cache=cache, frame_offset=start)
        outputs.append(x0)
        if end < 6 or commit_last:
            with torch.no_grad():
                zero = torch.zeros(2)
                predict_velocity(model, x0, zero, condition, cache=cache, frame_offset=start, write_cache=True)
    target = outputs[backward_block] if backward_block is not None else torch.cat(outputs, dim=2)
    target.square().sum().backward()
    return outputs, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_no_gradient_flows_through_the_cache_by_default():
    """The gradient of block 1 is that of a lone pass over a constant cache."""
    model, condition, noise = small_wan(), small_condition(), small_latent(6)
    outputs, gradients = _training_rollout(model)
    cache = KVCache(window=5, sink=1)
    with torch.no_grad():
        predict_velocity(model, outputs[0], torch.zeros(2), condition, cache=cache, write_cache=True)
    model.zero_grad()
    predict_velocity(model, noise[:, :, 2:4], T, condition, cache=cache, frame_offset=2).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]), name
    past = cache.past(0, 2)
    assert past.keys
    assert not any(x.requires_grad for x in (*past.keys, *past.values))


def test_straight_through_sends_the_cache_gradient_to_the_exit_pass():
    """The reference, by hand: gradient with respect to the cached tensors, pulled back through the exit pass's K/V."""
    model, condition, noise = small_wan(), small_condition(), small_latent(4)
    first, second = noise[:, :, :2], noise[:, :, 2:]
    zero = torch.zeros(2)

    def gradients(cache):
        """Of the second block's loss, with the first one committed between."""
        model.zero_grad()
        x0 = predict_velocity(model, first, T, condition, cache=cache)
        with torch.no_grad():
            predict_velocity(model, x0, zero, condition, cache=cache, write_cache=True)
        output = predict_velocity(model, second, T, condition, cache=cache, frame_offset=2)
        output.square().sum().backward()
        return output.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    value, plain = gradients(KVCache())
    same_value, leaking = gradients(KVCache(kv_grad="straight_through"))
    assert relative_error(same_value, value) < TOLERANCE

    captured = KVCache(kv_grad="straight_through")
    x0 = predict_velocity(model, first, T, condition, cache=captured)
    exit_tensors = [x for pair in captured._pending.key_values for x in pair]
    cache = KVCache()
    with torch.no_grad():
        predict_velocity(model, x0, zero, condition, cache=cache, write_cache=True)
    leaves = [x.requires_grad_() for pair in cache._store.pieces[0].key_values for x in pair]
    loss = predict_velocity(model, second, T, condition, cache=cache, frame_offset=2).square().sum()
    at_cache = torch.autograd.grad(loss, leaves)
    parameters = dict(model.named_parameters())
    pulled = torch.autograd.grad(exit_tensors, list(parameters.values()), at_cache, allow_unused=True)
    for name, extra in zip(parameters, pulled):
        expected = plain[name] if extra is None else plain[name] + extra
        assert torch.allclose(leaking[name], expected, rtol=1e-4, atol=1e-4), name
    assert not torch.allclose(plain["blocks.0.attn1.to_k.weight"], leaking["blocks.0.attn1.to_k.weight"], rtol=1e-2)


@pytest.mark.parametrize("kv_grad", ["detach", "straight_through"])
@pytest.mark.parametrize("backward_block", [None, 1])
def test_activation_checkpointing_changes_no_bit(kv_grad, backward_block):
    model = small_wan()
    _, expected = _training_rollout(model, KVCache(5, 1, kv_grad=kv_grad), backward_block)
    model.enable_gradient_checkpointing()
    _, actual = _training_rollout(model, KVCache(5, 1, kv_grad=kv_grad), backward_block)
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, actual[name]), name


@pytest.mark.parametrize(
    ("window", "sink", "rope"),
    [(-1, 0, "absolute"), (2, 0, "absolute"), (4, 1, "relative"), (5, 1, "absolute"), (7, 3, "relative")],
)
def test_gradients_are_bitwise_equal_however_the_past_is_kept(window, sink, rope):
    """Gradients are bitwise equal with gradient checkpointing on and off, with chunked and preallocated cache, for any
    window, and with the last commit skipped.
    """
    model, expected = small_wan(), None
    for checkpointing, buffer_frames, commit_last in (
        (False, None, True),
        (False, 7, False),
        (True, None, False),
        (True, 7, True),
    ):
        (model.enable_gradient_checkpointing if checkpointing else model.disable_gradient_checkpointing)()
        cache = KVCache(window, sink, rope, buffer_frames=buffer_frames)
        outputs, gradients = _training_rollout(model, cache, None, commit_last)
        if expected is None:
            expected = outputs, gradients
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected[0], strict=True))
        assert gradients.keys() == expected[1].keys() == dict(model.named_parameters()).keys()
        for name, gradient in gradients.items():
            assert torch.equal(gradient, expected[1][name]), name


def test_activation_checkpointing_changes_no_bit_in_teacher_forcing():
    model, gradients = small_wan(), []
    for _ in range(2):
        model.zero_grad()
        arguments = {"clean": small_latent(5, seed=8), "frames_per_block": 2}
        predict_velocity(model, small_latent(5), T, small_condition(), **arguments).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.enable_gradient_checkpointing()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_the_text_gets_gradient_although_a_pass_without_one_came_first():
    model, condition, x, cache = small_wan(), small_condition(), small_latent(2), KVCache()
    with torch.no_grad():
        predict_velocity(model, x, T, condition, cache=cache)
    predict_velocity(model, x, T, condition, cache=cache).square().sum().backward()
    assert float(model.blocks[0].attn2.to_k.weight.grad.abs().max()) > 0
    assert float(model.condition_embedder.text_embedder.linear_1.weight.grad.abs().max()) > 0


def test_changed_weights_are_noticed_by_a_carried_cache():
    """The prompt's keys and values in the cache belong to the weights that made them."""
    model, condition, x, cache = small_wan(), small_condition(), small_latent(2), KVCache()
    with torch.no_grad():
        predict_velocity(model, x, T, condition, cache=cache)
        randomize(model)
        assert torch.equal(
            predict_velocity(model, x, T, condition, cache=cache), predict_velocity(model, x, T, condition)
        )


@pytest.mark.parametrize("name", ["to_k.bias", "to_v.weight", "norm_q.weight"])
def test_a_change_of_any_part_of_the_layer_is_noticed(name):
    """As when adapters are trained beside frozen weights."""
    model, condition, x, cache = small_wan(), small_condition(), small_latent(2), KVCache()
    with torch.no_grad():
        predict_velocity(model, x, T, condition, cache=cache)
        model.blocks[0].attn2.get_parameter(name).mul_(1.5).add_(0.1)
        assert torch.equal(
            predict_velocity(model, x, T, condition, cache=cache), predict_velocity(model, x, T, condition)
        )


def test_a_commit_pass_has_no_output_to_mistake_for_one():
    model, x = small_wan(), small_latent(2)
    with torch.no_grad():
        result = predict_velocity(model, x, T, small_condition(), cache=KVCache(), write_cache=True)
    assert result.shape == x.shape
    assert result.isnan().all()


def test_positions_are_absolute_or_counted_in_the_window():
    """Shifting a whole video changes nothing when every frame is visible: RoPE sees differences only."""
    model, condition, x, bounds = small_wan(), small_condition(), small_latent(6), grown([2, 2, 2])
    with torch.no_grad():
        here = cached_rollout(model, x, x, T, bounds, condition, KVCache())
        relative = cached_rollout(model, x, x, T, bounds, condition, KVCache(rope="relative"))
        cache, later = KVCache(), []
        for start, end in bounds:
            block, arguments = x[:, :, start:end], {"cache": cache, "frame_offset": start + 2000}
            later.append(predict_velocity(model, block, T, condition, **arguments))
            predict_velocity(model, block, torch.zeros(2), condition, write_cache=True, **arguments)
    assert relative_error(relative, here) < TOLERANCE
    assert relative_error(torch.cat(later, dim=2), here) < 2e-4  # float32 tables at frame 2000


def test_every_attention_asks_the_dispatcher_for_its_back_end(monkeypatch):
    asked = []

    def spy(*args, backend=None, **kwargs):
        asked.append(backend)
        return dispatch_attention_fn(*args, backend=backend, **kwargs)

    monkeypatch.setattr("harness.models.attention.dispatch_attention_fn", spy)
    model = small_wan()
    set_backend(model, "_native_math")
    with torch.no_grad():
        predict_velocity(model, small_latent(4), T, small_condition(), frames_per_block=2)
    assert len(asked) == 2 * (2 + 1)
    assert {str(backend.value) for backend in asked} == {"_native_math"}


def test_contradicting_arguments_are_refused():
    model, x, condition = small_wan(), small_latent(4), small_condition()
    for arguments, words in (
        ({"cache": KVCache(), "frames_per_block": 2}, "either cache or frames_per_block"),
        ({"clean": x}, "needs frames_per_block"),
        ({"clean": x[:, :, :2], "frames_per_block": 2}, "differ in shape"),
        ({"write_cache": True}, "needs a cache"),
        ({"frames_per_block": 0}, "positive"),
    ):
        with pytest.raises(ValueError, match=words):
            predict_velocity(model, x, T, condition, **arguments)
    with pytest.raises(ValueError, match="patches"):
        predict_velocity(model, x[..., :3], T, condition)
    with pytest.raises(ValueError, match="text-to-video"):
        predict_velocity(model, x, T, Condition(text=condition.text, image_tokens=torch.zeros(2, 3, 6)))
    with pytest.raises(ValueError, match="one latent frame deep"):
        CausalWan(**{**SMALL, "patch_size": (2, 2, 2)})
