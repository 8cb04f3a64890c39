"""What a stream has to compute, written down frame by frame: everything is kept, and what is seen is chosen by hand."""

import torch

from harness.diffusion.schedule import warp_steps
from harness.models.denoiser import predict_velocity
from harness.models.kv_storage import Past
from harness.rollout.block import denoise_block
from harness.rollout.stream import noised_context


class ChosenPast:
    """Stands for a cache: a pass sees the given frames, each a list of (key, value) per layer."""

    kv_grad = "detach"

    def __init__(self, frames, rope):
        self.frames = frames
        self.rope = rope
        self.written = []

    def visible_frames(self, frames):
        return len(self.frames)

    def past(self, layer, frames):
        pairs = [frame[layer] for frame in self.frames]
        return Past(tuple(key for key, _ in pairs), tuple(value for _, value in pairs))

    def commit(self, frame_offset, frames, key_values):
        split = [(key.chunk(frames, dim=1), value.chunk(frames, dim=1)) for key, value in key_values]
        self.written = [[(keys[i], values[i]) for keys, values in split] for i in range(frames)]

    def condition(self, source, version):
        return None

    def store_condition(self, source, version, stored):
        pass


class PlainStream:
    """The specification of `Stream`, without bounds on its memory; blocks are committed at once."""

    def __init__(self, condition, config):
        self.condition, self.config = condition, config
        self.steps = warp_steps(config.denoising_steps, config.shift)
        self.sink, self.recent = [], []  # keys and values of frames
        self.blocks = []  # (start, latents, given)

    @property
    def frames(self):
        return sum(x0.shape[2] for _, x0, _ in self.blocks)

    def seen(self, frames):
        window, sink = self.config.window, self.config.sink
        if window == -1 or len(self.sink) + len(self.recent) + frames <= window:
            return self.sink + self.recent
        return self.sink + self.recent[max(len(self.recent) - max(window - sink - frames, 0), 0) :]

    def write(self, model, start, x0, given, rng):
        sigma = 0.0 if given else self.config.context_sigma
        past = ChosenPast(self.seen(x0.shape[2]), self.config.rope)
        t = torch.full((len(x0),), 1000 * sigma)
        context = noised_context(x0, sigma, rng)
        predict_velocity(model, context, t, self.condition, cache=past, write_cache=True, frame_offset=start)
        for frame in past.written:
            (self.sink if len(self.sink) < self.config.sink else self.recent).append(frame)

    def give_first(self, model, rng):
        self.blocks.append((0, self.condition.first_latent, True))
        self.write(model, *self.blocks[-1], rng)
        return self.condition.first_latent

    def block(self, model, noise, rng):
        start = self.frames
        past = ChosenPast(self.seen(noise.shape[2]), self.config.rope)
        last = len(self.steps) - 1
        arguments = {"with_gradient": False, "cache": past, "frame_offset": start}
        x0 = denoise_block(model, noise, self.condition, self.steps, last, rng, **arguments)
        self.blocks.append((start, x0, False))
        self.write(model, *self.blocks[-1], rng)
        return x0

    def switch(self, model, condition, rng):
        self.condition = condition
        way, sink = self.config.on_switch, self.config.sink
        window = self.frames if self.config.window == -1 else self.config.window
        if way == "keep":
            return
        self.recent = []
        if way != "recache_keep_sink":
            self.sink, sink = [], 0
        if way == "clear":
            return
        begin = max(sink, self.frames - (window - sink) if self.config.window != -1 else 0)
        for start, x0, given in self.blocks:
            kept = x0[:, :, max(begin - start, 0) :]
            if kept.shape[2]:
                self.write(model, max(start, begin), kept, given, rng)
