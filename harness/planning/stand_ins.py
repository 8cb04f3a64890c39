"""What the meta device does not do as a real one does: fused attention, and autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

CASTS = (functional.linear, torch.conv3d)  # what autocast runs in bf16 among the operations of our networks


class AsOnDevice(TorchFunctionMode):
    """Attention by one fused kernel, which keeps queries, keys, values, its output and a float32 per query and head;
    with `bf16`, matrix products and attention on operands cast as autocast casts them.

    No cast of a weight is kept (see `harness.training.precision`). Where the code opens a region of `torch.autocast`,
    which knows no meta device, the region steers this mode instead.

    bf16        compute under autocast
    note_cast   is told of each cast of a weight
    """

    def __init__(self, *, bf16: bool, note_cast: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.bf16 = bf16
        self.note_cast = note_cast
        self._region_before = torch.autocast

    def __enter__(self) -> AsOnDevice:
        """Begin."""
        torch.autocast = self._region  # type: ignore[misc, assignment]
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """End."""
        torch.autocast = self._region_before  # type: ignore[misc]
        super().__exit__(*raised)

    @contextlib.contextmanager
    def _region(self, device_type: str, dtype: Any = None, enabled: bool = True, **rest: Any) -> Iterator[None]:
        before, self.bf16 = self.bf16, self.bf16 and enabled
        try:
            yield
        finally:
            self.bf16 = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace what differs, run everything else as it is."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if self.bf16 and func in CASTS:
            args = [self._cast(arg) for arg in args]
            kwargs = {name: self._cast(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **rest: Any) -> Tensor:
        query, key, value = (self._cast(x) if self.bf16 else x for x in (query, key, value))
        fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, attn_mask=attn_mask)[0]

    def _cast(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        cast = x.to(torch.bfloat16)
        if isinstance(x, torch.nn.Parameter):
            self.note_cast(cast)
        return cast
