"""Everything a denoiser is conditioned on, in one frozen object."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from attrs import evolve, field, frozen


def pad_text(text: torch.Tensor, length: int) -> torch.Tensor:
    """Zero-pad text embeddings `[..., L, D]` to `[..., length, D]`; Wan attends to the padding too.

    Raises `ValueError` when the text is longer than `length`.
    """
    missing = length - text.shape[-2]
    if missing < 0:
        raise ValueError(f"text has {text.shape[-2]} tokens, more than the {length} positions of the preset")
    return torch.nn.functional.pad(text, (0, 0, 0, missing))


POSITION_CHANNELS = 5


def position_channels(frames: int, height: int, width: int) -> torch.Tensor:
    """Where a latent pixel is, `[5, F, h, w]`: sine and cosine of its row and of its column, and 1 in the first frame.

    Rotary embeddings carry relative positions only. A large model infers absolute ones from the borders; a tiny one
    needs too long.
    """
    rows = 2 * torch.pi * torch.arange(height) / height
    columns = 2 * torch.pi * torch.arange(width) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    first = torch.zeros(1, frames, height, width)
    first[:, 0] = 1.0
    still = torch.stack([y.sin(), y.cos(), x.sin(), x.cos()])[:, None].expand(-1, frames, -1, -1)
    return torch.cat([still, first])


PARTS = ("text", "image_tokens", "y", "first_latent", "positions")


@frozen(eq=False, kw_only=True)
class Condition:
    """What generator, critic and teacher are all given.

    text                 `[B, L, D]` text embeddings, zero-padded to the preset's text length
    image_tokens         `[B, T, D_img]` CLIP tokens of the first frame (image to video), or None
    y                    `[B, C_y, F, H, W]` mask and first-frame latent, joined on channels to the noisy one, or None
    first_latent         `[B, C, 1, H, W]` the first frame's clean latent, for a generator that is given it as frame 0
    positions            `[B, 5, F, H, W]` see `position_channels`, joined on channels after `y`, or None
    unconditional_text   `[1 or B, L, D]` embeddings of the empty prompt, or None (zeros are used)

    Raises `ValueError` when the parts do not share a batch size or the two texts differ in shape.
    """

    text: torch.Tensor
    image_tokens: torch.Tensor | None = None
    y: torch.Tensor | None = None
    first_latent: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    unconditional_text: torch.Tensor | None = field(default=None)

    def __attrs_post_init__(self) -> None:
        if self.text.ndim != 3:
            raise ValueError(f"text must be [B, L, D], got {list(self.text.shape)}")
        for name, part in self._parts().items():
            if part is not None and part.shape[0] != self.batch_size:
                raise ValueError(f"{name} has batch {part.shape[0]}, text has {self.batch_size}")
        empty = self.unconditional_text
        if empty is not None and (empty.shape[0] not in (1, self.batch_size) or empty.shape[1:] != self.text.shape[1:]):
            raise ValueError(
                f"unconditional_text must be [1 or {self.batch_size}, {self.text.shape[1]}, {self.text.shape[2]}], "
                f"got {list(empty.shape)} (pad_text brings both to one length)"
            )

    @property
    def batch_size(self) -> int:
        """Number of samples B."""
        return self.text.shape[0]

    def unconditional(self) -> Condition:
        """Drop the text only: what the image gives goes to the unconditional branch too (Wan2.1 image to video)."""
        return evolve(self, text=self._empty_text())

    def drop_text(self, mask: torch.Tensor) -> Condition:
        """Caption dropout: the text of the samples where `mask` (bool `[B]`) is true becomes unconditional."""
        mask = mask.to(self.text.device)[:, None, None]
        return evolve(self, text=torch.where(mask, self._empty_text(), self.text))

    def without_image_inputs(self) -> Condition:
        """For a network that reads no image: without tokens and `y`. The first latent, which is a frame, stays."""
        return evolve(self, image_tokens=None, y=None)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Condition:
        """Move and/or cast every tensor."""
        return self._map(lambda part, shared: part.to(device=device, dtype=dtype))

    def select(self, index: torch.Tensor | slice | Sequence[int]) -> Condition:
        """The samples at `index`: a slice, indices, or a bool mask along the batch."""
        if not isinstance(index, torch.Tensor | slice):
            index = torch.as_tensor(list(index), dtype=torch.long)
        return self._map(lambda part, shared: part if shared else part[index])

    def repeat(self, n: int) -> Condition:
        """The whole batch `n` times over: samples 0…B−1, 0…B−1, … (as `torch.cat([x] * n)`)."""
        return self._map(lambda part, shared: part if shared else torch.cat([part] * n))

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Join along the batch. Raises `ValueError` when a part is present in some conditions and absent in others."""
        first = conditions[0]
        parts: dict[str, torch.Tensor | None] = {}
        for name in PARTS:
            values = [c._parts()[name] for c in conditions]
            present = [value for value in values if value is not None]
            if present and len(present) < len(values):
                raise ValueError(f"{name} is present in some of the conditions to join and absent in others")
            parts[name] = torch.cat(present) if present else None
        if all(c.unconditional_text is first.unconditional_text for c in conditions) and first._shared_empty_text:
            parts["unconditional_text"] = first.unconditional_text
        else:
            parts["unconditional_text"] = torch.cat([c._empty_text() for c in conditions])
        return Condition(**parts)  # type: ignore[arg-type]

    def _parts(self) -> dict[str, torch.Tensor | None]:
        return {
            "text": self.text,
            "image_tokens": self.image_tokens,
            "y": self.y,
            "first_latent": self.first_latent,
            "positions": self.positions,
        }

    @property
    def _shared_empty_text(self) -> bool:
        return self.unconditional_text is None or self.unconditional_text.shape[0] == 1

    def _empty_text(self) -> torch.Tensor:
        if self.unconditional_text is None:
            return torch.zeros_like(self.text)
        return self.unconditional_text.to(self.text.dtype).expand_as(self.text)

    def _map(self, change: Callable[[torch.Tensor, bool], torch.Tensor]) -> Condition:
        """Apply `change(tensor, shared)` to each part; `shared` marks an unconditional text of batch 1."""
        parts = {name: None if part is None else change(part, False) for name, part in self._parts().items()}
        empty = self.unconditional_text
        unconditional = None if empty is None else change(empty, self._shared_empty_text)
        return Condition(**parts, unconditional_text=unconditional)  # type: ignore[arg-type]
