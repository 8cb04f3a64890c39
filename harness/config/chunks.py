"""Streaming long tuning (LongLive, arXiv 2509.22622, §3.2) in numbers: the chunks that a long sequence is made of."""

from __future__ import annotations

from harness.config.schema import LongTuningConfig


def chunk_lengths(made: int, frames: int, frames_per_block: int, config: LongTuningConfig) -> range:
    """The numbers of new frames that the next chunk may have, after `made` frames; none: the sequence is at its end.

    `frames` is the length of a clip; all are latent frames. The first chunk is a whole clip.
    """
    shortest = config.min_new_frames if made else frames
    longest = min(frames, config.max_new_frames or frames) if made else frames
    return range(shortest, min(longest, config.max_frames - made) + 1, frames_per_block)


def switch_places(frames: int, frames_per_block: int, config: LongTuningConfig) -> range:
    """The frames at which a prompt may change; the chunk that makes that frame is the first under the new one.

    Every sequence gets beyond the last of them, so that each is reached for sure, and none is in the first chunk.
    """
    return range(frames, config.max_frames - config.min_new_frames + 1, frames_per_block)


def mean_sequence(frames: int, frames_per_block: int, config: LongTuningConfig) -> tuple[float, float]:
    """(chunks, frames) of a sequence on average, every length of a chunk being as likely as the others."""
    chance = [1.0] + [0.0] * config.max_frames  # that a sequence is at some time so many frames long
    chunks = end = 0.0
    for made in range(config.max_frames + 1):
        lengths = chunk_lengths(made, frames, frames_per_block, config)
        for new in lengths:
            chance[made + new] += chance[made] / len(lengths)
        if lengths:
            chunks += chance[made]
        else:
            end += chance[made] * made
    return chunks, end
