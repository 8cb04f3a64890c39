"""Presets of the small networks, and bit-exact comparison."""

from collections.abc import Callable

import pytest
import torch
from checkpoint_makers import I2V, T2V, State

from harness.models import presets
from harness.models.presets import WanGeometry


@pytest.fixture
def small_presets(monkeypatch) -> None:
    """Presets `small` and `small-i2v`, so that files without a config are known."""
    for name, geometry in (("small", T2V), ("small-i2v", I2V)):
        monkeypatch.setitem(presets.MODELS, name, WanGeometry(**geometry))


@pytest.fixture
def same() -> Callable[[State, State], None]:
    """Asserts that two states have the same names, types and bits."""

    def bits(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(-1).view(torch.uint8)

    def check(a: State, b: State) -> None:
        assert a.keys() == b.keys()
        for name in a:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
            assert torch.equal(bits(a[name]), bits(b[name])), name

    return check
