"""Classifier-free guidance (arXiv 2207.12598), in the standard convention."""

from __future__ import annotations

from torch import Tensor


def guide(cond: Tensor, uncond: Tensor, cfg_scale: float) -> Tensor:
    """Extrapolate from the unconditional to the conditional prediction: `uncond + cfg_scale·(cond − uncond)`.

    1 is no guidance. The DMD reference writes `cond + w·(cond − uncond)`: its `guidance_scale` w is `cfg_scale − 1`.
    """
    return uncond + cfg_scale * (cond - uncond)
