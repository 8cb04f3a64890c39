"""Some clips of a split, chosen by their captions, as a split of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.data.mds import iter_samples, new_folder, read_index, write_mds
from harness.errors import HarnessError


def containing(captions: Sequence[str], text: str | None) -> list[int]:
    """The numbers of the captions that contain the text; of all, for None.

    Raises `HarnessError` when there is none.
    """
    chosen = [i for i, caption in enumerate(captions) if text is None or text in caption]
    if not chosen:
        raise HarnessError(
            f"captions_with: none of {len(captions)} captions contains {text!r}; the first is {captions[0]!r}. "
            "Give words that captions have, or null for all"
        )
    return chosen


def select_split(split: Path, text: str, target: Path) -> Path:
    """Write the samples of `split` (`data/encoded/train`) whose captions contain the text to `target`, in their order,
    with the files beside the split that describe the data. Returns the new split's folder, of the same name.

    Raises `HarnessError` when there is none, or the disk refuses.
    """
    shards = read_index(split)
    columns = dict(zip(shards[0]["column_names"], shards[0]["column_encodings"], strict=True))
    chosen = set(containing([sample["caption"] for sample in iter_samples(split)], text))
    with new_folder(target) as new:
        for file in split.parent.iterdir():
            if file.is_file():
                shutil.copyfile(file, new / file.name)
        write_mds(new / split.name, columns, (s for i, s in enumerate(iter_samples(split)) if i in chosen))
    return target / split.name
