"""How clips are damaged while the feature networks are trained, so that their features can see damage.

Only four general kinds are used. Fading, morphing, over-exposure, collapse and wrong captions are deliberately not
among them: the metrics must find those without having been shown them.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

KINDS = ("clean", "shuffled", "frozen", "noisy", "blurred")


def blur(images: Tensor, passes: int = 1) -> Tensor:
    """Binomial 3×3 blur of `[..., H, W]` on a torus, `passes` times."""
    for _ in range(passes):
        for dim in (-1, -2):
            images = 0.5 * images + 0.25 * (images.roll(1, dim) + images.roll(-1, dim))
    return images


def shuffle_frames(clip: Tensor, rng: Generator) -> Tensor:
    """Permute a random stretch of at least a third of the frames of `[3, F, H, W]`."""
    frames = clip.shape[1]
    length = int(torch.randint(max(2, frames // 3), frames + 1, (1,), generator=rng))
    start = int(torch.randint(0, frames - length + 1, (1,), generator=rng))
    order = torch.arange(frames)
    order[start : start + length] = start + torch.randperm(length, generator=rng)
    return clip[:, order]


def freeze_frames(clip: Tensor, rng: Generator) -> Tensor:
    """Hold `[3, F, H, W]` still from a random frame of the first two thirds on."""
    frames = clip.shape[1]
    start = int(torch.randint(0, max(1, 2 * frames // 3), (1,), generator=rng))
    return clip[:, torch.arange(frames).clamp_max(start)]


def corrupt(clip: Tensor, kind: str, rng: Generator) -> Tensor:
    """Damage one clip `[3, F, H, W]` in [0, 1] by a kind of `KINDS`, at a random strength beyond what coding does."""
    strength = float(torch.rand(1, generator=rng))
    if kind == "shuffled":
        return shuffle_frames(clip, rng)
    if kind == "frozen":
        return freeze_frames(clip, rng)
    if kind == "noisy":
        return (clip + (0.06 + 0.14 * strength) * torch.randn(clip.shape, generator=rng)).clamp(0, 1)
    if kind == "blurred":
        return blur(clip, 2 + round(2 * strength))
    return clip


class PatchCoder:
    """A lossy code of space-time patches (4 frames × 4×4 pixels), at any rank and grid offset: the loss every latent
    video has.

    The video network must not mind it, or it would measure the codec and not the generator. `basis [D, D]` are the
    principal directions of patches of training clips `[N, 3, F, H, W]` in [0, 1].
    """

    FRAMES, SIDE = 4, 4

    def __init__(self, clips: Tensor):
        patches = self._cut(clips[:, :, 1:]).flatten(0, -2)
        self.mean = patches.mean(0)
        centered = (patches - self.mean).double()
        self.basis = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(-1).float()

    def _cut(self, clips: Tensor) -> Tensor:
        """`[B, 3, F, H, W]` → `[B, f, h, w, 4·4·4·3]`; a rest that fills no patch is cut off."""
        t, s = self.FRAMES, self.SIDE
        b, c, frames, height, width = clips.shape
        f, h, w = frames // t, height // s, width // s
        clips = clips[:, :, : f * t, : h * s, : w * s].reshape(b, c, f, t, h, s, w, s)
        return clips.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, f, h, w, -1)

    def __call__(self, clips: Tensor, rng: Generator) -> Tensor:
        """Code and decode `[B, 3, F, H, W]` at one random rank and grid, with a little noise on the code. A rest stays
        as it is.
        """
        t, s = self.FRAMES, self.SIDE
        offset = torch.randint(0, s, (2,), generator=rng).tolist()
        start = int(torch.randint(0, t, (1,), generator=rng))
        rank = int(torch.randint(10, 41, (1,), generator=rng))
        shifted = clips.roll(offset, (-2, -1))
        codes = (self._cut(shifted[:, :, start:]) - self.mean) @ self.basis[:, :rank]
        level = 0.3 * torch.rand((len(clips), 1, 1, 1, 1), generator=rng)
        codes = codes + level * codes.std((0, 1, 2, 3)) * torch.randn(codes.shape, generator=rng)
        patches = codes @ self.basis[:, :rank].T + self.mean
        b, f, h, w, _ = patches.shape
        decoded = (
            patches.view(b, f, h, w, 3, t, s, s).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, 3, f * t, h * s, w * s)
        )
        shifted = shifted.clone()
        shifted[:, :, start : start + f * t, : h * s, : w * s] = decoded.clamp(0, 1)
        return shifted.roll([-o for o in offset], (-2, -1))


def codec_like(crops: Tensor, rng: Generator) -> Tensor:
    """Blur, blockiness, noise and a shift of up to a pixel on crops `[N, S, S]`: what encoding or a generator does to a
    good digit.
    """
    n, size = crops.shape[0], crops.shape[-1]

    def amount(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, generator=rng))[:, None, None]

    theta = torch.eye(2, 3).repeat(n, 1, 1)
    theta[:, :, 2] = (torch.rand(n, 2, generator=rng) * 2 - 1) * 2.0 / size
    x = F.grid_sample(
        crops[:, None], F.affine_grid(theta, [n, 1, size, size], align_corners=False), align_corners=False
    )
    x = x[:, 0]
    x = torch.lerp(x, blur(x, 2), amount(-0.3, 0.9))
    blocks = F.interpolate(F.avg_pool2d(x[:, None], 2), size=(size, size), mode="bilinear")[:, 0]
    x = torch.lerp(x, blocks, amount(0.0, 0.5))
    x = x + amount(0.0, 0.15) * blur(torch.randn(crops.shape, generator=rng))
    return x * amount(0.85, 1.15)
