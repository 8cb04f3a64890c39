"""The precision of a run: what the Trainer computes in, and what autocast must not do."""

from __future__ import annotations

import torch

from harness.config.schema import RunConfig
from harness.errors import HarnessError


def trainer_precision(config: RunConfig) -> str:
    """Composer's name of the precision. Raises HarnessError for bf16 without an accelerator."""
    if config.precision == "bf16" and not torch.cuda.is_available():
        raise HarnessError("precision: bf16 needs a GPU; on a CPU set precision: fp32")
    return "amp_bf16" if config.precision == "bf16" else "fp32"


def forbid_cached_casts() -> None:
    """Let autocast cast a weight each time it is used, from now on and in the whole process.

    By default autocast keeps its bf16 copy of a weight until it is left. A rollout casts the generator's weights with
    gradients off, and a later step with gradients on would be given the same copies: they lead to no weight, and most
    of the network would get no gradient, without a word. Under FSDP the copies would also outlive the gathered layers.
    """
    torch.set_autocast_cache_enabled(False)
