"""Encoded shards → batches: shuffled, resumable in the middle of an epoch, the same global batches for any number of
processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from streaming import StreamingDataLoader
from streaming.base.world import World
from torch import Tensor

from harness.data.mds import IMAGE_COLUMNS, count_samples, read_index
from harness.data.shards import read_fingerprint, require_image
from harness.data.shared_memory import open_streaming
from harness.data.texts import load_negative, load_unconditional, padded
from harness.errors import HarnessError
from harness.models.condition import Condition, position_channels

Batch = dict[str, Any]


def load_positions(folder: str | Path, frames: int | None = None) -> Tensor | None:
    """The position channels that every clip of `folder` (`data/encoded`) has, if it has them: `[5, F, h, w]`.

    `frames` latent frames; by default as many as the clips have.
    """
    fingerprint = read_fingerprint(folder)
    if not fingerprint.get("position_channels"):
        return None
    _, length, height, width = fingerprint["latent_shape"]
    return position_channels(frames or length, height, width)


def condition_from_texts(
    texts: Sequence[np.ndarray | Tensor],
    text_length: int,
    unconditional: Tensor | None,
    positions: Tensor | None = None,
    *,
    image_tokens: Tensor | None = None,
    y: Tensor | None = None,
    first_latent: Tensor | None = None,
) -> Condition:
    """Texts `[L, D]` of various lengths → a Condition with float32 `text [B, text_length, D]`, zero-padded, the same
    `positions` `[5, F, h, w]` for all, and what each clip is given of its image, as it is.
    """
    told = [padded(torch.as_tensor(np.array(text)), text_length, f"text {i}") for i, text in enumerate(texts)]
    return Condition(
        text=torch.stack(told),
        image_tokens=image_tokens,
        y=y,
        first_latent=first_latent,
        positions=None if positions is None else positions.expand(len(told), *positions.shape),
        unconditional_text=unconditional,
    )


def stacked(values: Sequence[np.ndarray]) -> Tensor:
    """Stored arrays → one float32 tensor; a copy: the stored ones are read-only."""
    return torch.from_numpy(np.stack(values).astype(np.float32))


def collate(
    samples: Sequence[Mapping[str, Any]],
    *,
    text_length: int,
    unconditional: Tensor | None,
    positions: Tensor | None = None,
    image: bool = False,
) -> Batch:
    """Stored samples → the batch a Method takes.

    Keys: `latent` float32 `[B, C, F, h, w]` (absent for a prompt list), `condition`, and the lists `key`, `caption`,
    `attributes`. With `image` the condition has the clips' first frames, in every form.
    """
    # The streaming loader counts samples by the first entry: it must have a length.
    batch: Batch = {name: [sample[name] for sample in samples] for name in ("key", "caption", "attributes")}
    if "latent" in samples[0]:
        batch["latent"] = stacked([sample["latent"] for sample in samples])
    given: dict[str, Tensor] = {}
    if image:
        given = {name: stacked([sample[name] for sample in samples]) for name in IMAGE_COLUMNS}
        given["first_latent"] = batch["latent"][:, :, :1].clone()
    texts = [sample["text"] for sample in samples]
    batch["condition"] = condition_from_texts(texts, text_length, unconditional, positions, **given)
    return batch


def build_dataloader(
    folder: str | Path,
    batch_size: int,
    *,
    seed: int,
    text_length: int,
    image: bool = False,
    guidance: bool = False,
    shuffle: bool = True,
    drop_last: bool = True,
) -> StreamingDataLoader:
    """Batches of one split (`data/encoded/train`), `batch_size` per process; every rank calls it.

    The order depends on `seed` and the epoch. With the same global batch size, the union of the ranks' batches is the
    same for any number of processes: rank r of n has samples r, r + n, … of it. `state_dict()` and
    `load_state_dict()` resume in the middle of an epoch. No worker processes: they do not pay for encoded latents.
    With `image` the conditions have `image_tokens`, `y` and `first_latent`; without it they have none of them. Their
    unconditional text is the empty one, which caption dropout wants, or with `guidance` what guidance leads away from.

    Raises:
        HarnessError: the split is missing, smaller than one global batch, or has no image conditions though they are
            wanted.
    """
    folder = Path(folder)
    if image:
        require_image(folder.parent)
    needed = batch_size * World.detect().num_ranks
    if (found := count_samples(folder)) < (needed if drop_last else 1):
        raise HarnessError(
            f"{folder}: has {found} samples, fewer than one batch of {needed}. Lower batch_size or raise data.clips"
        )
    for shard in read_index(folder):
        if not (path := folder / shard["raw_data"]["basename"]).is_file():
            raise HarnessError(f"{path}: shard is missing. Run `dvc checkout` or `dvc repro encode`")
    dataset = open_streaming(
        local=str(folder),
        batch_size=batch_size,
        shuffle=shuffle,
        shuffle_seed=seed,
        num_canonical_nodes=1,  # fixed, so that the order does not depend on the machine
    )
    making = partial(
        collate,
        text_length=text_length,
        unconditional=(load_negative if guidance else load_unconditional)(folder.parent, text_length),
        positions=load_positions(folder.parent),
        image=image,
    )
    return StreamingDataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=0,
        drop_last=drop_last,
        collate_fn=making,
    )


class LookAhead:
    """Batches of a loader, in its order, with a view of those to come in the same epoch.

    Looking does not consume: the position in the data is that of the batches given out (which is what the Trainer
    counts and a saved state holds), not of those read.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self._source: Iterator[Batch] = iter(())
        self._read: deque[Batch] = deque()

    @property
    def dataset(self) -> Any:
        """The loader's dataset, None for a list of batches."""
        return getattr(self.loader, "dataset", None)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        """Begin an epoch, or go on in one where the loader does."""
        self._source = iter(self.loader)
        self._read.clear()
        while self.peek(1):
            yield self._read.popleft()

    def peek(self, count: int) -> list[Batch]:
        """The next `count` batches; fewer where the epoch ends."""
        while len(self._read) < count:
            try:
                self._read.append(next(self._source))
            except StopIteration:
                break
        return [batch for batch, _ in zip(self._read, range(count))]


def size_of(batch: Batch) -> int:
    """Number of samples in a batch."""
    return len(batch["key"])


def split_batch(batch: Batch, microbatch_size: int | float) -> list[Batch]:
    """Cut a batch into microbatches of at most `microbatch_size` samples."""
    total, step = size_of(batch), int(microbatch_size)
    pieces = []
    for start in range(0, total, step):
        rows = slice(start, min(start + step, total))
        pieces.append({k: v.select(rows) if isinstance(v, Condition) else v[rows] for k, v in batch.items()})
    return pieces


def condition_beside_latent(batch: Batch) -> Batch:
    """The batch with its Condition on the device of its latent: Composer moves tensors, not what holds them."""
    return {**batch, "condition": batch["condition"].to(batch["latent"].device)}


def data_spec(dataloader: Any) -> DataSpec:
    """What the Composer Trainer needs to count, cut and move batches that hold a Condition."""
    return DataSpec(
        dataloader,
        split_batch=split_batch,
        get_num_samples_in_batch=size_of,
        microbatch_transforms=condition_beside_latent,
    )
