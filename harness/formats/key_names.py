"""The names under which checkpoints hold a Wan network, brought to those of diffusers."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import HarnessError
from harness.models.original_names import to_diffusers

# FSDP, torch.compile and checkpointing put these between the parts of a name, wherever they wrapped a module.
WRAPPERS = {"_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"}
PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "generator.", "transformer.", "model.")
IGNORED = ".norm_added_q."  # in early diffusers checkpoints of I2V: no network reads it, diffusers drops it too
_ORIGINAL_PARTS = ("self_attn.", "cross_attn.", "text_embedding.", "head.head.", "ffn.0.", "ffn.2.")
_DIFFUSERS_PARTS = ("attn1.", "attn2.", "condition_embedder.", "proj_out.", "ffn.net.")


def bare(name: str) -> str:
    """A name without what wrappers and other programs' containers put around it.

    `model._fsdp_wrapped_module.blocks.0.self_attn.q.weight` → `blocks.0.self_attn.q.weight`
    """
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def convention(names: Iterable[str]) -> str | None:
    """`original` or `diffusers`: whose names these are; None if they are no Wan network's."""
    names = list(names)
    for found, parts in (("original", _ORIGINAL_PARTS), ("diffusers", _DIFFUSERS_PARTS)):
        if any(part in name for name in names for part in parts):
            return found
    return None


def diffusers_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Each name → diffusers' name of that parameter; what no network reads is left out.

    Raises:
        HarnessError: these are not the parameters of a Wan network, some are unknown, or two become one.
    """
    clean = {name: bare(name) for name in names}
    found = convention(clean.values())
    if found is None:
        shown = ", ".join(sorted(clean)[:3])
        raise HarnessError(
            f"{where}: these are not the parameters of a Wan transformer ({shown} …); it is another model's or another "
            "stage's checkpoint. Give the file or folder of the transformer"
        )
    clean = {name: new for name, new in clean.items() if IGNORED not in new}
    if found == "original":
        try:
            table = to_diffusers({new: new for new in clean.values()})
        except (KeyError, ValueError) as error:
            raise HarnessError(f"{where}: unexpected parameters: {error.args[0]}") from error
        back = {original: new for new, original in table.items()}
        clean = {name: back[new] for name, new in clean.items()}
    if len(set(clean.values())) < len(clean):
        seen: dict[str, str] = {}
        for name, new in clean.items():
            if new in seen:
                raise HarnessError(f"{where}: {seen[new]} and {name} are the same parameter; the file is ambiguous")
            seen[new] = name
    return clean
