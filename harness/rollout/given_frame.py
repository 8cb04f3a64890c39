"""A first frame that is given: clean, at t = 0, beside frames that are being made from noise.

In a causal generator it is written to the KV cache before the first block (the independent first frame of CausVid,
arXiv 2412.07772); a bidirectional one reads it at every step, with a timestep per frame (Wan2.2 TI2V).
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.models.condition import Condition


def given_frame(condition: Condition, like: Tensor, first_frame_given: bool) -> Tensor | None:
    """The given first latent `[B, C, 1, H, W]`, detached, in the type and on the device of `like`; None if the first
    frame is generated.

    Raises `ValueError` when it is to be given and the condition has none.
    """
    if not first_frame_given:
        return None
    if condition.first_latent is None:
        raise ValueError(
            "the first frame is given (rollout.image_conditioning first_latent or both), but the condition has no "
            "first_latent: load the data with image=True, or encode the image"
        )
    return condition.first_latent.detach().to(device=like.device, dtype=like.dtype)


def beside_given(given: Tensor | None, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What the network is called with while the frames after a given one are at timestep `t` `[B]`.

    `[given ‖ x]` `[B, C, 1 + F, H, W]` and a timestep per frame `[B, 1 + F]`, 0 for the first; without a given frame
    `x` and `t` themselves.
    """
    if given is None:
        return x, t
    per_frame = torch.cat([torch.zeros_like(t)[:, None], t[:, None].expand(-1, x.shape[2])], dim=1)
    return torch.cat([given, x], dim=2), per_frame
