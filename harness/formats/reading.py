"""Opening a checkpoint of any known layout: its config, and its weights under diffusers' names, not read yet."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from harness.errors import HarnessError
from harness.formats.key_names import diffusers_names
from harness.formats.layouts import Found, detect
from harness.formats.pickled import choose_state, load_pickle
from harness.formats.safetensors_files import read_safetensors
from harness.formats.tensor_stream import Weights, renamed
from harness.formats.wan_config import (
    Config,
    check_fit,
    config_from_diffusers,
    config_from_original,
    config_without_file,
    refuse_other_preset,
)
from harness.io import read_json


@frozen
class Checkpoint:
    """A whole Wan network on disk, checked against its config.

    weights    under diffusers' names
    chosen     which of a `.pt`'s state dicts it is
    ignored    parameters in the files that no network reads
    """

    found: Found
    config: Config
    weights: Weights
    chosen: str | None
    ignored: tuple[str, ...]


def open_checkpoint(path: Path, *, preset: str | None = None, weights: str | None = None) -> Checkpoint:
    """Open what lies at `path`; only headers are read.

    preset    what it must be; bare weights that fit no preset by their shapes need one
    weights   `ema` or `raw`, of a `.pt`; None: the averaged weights where there are any

    Raises:
        HarnessError: nothing known is there, it is damaged, or its parameters are not those of its config or preset.
    """
    found = detect(path)
    chosen = None
    if found.layout == "self_forcing":
        raw, chosen = choose_state(load_pickle(found.weights[0]), weights, found.weights[0])
    else:
        if weights is not None:
            raise HarnessError(f"{path}: --weights {weights}: only `.pt` files hold more than one set; leave it out")
        raw = read_safetensors(found.weights)
    where = str(found.config.parent if found.config else found.weights[0])
    names = diffusers_names(raw.infos, where)
    state = renamed(raw, names)
    config = _config(found, state, preset, where)
    if preset is not None:
        refuse_other_preset(config, preset, where)
    config = check_fit(config, state.infos, where)
    return Checkpoint(found, config, state, chosen, tuple(sorted(raw.infos.keys() - names.keys())))


def _config(found: Found, state: Weights, preset: str | None, where: str) -> Config:
    if found.config is None:
        return config_without_file(state.infos, preset, where)
    raw = read_json(found.config)
    if found.layout == "original":
        return config_from_original(raw, state.infos, where)
    return config_from_diffusers(raw)
