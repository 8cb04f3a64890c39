"""Train the evaluators: fixed numbers of steps on real training clips, one thread, one seed. No wall-clock decision
anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from harness.config.load import load_params
from harness.config.schema import EvaluatorsConfig
from harness.data.mds import count_samples, iter_samples
from harness.data.progress import Progress
from harness.errors import HarnessError
from harness.evaluation import tracking
from harness.evaluation.captions import SHOWN
from harness.evaluation.corruptions import KINDS, PatchCoder, codec_like, corrupt
from harness.evaluation.evaluators import VIDEO_COMPONENTS, Evaluators, Geometry, save_evaluators, unit_range
from harness.evaluation.networks import EMBEDDING, GROUP, DigitNet, VideoNet, shrink

WHITENING_FLOOR = 0.3  # of the largest standard deviation
BLOCK_VARIANCE = 32.0  # total variance of each block of features over real clips
THUMBNAIL = 4  # side of the first and last frame's thumbnails that features must remember
DIGIT_STEPS_PER_STEP = 4  # the digit network's steps cost a seventh
MOST_CLIPS = 4096  # training clips that are looked at
Report = Callable[[str, int, int], None]


def attribute_targets(attributes: list[dict]) -> dict[str, Tensor]:
    """What the clips show, as class indices, `[N]` each."""
    return {name: torch.tensor([values.index(a[name]) for a in attributes]) for name, values in SHOWN.items()}


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """One thread, seeded initialisation; both are put back afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then linear decay to 2 %."""
    warmup = max(1, steps // 10)
    return min((step + 1) / warmup, 0.02 + 0.98 * (steps - step) / max(1, steps - warmup))


def minimise(
    module: torch.nn.Module, loss_of: Callable[[], Tensor], steps: int, lr: float, name: str, progress: Report
) -> None:
    """AdamW for `steps` steps of `loss_of()`."""
    module.requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, steps)
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        progress(name, step + 1, steps)
    module.requires_grad_(False).eval()


def video_net_loss(
    net: VideoNet, clips: Tensor, targets: dict[str, Tensor], coder: PatchCoder, rng: Generator
) -> Tensor:
    """Caption attributes and thumbnails of sound clips, and the kind of damage of all: `clips [B, 3, F, H, W]` in [0,
    1].

    The second half of the batch is damaged. Noisy and blurred clips keep their captions; re-ordered ones lose theirs.
    Every other clip has been through a lossy code, which is not damage.
    """
    count = len(clips)
    clips = clips.clone()
    clips[::2] = coder(clips[::2], rng)
    kinds = torch.zeros(count, dtype=torch.long)
    kinds[count // 2 :] = torch.randint(1, len(KINDS), (count - count // 2,), generator=rng)
    damaged = torch.stack([corrupt(clip, KINDS[k], rng) for clip, k in zip(clips, kinds.tolist())])
    outputs = net.predict(net(damaged))
    loss = F.cross_entropy(outputs["kind"], kinds)
    ends = clips[:, :, [0, -1]].transpose(1, 2).flatten(0, 1)
    thumbnails = F.adaptive_avg_pool2d(ends, THUMBNAIL).view(count, -1)
    moving = ~torch.isin(kinds, torch.tensor([KINDS.index("shuffled"), KINDS.index("frozen")]))
    loss = loss + 10 * F.mse_loss(outputs["thumbnails"][moving], thumbnails[moving])
    for name, target in targets.items():
        loss = loss + F.cross_entropy(outputs[name][moving], target[moving], label_smoothing=0.05)
    return loss


def digit_net_loss(net: DigitNet, pairs: Tensor, classes: Tensor, rng: Generator) -> Tensor:
    """Class of the digit, and handwriting: two frames of one clip must embed alike and unlike other clips' (NT-Xent,
    2002.05709).

    `pairs [B, 2, S, S]` are crops of two frames of each clip.
    """
    count = len(pairs)
    embedding, logits = net(codec_like(pairs.flatten(0, 1), rng))
    loss = F.cross_entropy(logits, classes.repeat_interleave(2), label_smoothing=0.05)
    unit = F.normalize(embedding.view(count, 2, -1), dim=-1)
    similarity = unit[:, 0] @ unit[:, 1].T / 0.2
    same = torch.arange(count)
    return loss + 0.25 * (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same))


def _fit_video_net(net: VideoNet, videos: np.ndarray, targets: dict[str, Tensor], config: EvaluatorsConfig, progress):
    rng = Generator().manual_seed(config.seed + 1)
    batch = min(config.batch_size, len(videos))
    coder = PatchCoder(shrink(unit_range(videos[:128])))

    def loss() -> Tensor:
        index = torch.randint(len(videos), (batch,), generator=rng)
        clips = shrink(unit_range(videos[index.numpy()]))
        return video_net_loss(net, clips, {k: v[index] for k, v in targets.items()}, coder, rng)

    minimise(net, loss, config.steps, config.lr, "video network", progress)


def _fit_digit_net(net: DigitNet, videos: np.ndarray, classes: Tensor, config: EvaluatorsConfig, progress):
    rng = Generator().manual_seed(config.seed + 2)
    batch = min(config.batch_size, len(videos))
    frames = videos.shape[1]

    def loss() -> Tensor:
        index = torch.randint(len(videos), (batch,), generator=rng)
        pair = torch.randint(frames, (batch, 2), generator=rng)
        clips = unit_range(videos[index.numpy()[:, None], pair.numpy()])  # [B, 3, 2, H, W]
        crops = tracking.shape_crops(tracking.centered(clips, tracking.positions(clips)), net.crop)
        return digit_net_loss(net, crops, classes[index], rng)

    minimise(net, loss, DIGIT_STEPS_PER_STEP * config.steps, config.lr, "digit network", progress)


def projection(raw: Tensor, embedding: int) -> tuple[Tensor, Tensor]:
    """Mean `[R]` and projection `[R, K]` of real clips' raw features `[N, R]`, computed in float64.

    Video features and mean handwriting go to their principal directions, whitened with a floor (directions in which
    real clips hardly differ would otherwise turn every invisible artefact into a large distance). The handwriting's
    spread over time is nearly zero in real clips: it keeps the scale of the handwriting itself. All three have equal
    weight.
    """
    x = raw.double()
    mean = x.mean(0)
    x = x - mean
    video, hand = raw.shape[1] - 2 * embedding, embedding
    blocks = [_block(x[:, :video], VIDEO_COMPONENTS)]
    if hand:
        written = x[:, video : video + hand]
        blocks.append(_block(written, hand))
        blocks.append(
            torch.eye(hand, dtype=x.dtype) * (BLOCK_VARIANCE / written.square().sum(1).mean().clamp_min(1e-8)).sqrt()
        )
    return mean.float(), torch.block_diag(*blocks).float()


def _block(x: Tensor, components: int) -> Tensor:
    """Principal directions `[R, K]` of centered `[N, R]`, whitened with a floor, scaled to `BLOCK_VARIANCE` in all."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    spread = values.flip(-1)[:components].clamp_min(0).sqrt()
    directions = vectors.flip(-1)[:, :components]
    directions = directions * torch.sign(directions.gather(0, directions.abs().argmax(0, keepdim=True)))
    directions = directions / spread.clamp_min(WHITENING_FLOOR * float(spread[0]) + 1e-8)
    return directions * (BLOCK_VARIANCE / (x @ directions).square().sum(1).mean().clamp_min(1e-8)).sqrt()


def fit_evaluators(
    videos: np.ndarray,  # uint8 [N, F, H, W, 3]
    attributes: list[dict],
    config: EvaluatorsConfig,
    *,
    source: str,
    progress: Report = lambda name, step, steps: None,
) -> Evaluators:
    """Train both networks on real clips and fix the projection of their features. The same input gives the same bytes.

    For `source: videos` there is no digit network and no attribute head. Raises HarnessError for fewer than 16 clips
    or 5 frames.
    """
    if len(videos) < 16:
        raise HarnessError(
            f"{len(videos)} training clips are too few for the evaluators: at least 16. Raise data.clips.train."
        )
    if videos.shape[1] < GROUP:
        raise HarnessError(f"clips of {videos.shape[1]} frames are too short for the evaluators: at least {GROUP}.")
    digits = source == "moving_digits"
    targets = attribute_targets(attributes) if digits else {}
    heads = {name: len(values) for name, values in SHOWN.items()} if digits else {}
    heads |= {"kind": len(KINDS), "thumbnails": 2 * 3 * THUMBNAIL**2}
    _, frames, height, width, _ = videos.shape
    with deterministic(config.seed):
        geometry = Geometry(
            source=source, heads=heads, height=height, width=width, frames=frames,
            crop=min(14, height, width), steps=config.steps, seed=config.seed,
        )  # fmt: skip
        evaluators = Evaluators(geometry)
        _fit_video_net(evaluators.video_net, videos, targets, config, progress)
        if evaluators.digit_net is not None:
            _fit_digit_net(evaluators.digit_net, videos, targets["digit"], config, progress)
            crops = unit_range(videos[:512, :: max(1, frames // 3)])
            aligned = tracking.centered(crops, tracking.positions(crops))
            embedding, _ = evaluators.digit_net(tracking.shape_crops(aligned, geometry.crop).flatten(0, 1))
            evaluators.embedding_mean.copy_(embedding.mean(0))
        raw = [evaluators.raw_features(unit_range(videos[i : i + 64]))[0] for i in range(0, min(len(videos), 1024), 64)]
        mean, directions = projection(torch.cat(raw), EMBEDDING if digits else 0)
        evaluators.raw_mean.copy_(mean)
        evaluators.projection.copy_(directions)
    return evaluators.eval()


def training_clips(folder: str | Path, digits: bool, limit: int = MOST_CLIPS) -> tuple[np.ndarray, list[dict]]:
    """Up to `limit` training clips, uint8 `[N, F, H, W, 3]`, with their attributes. Clips without digits are averaged
    down as they are read.

    Raises HarnessError when the folder is missing or damaged.
    """
    videos, attributes = [], []
    for sample in iter_samples(folder, stop=min(limit, count_samples(folder))):
        video = np.array(sample["video"])  # a copy: what is stored is read-only
        if not digits:
            small = shrink(unit_range(video[None]))[0].permute(1, 2, 3, 0)
            video = small.mul(255).round().to(torch.uint8).numpy()
        videos.append(video)
        attributes.append(sample["attributes"])
    return np.stack(videos), attributes


def main(argv: Sequence[str] | None = None) -> int:
    """The verb `evaluators`: data/clips/train → checkpoints/evaluators, as params.yaml says."""
    parser = argparse.ArgumentParser(prog="python -m harness evaluators", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="default: %(default)s")
    parser.add_argument("--clips", default="data/clips", help="folder of the source clips; default: %(default)s")
    parser.add_argument("--out", default="checkpoints/evaluators", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    preset = load_params(arguments.params).preset
    videos, attributes = training_clips(Path(arguments.clips) / "train", preset.data.source == "moving_digits")
    bars: dict[str, Progress] = {}

    def progress(name: str, step: int, steps: int) -> None:
        batch = preset.evaluators.batch_size
        bars.setdefault(name, Progress(f"evaluators: {name}", steps * batch)).advance(batch)

    evaluators = fit_evaluators(videos, attributes, preset.evaluators, source=preset.data.source, progress=progress)
    save_evaluators(evaluators, arguments.out)
    return 0
