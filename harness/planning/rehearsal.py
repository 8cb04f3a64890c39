"""One batch of training on the meta device: the method's own code, with tensors that have shapes and no memory.

What autograd keeps, what a cache holds and when it is freed is thus that of the code, not of a formula about it. Layers
are alike, so two short rehearsals with 3 and 4 layers give the numbers for 40: within a window of time (one layer of
one call, forward or backward) the bytes are linear in the number of layers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from attrs import asdict, evolve, frozen
from composer.models import ComposerModel
from torch import nn

from harness.algorithms.updates import Role
from harness.methods.causal_sft import CausalSFT
from harness.methods.draws import Draws
from harness.methods.sft import SFT
from harness.methods.shared_teacher import build_dmd
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.lora import add_adapters
from harness.models.widening import image_channels
from harness.planning.meter import Bytes, Peak, StorageMeter
from harness.planning.scene import Scene, position_channels
from harness.planning.stand_ins import AsOnDevice

BATCH, LATENTS, ACTIVATIONS, WORK = "batch", "latents and losses", "activations", "work space"
CACHE, PROMPT, CASTS, GRADIENTS = "K/V cache", "cross-attention K/V", "bf16 casts of weights", "gradients"
_SELF, _TEXT = "self-attention", "attention to text"  # within a call; what stays of them is CACHE and PROMPT
SHORT = 3  # layers: a first, a last, and one between


@frozen
class Window:
    """A stretch of time: a layer's forward or backward pass in one call of a network, or (`layer` None) what is between
    calls.
    """

    call: int
    role: str
    stage: str
    layer: int | None = None


Windows = dict[Window, Peak]


def make_batch(scene: Scene, size: int, device: str = "meta") -> dict[str, Any]:
    """Clips, prompts and, in image to video, images of `size` samples, as the loader gives them."""
    shape = scene.networks[0][1]
    image_dim = next((network.image_dim for _, network in scene.networks if network.image_dim is not None), None)
    pixels, positions = (scene.config.frames, scene.height, scene.width), position_channels(shape)
    make = functools.partial(torch.ones, device=device)
    has_image, latent = scene.config.rollout.has_image, make(size, shape.out_channels, *pixels)
    tokens = y = None
    if has_image and image_dim is not None:
        tokens = make(size, scene.image_tokens, image_dim)
        y = make(size, image_channels(shape.out_channels, image_dim), *pixels)
    return {
        "latent": latent,
        "condition": Condition(
            text=make(size, scene.text_length, shape.text_dim),
            image_tokens=tokens,
            y=y,
            first_latent=latent[:, :, :1] if has_image else None,
            positions=make(size, positions, *pixels) if positions else None,
            unconditional_text=make(1, scene.text_length, shape.text_dim),
        ),
        "key": [str(number) for number in range(size)],
    }


def build_networks(scene: Scene, device: str = "meta") -> dict[str, CausalWan]:
    """Role → network, with adapters where the run trains these; a teacher that shares the critic's weights is none."""
    lora = scene.config.lora
    with torch.device(device):
        networks = {
            role: CausalWan(**asdict(shape))
            for role, shape in scene.networks
            if role != "teacher" or not lora.share_teacher
        }
        if lora.rank is not None:
            # a layer's own number may be beyond those that are rehearsed: then each layer counts as that one
            targets = tuple(re.sub(r"^blocks\.\d+\.", "", target) for target in lora.targets)
            for role in scene.trained:
                add_adapters(networks[role], evolve(lora, targets=targets), seed=0)
    return networks


def build_method(scene: Scene, networks: Mapping[str, nn.Module]) -> ComposerModel:
    """The run's method over these networks."""
    config = scene.config
    if config.method == "sft":
        return SFT(networks["generator"], config.sft, first_frame_given=config.rollout.first_frame_given)
    if config.method == "causal_sft":
        return CausalSFT(
            networks["generator"],
            config.causal_sft,
            config.rollout.frames_per_block,
            first_frame_given=config.rollout.first_frame_given,
        )
    return build_dmd(networks["generator"], networks["critic"], networks.get("teacher"), config.dmd, config.rollout)


class _Prompter:
    """Hooks that tell the meter where the run is."""

    def __init__(self, meter: StorageMeter, networks: Mapping[str, CausalWan]) -> None:
        self.meter = meter
        self.calls = self._since = 0
        self._call: Window | None = None
        for role, network in networks.items():
            network.register_forward_pre_hook(functools.partial(self._enter, role), with_kwargs=True)
            network.register_forward_hook(self._leave, with_kwargs=True)
            for index, block in enumerate(network.blocks):  # type: ignore[arg-type]
                block.register_forward_pre_hook(functools.partial(self._enter_layer, index))
                block.register_forward_hook(functools.partial(self._leave_layer, index))
                attention: tuple[Any, Any] = (block.attn1, block.attn2)
                for part, label in zip(attention, (_SELF, _TEXT), strict=True):
                    part.register_forward_pre_hook(functools.partial(self._set_label, label))
                    part.register_forward_hook(functools.partial(self._set_label, WORK))
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(
                        lambda parameter: meter.relabel(parameter.grad, GRADIENTS)  # type: ignore[arg-type]
                    )

    def between(self, stage: str, label: str) -> None:
        """Outside of the networks."""
        self.meter.window = Window(self.calls, "", stage)
        self.meter.label = label

    def _enter(self, role: str, network: nn.Module, args: Any, kwargs: Any) -> None:
        self.calls += 1
        self._since = self.meter.made
        self._call = Window(self.calls, role, "forward")
        self.meter.window = self._call
        self.meter.label = ACTIVATIONS if torch.is_grad_enabled() else WORK

    def _leave(self, network: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not torch.is_grad_enabled() and kwargs.get("cache") is not None:
            work = {WORK: CACHE, _SELF: CACHE} if kwargs.get("write_cache") else {}
            self.meter.relabel_survivors(self._since, {_TEXT: PROMPT, **work})
        self._call = None
        self.between("after", LATENTS)

    def _enter_layer(self, index: int, block: nn.Module, args: Any) -> None:
        if self._call is not None:  # else it is recomputed, in the backward pass
            self.meter.window = evolve(self._call, layer=index)

    def _leave_layer(self, index: int, block: nn.Module, args: Any, output: Any) -> None:
        if self._call is None or not output[0].requires_grad:
            return
        window = evolve(self._call, stage="backward", layer=index)

        def begins(gradient: torch.Tensor) -> None:
            self.meter.window = window

        output[0].register_hook(begins)

    def _set_label(self, label: str, *rest: Any) -> None:
        if self._call is not None and not torch.is_grad_enabled():
            self.meter.label = label


def rehearse(scene: Scene, phase: Role) -> Windows:
    """The peaks of one forward and backward pass that updates `phase`, window by window: what lives besides weights and
    moments.

    The exit step is the last of two: more steps without gradient hold no more. Where gradients are summed over
    microbatches it is one of the later ones, for which gradients are there from the start. They count as spread over
    the processes that the run shards them over.
    """
    rollout = scene.config.rollout
    rollout = evolve(rollout, exit_step="last", denoising_steps=rollout.denoising_steps[:2])
    config = evolve(scene.config, rollout=rollout)
    networks = build_networks(scene)
    method = build_method(evolve(scene, config=config), networks).train()
    if config.parallelism.activation_checkpointing:
        for role in scene.trained:
            networks[role].enable_gradient_checkpointing()
    meter = StorageMeter(shares={GRADIENTS: 1 / scene.shards})
    for network in networks.values():
        meter.leave_out(network.parameters())
    casts = AsOnDevice(
        bf16=config.precision == "bf16",
        note_cast=lambda cast: meter.relabel(cast, CASTS),
    )
    prompter = _Prompter(meter, networks)
    if config.method == "dmd":
        method.phase = phase  # type: ignore[assignment]
    method.draws = Draws.at(0, 0)  # type: ignore[assignment]
    with meter, casts:
        if scene.microbatches > 1:
            prompter.between("start", GRADIENTS)
            for parameter in networks[phase].parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
        prompter.between("start", BATCH)
        batch, _copied_by_the_trainer = make_batch(scene, scene.share), make_batch(scene, scene.share)
        rows = slice(0, scene.microbatch)
        prompter.between("start", LATENTS)
        latent, condition = batch["latent"][rows], batch["condition"].select(rows)
        if phase == "critic":
            others = [make_batch(scene, scene.microbatch) for _ in range(scene.rollouts_together - 1)]
            method.upcoming = [  # type: ignore[assignment]
                (other["latent"], other["condition"], Draws.at(0, later)) for later, other in enumerate(others, start=1)
            ]
        loss = method({"latent": latent, "condition": condition})["loss"]
        prompter.between("loss", WORK)
        torch.autograd.backward(loss)
    return {window: peak for window, peak in meter.peaks.items() if isinstance(window, Window)}


def extrapolate(scene: Scene, phase: Role) -> Bytes:
    """The parts of the highest peak of a batch that updates `phase`, for networks of any number of layers."""
    layers = {role: shape.num_layers for role, shape in scene.networks}
    if max(layers.values()) <= SHORT + 1:
        return _highest(rehearse(scene, phase).values())
    base = {role: min(number, SHORT) for role, number in layers.items()}
    first = rehearse(scene.with_layers(base), phase)
    totals = {window: dict(peak.parts) for window, peak in first.items() if _is_edge(window, base)}
    for number in {number for number in layers.values() if number > SHORT}:
        longer = {role: base[role] + (layers[role] == number) for role in layers}
        second = rehearse(scene.with_layers(longer), phase)
        for window, parts in totals.items():
            later = second[_same_place(window, base, longer)].parts
            for label in {**first[window].parts, **later}:
                growth = later.get(label, 0) - first[window].parts.get(label, 0)
                parts[label] = parts.get(label, 0) + growth * (number - SHORT)
    return _highest(Peak(sum(parts.values()), parts) for parts in totals.values())


def _is_edge(window: Window, layers: Mapping[str, int]) -> bool:
    """Everything but middle layers, which lie between the others; a trace of 3 layers has no such."""
    return window.layer is None or layers[window.role] <= SHORT


def _same_place(window: Window, layers: Mapping[str, int], longer: Mapping[str, int]) -> Window:
    """The window of the longer rehearsal that is as far from the nearer end of the network."""
    if window.layer is None or window.layer <= layers[window.role] // 2:
        return window
    return evolve(window, layer=window.layer + longer[window.role] - layers[window.role])


def _highest(peaks: Any) -> Bytes:
    best = max(peaks, key=lambda peak: peak.total)
    parts: Bytes = {}
    for label, size in best.parts.items():
        name = WORK if label in (_SELF, _TEXT) else label
        parts[name] = parts.get(name, 0) + size
    return {label: size for label, size in parts.items() if size > 0}
