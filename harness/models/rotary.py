"""Rotary position embedding over (frame, row, column), as Wan splits a head (arXiv 2503.20314).

Tables are made on demand for any frame index, in float64, and kept in float32 whatever the dtype of the network: a
table cast to bf16 is wrong by up to 9e-3.
"""

from __future__ import annotations

import functools

import torch

THETA = 10000.0


def _angles(dim: int, positions: torch.Tensor) -> torch.Tensor:
    """Angles `[P, dim / 2]` of integer positions `[P]`, float64."""
    frequencies = THETA ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim)
    return positions.double()[:, None] * frequencies


@functools.lru_cache(maxsize=32)
def rotary_table(
    head_dim: int, first_frame: int, frames: int, rows: int, columns: int, device: torch.device
) -> torch.Tensor:
    """Unit complex numbers `[frames · rows · columns, 1, head_dim / 2]` (complex64) for tokens in raster order.

    A head's pairs are split between frame, row and column: rows and columns get `head_dim // 6` each, frames the rest.
    """
    spatial = head_dim // 6
    with torch.inference_mode(False), torch.no_grad():
        frame = _angles(head_dim - 4 * spatial, torch.arange(first_frame, first_frame + frames, device=device))
        row = _angles(2 * spatial, torch.arange(rows, device=device))
        column = _angles(2 * spatial, torch.arange(columns, device=device))
        grid = (frames, rows, columns, -1)
        angles = torch.cat(
            [
                frame[:, None, None].expand(*grid),
                row[None, :, None].expand(*grid),
                column[None, None, :].expand(*grid),
            ],
            dim=-1,
        ).reshape(frames * rows * columns, 1, head_dim // 2)
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs of each head of `x` `[B, N, H, D]` by `table` `[N, 1, D / 2]`, in float32, then cast back."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # inductor generates no code for complex numbers; eager is fastest with them
        (a, b), (cos, sin) = pairs.unbind(-1), torch.view_as_real(table).unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
    return torch.view_as_real(torch.view_as_complex(pairs) * table).flatten(-2).type_as(x)
