"""The two small networks whose activations the metrics read.

Both are deterministic feed-forward networks without batch statistics, so that a clip's features never depend on its
neighbors.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP, STRIDE = 5, 4  # neighboring frames seen together, and the step between groups: fits every 1 + 4k frames
FEATURES = 64  # of a clip
EMBEDDING = 16  # of a digit's handwriting
LARGEST_SIDE = 32  # larger clips are averaged down before the video network sees them


class VideoNet(nn.Module):
    """Frames in overlapping groups of five → convolutions → a temporal convolution → one feature vector per clip.

    `heads` maps a task's name to its number of outputs.
    """

    def __init__(self, heads: dict[str, int], features: int = FEATURES, width: int = 16):
        super().__init__()
        channels = (3 * GROUP, width, 2 * width, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, padding_mode="circular") for a, b in pairwise(channels)
        )
        self.frame = nn.Linear(channels[-1] * 9, 96)
        self.frame_norm = nn.LayerNorm(96)
        self.temporal = nn.Conv1d(96, 96, 3, padding=1)
        self.features = nn.Linear(2 * 96, features)
        self.heads = nn.ModuleDict({name: nn.Linear(features, count) for name, count in heads.items()})

    def forward(self, video: Tensor) -> Tensor:
        """`[B, 3, F, H, W]` in [0, 1] → features `[B, 64]`. Needs at least five frames."""
        b = len(video)
        groups = video.unfold(2, GROUP, STRIDE)  # [B, 3, T, H, W, 5]
        count = groups.shape[2]
        x = groups.permute(0, 2, 5, 1, 3, 4).reshape(b * count, 3 * GROUP, *video.shape[3:])
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        x = F.adaptive_avg_pool2d(x, 3).flatten(1)
        x = F.gelu(self.frame_norm(self.frame(x))).view(b, count, -1)
        x = x + F.gelu(self.temporal(x.transpose(1, 2))).transpose(1, 2)
        spread = (x.var(1, unbiased=False) + 1e-4).sqrt()
        return self.features(torch.cat([x.mean(1), spread], dim=1))

    def predict(self, features: Tensor) -> dict[str, Tensor]:
        """Every task's outputs `[B, n]` from features."""
        return {name: head(F.gelu(features)) for name, head in self.heads.items()}


class DigitNet(nn.Module):
    """A centered gray crop → an embedding of its handwriting and ten class logits."""

    def __init__(self, crop: int = 14, classes: int = 10, embedding: int = EMBEDDING):
        super().__init__()
        self.crop = crop
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * (crop // 2 // 2 + crop // 2 % 2) ** 2, 96)
        self.embedding = nn.Linear(96, embedding)
        self.classes = nn.Linear(96, classes)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, crop, crop]` → embeddings `[N, 16]` (not normalised) and logits `[N, 10]`."""
        x = F.max_pool2d(F.relu(self.first(crops[:, None])), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2, ceil_mode=True)
        x = F.relu(self.hidden(x.flatten(1)))
        return self.embedding(x), self.classes(x)


def shrink(video: Tensor) -> Tensor:
    """Average `[B, 3, F, H, W]` down so that neither side exceeds `LARGEST_SIDE`."""
    height, width = video.shape[-2:]
    factor = max(height, width) / LARGEST_SIDE
    if factor <= 1:
        return video
    size = (max(8, round(height / factor)), max(8, round(width / factor)))
    flat = video.transpose(1, 2).flatten(0, 1)
    return F.interpolate(flat, size=size, mode="area").unflatten(0, (video.shape[0], -1)).transpose(1, 2).contiguous()
