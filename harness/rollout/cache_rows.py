"""Some samples of a cache, for passes that write nothing to it."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from torch import Tensor

from harness.models.block import EmbeddedCondition
from harness.models.condition import Condition
from harness.models.kv_cache import KVCache
from harness.models.kv_storage import Past

Rows = slice | Tensor  # of the batch: a slice gives views, int64 indices give copies


def prompt_of(condition: Condition) -> tuple[Tensor, Tensor | None]:
    """The objects by which a cache knows whose keys and values of text and image tokens it holds."""
    return condition.text, condition.image_tokens


def embedded_rows(stored: EmbeddedCondition, rows: Rows) -> EmbeddedCondition:
    """Embedded text and image tokens of some samples, with their keys and values."""
    key_values = stored.key_values and tuple(
        layer and tuple((key[rows], value[rows]) for key, value in layer) for layer in stored.key_values
    )
    return evolve(
        stored,
        text=None if stored.text is None else stored.text[rows],
        image=None if stored.image is None else stored.image[rows],
        key_values=key_values,
    )


class CacheRows(KVCache):
    """The rows `rows` of `whole`, at any time: what is committed to `whole` later is seen here too.

    `whole` was used with the condition `joined`; passes through this cache are given `own`, its rows. Keys and values
    of text and image tokens that `whole` holds are not computed again.
    """

    def __init__(self, whole: KVCache, rows: Rows, joined: Condition, own: Condition) -> None:
        super().__init__(window=whole.window, sink=whole.sink)
        self.rope = whole.rope
        self._whole = whole
        self._rows = rows
        self._joined = prompt_of(joined)
        self._own = prompt_of(own)

    def visible_frames(self, frames: int) -> int:
        """As `KVCache`."""
        return self._whole.visible_frames(frames)

    def past(self, layer: int, frames: int) -> Past:
        """As `KVCache`, of the rows alone."""
        past = self._whole.past(layer, frames)
        return Past(tuple(key[self._rows] for key in past.keys), tuple(value[self._rows] for value in past.values))

    def condition(self, source: tuple[object, ...], version: int) -> Any:
        """As `KVCache`; what `whole` holds is cut to the rows once."""
        known = super().condition(source, version)
        if known is None and self._is_own(source):
            stored = self._whole.condition(self._joined, version)
            if stored is not None:
                known = embedded_rows(stored, self._rows)
                self.store_condition(source, version, known)
        return known

    def knows_condition(self, source: tuple[object, ...]) -> bool:
        """As `KVCache`."""
        return super().knows_condition(source) or (self._is_own(source) and self._whole.knows_condition(self._joined))

    def commit(self, frame_offset: int, frames: int, key_values: Any) -> None:
        """Raises `ValueError`: blocks are committed to the whole cache, for all samples together."""
        raise ValueError("these are rows of a cache: commit to the whole of it")

    def _is_own(self, source: tuple[object, ...]) -> bool:
        return all(a is b for a, b in zip(self._own, source, strict=True))
