"""The evaluators: two feature networks and a fixed projection, saved together, and what they see in a clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import asdict, fields_dict, frozen, has
from safetensors.torch import load_file, save
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.evaluation import tracking
from harness.evaluation.first_frame import ImageMeasurements, psnr, ssim
from harness.evaluation.identity import image_identity_by_frame
from harness.evaluation.networks import EMBEDDING, FEATURES, GROUP, DigitNet, VideoNet, shrink
from harness.io import atomic_write_bytes, read_json, sha256_file, write_json

VIDEO_COMPONENTS = 24  # principal directions of the video features
CHUNK = 64  # clips measured at a time: bounds memory
LAG = 4  # frames over which late motion is seen: one latent frame


@frozen(kw_only=True, eq=False)
class DigitMeasurements:
    """What is seen of the one digit that each of B clips shows. Float64 numpy, one row per clip."""

    color: np.ndarray  # [B, 3], mean color
    displacements: np.ndarray  # [B, F − 1, 2], pixels (y, x)
    rigid_error: np.ndarray  # [B, F], share of energy that the best rigid shift leaves unexplained
    probabilities: np.ndarray  # [B, F, 10]
    handwriting: np.ndarray  # [B, F, E], centered and of unit length


@frozen(kw_only=True, eq=False)
class Measurements:
    """What the evaluators see in B clips: everything that the metrics read. Float64 numpy, one row per clip."""

    features: np.ndarray  # [B, K], projected
    brightness: np.ndarray  # [B, F], mean of all pixels in 0…1
    saturation: np.ndarray  # [B], (max − min) / max over channels, weighted by brightness
    motion_energy: np.ndarray  # [B], mean |frame difference|
    late_motion: np.ndarray  # [B], see `late_motion`
    digits: DigitMeasurements | None = None  # None where the clips have no digits
    image: ImageMeasurements | None = None  # None where the clips were given no image

    def __len__(self) -> int:
        return len(self.features)

    def select(self, index: np.ndarray) -> Measurements:
        """The rows at `index`."""
        return _by_field([self], lambda arrays: arrays[0][index])

    @classmethod
    def cat(cls, parts: list[Measurements]) -> Measurements:
        """Stack rows."""
        return _by_field(parts, np.concatenate)


def _by_field(parts: list[Any], combine: Callable[[list[np.ndarray]], np.ndarray]) -> Any:
    """Apply `combine` to the parts' arrays, field by field."""
    values = {}
    for name in fields_dict(type(parts[0])):
        column = [getattr(part, name) for part in parts]
        if has(type(column[0])):
            values[name] = _by_field(column, combine)
        else:
            values[name] = None if column[0] is None else combine(column)
    return type(parts[0])(**values)


@frozen(kw_only=True)
class Geometry:
    """What the evaluators were built for; stored in their `config.json`."""

    source: str
    heads: dict[str, int]
    height: int
    width: int
    frames: int
    crop: int = 14
    steps: int = 0
    seed: int = 0

    @property
    def has_digits(self) -> bool:
        """Whether the clips show one digit each."""
        return self.source == "moving_digits"


class Evaluators(nn.Module):
    """Both networks and the projection of their joint features. Frozen; runs on the CPU in float32.

    `projection [R, K]` maps standardised raw features to K principal directions of real training clips, whitened.
    """

    def __init__(self, geometry: Geometry):
        super().__init__()
        self.geometry = geometry
        self.video_net = VideoNet(geometry.heads)
        self.digit_net = DigitNet(geometry.crop) if geometry.has_digits else None
        hand = EMBEDDING if geometry.has_digits else 0
        self.raw_mean = nn.Buffer(torch.zeros(FEATURES + 2 * hand))
        self.projection = nn.Buffer(torch.zeros(FEATURES + 2 * hand, VIDEO_COMPONENTS + 2 * hand))
        self.embedding_mean = nn.Buffer(torch.zeros(EMBEDDING))
        self.requires_grad_(False)

    @torch.no_grad()
    def raw_features(self, video: Tensor) -> tuple[Tensor, DigitMeasurements | None]:
        """Unprojected features `[B, R]` of clips `[B, 3, F, H, W]` in [0, 1], and what is seen of their digits."""
        features = self.video_net(shrink(video))
        if self.digit_net is None:
            return features, None
        height, width = video.shape[-2:]
        places = tracking.positions(video)
        aligned = tracking.centered(video, places)
        handwriting, logits = self._read(self.digit_net, aligned)
        joint = torch.cat([features, handwriting.mean(1), handwriting.std(1, unbiased=False)], dim=1)
        digits = DigitMeasurements(
            color=_numpy(video.mean((2, 3, 4))),
            displacements=_numpy(tracking.displacements(places, height, width)),
            rigid_error=_numpy(rigid_error(aligned)),
            probabilities=_numpy(logits.softmax(-1)),
            handwriting=_numpy(handwriting),
        )
        return joint, digits

    def _read(self, net: DigitNet, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Handwriting `[B, F, E]` and logits `[B, F, 10]` of centered clips."""
        crops = tracking.shape_crops(aligned, self.geometry.crop)
        embedding, logits = net(crops.flatten(0, 1))
        embedding = embedding.view(*crops.shape[:2], -1) - self.embedding_mean
        return nn.functional.normalize(embedding, dim=-1), logits.view(*crops.shape[:2], -1)

    @torch.no_grad()
    def measure(self, video: np.ndarray | Tensor, images: np.ndarray | None = None) -> Measurements:
        """Measure clips: uint8 `[B, F, H, W, 3]` (numpy) or float `[B, 3, F, H, W]` in [−1, 1] (torch).

        `images` are those that the clips were given, uint8 `[B, H, W, 3]`. Raises HarnessError when the clips have
        fewer than five frames.
        """
        if video.shape[0] == 0:
            raise HarnessError("no clips to measure")
        frames = video.shape[1] if isinstance(video, np.ndarray) else video.shape[2]
        if frames < GROUP:
            raise HarnessError(f"clips of {frames} frames cannot be measured: at least {GROUP} are needed")
        parts = []
        for start in range(0, len(video), CHUNK):
            rows = slice(start, start + CHUNK)
            parts.append(self._measure_chunk(video[rows], None if images is None else images[rows]))
        return Measurements.cat(parts)

    def _measure_chunk(self, video: np.ndarray | Tensor, images: np.ndarray | None) -> Measurements:
        x = unit_range(video)
        raw, digits = self.raw_features(x)
        projected = (raw - self.raw_mean) @ self.projection
        brightest, darkest = x.amax(1), x.amin(1)  # [B, F, H, W]
        purity = (brightest - darkest).mean((1, 2, 3)) / brightest.mean((1, 2, 3)).clamp_min(1e-4)
        return Measurements(
            features=_numpy(projected),
            brightness=_numpy(x.mean((1, 3, 4))),
            saturation=_numpy(purity),
            motion_energy=_numpy(x.diff(dim=2).abs().mean((1, 2, 3, 4))),
            late_motion=_numpy(late_motion(x)),
            digits=digits,
            image=None if images is None else self._against_images(x, digits, unit_range(images[:, None])),
        )

    def _against_images(self, x: Tensor, digits: DigitMeasurements | None, images: Tensor) -> ImageMeasurements:
        """Clips `[B, 3, F, H, W]` and the images that they were given `[B, 3, 1, H, W]`, both in [0, 1]."""
        first, wanted, identity = x[:, :, 0], images[:, :, 0], None
        if digits is not None and self.digit_net is not None:
            handwriting, _ = self._read(self.digit_net, tracking.centered(images, tracking.positions(images)))
            identity = image_identity_by_frame(digits.handwriting, _numpy(handwriting[:, 0]))
        return ImageMeasurements(psnr=_numpy(psnr(first, wanted)), ssim=_numpy(ssim(first, wanted)), identity=identity)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


def unit_range(video: np.ndarray | Tensor) -> Tensor:
    """Clips in either file or VAE form → float32 `[B, 3, F, H, W]` in [0, 1] on the CPU."""
    if isinstance(video, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(video)).permute(0, 4, 1, 2, 3).float().div(255).contiguous()
    return ((video.detach().cpu().float().clamp(-1, 1) + 1) / 2).contiguous()


def rigid_error(centered: Tensor) -> Tensor:
    """Share of each frame's energy that a rigidly moving object does not explain: centered `[B, 3, F, H, W]` → `[B, F]`
    in [0, 1].

    The object's shape is the mean over frames after the best torus shift. A clip without an object scores 1.
    """
    shape = centered.mean(2, keepdim=True)
    energy = shape.square().sum((1, 3, 4))  # [B, 1]
    residual = (centered - shape).square().sum((1, 3, 4))  # [B, F]
    visible = 1e-4 * shape[0].numel()
    return torch.where(energy > visible, residual / energy.clamp_min(visible), torch.ones_like(residual)).clamp_max(1)


def late_motion(video: Tensor) -> Tensor:
    """Mean |difference| of frames `LAG` apart without the first, which a clip may be given: `[B, 3, F, H, W]` → `[B]`.

    A latent frame decodes to four frames. A generator that repeats one latent shows these four again and again: between
    neighbors that is change, over four frames it is none. Clips of fewer frames are compared over as many as there are.
    """
    late = video[:, :, 1:]
    lag = min(LAG, late.shape[2] - 1)
    return (late[:, :, lag:] - late[:, :, :-lag]).abs().mean((1, 2, 3, 4))


def save_evaluators(evaluators: Evaluators, folder: str | Path) -> None:
    """Write `evaluators.safetensors` and `config.json` (geometry, shapes, sha256 of the weights)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "evaluators.safetensors"
    atomic_write_bytes(weights, save({k: v.contiguous() for k, v in evaluators.state_dict().items()}))
    config = {
        "schema": 1,
        "geometry": asdict(evaluators.geometry),
        "sha256": sha256_file(weights),
    }
    write_json(folder / "config.json", config)


def load_evaluators(folder: str | Path) -> Evaluators:
    """Read what `save_evaluators` wrote. Raises HarnessError when it is missing, damaged or of another version."""
    folder = Path(folder)
    path, weights = folder / "config.json", folder / "evaluators.safetensors"
    for file in (path, weights):
        if not file.is_file():
            raise HarnessError(f"{file}: no such file. Run `dvc repro evaluators` to make the evaluators.")
    config = read_json(path)
    expected = {"schema", "geometry", "sha256"}
    if set(config) != expected or config["schema"] != 1 or set(config["geometry"]) != set(fields_dict(Geometry)):
        raise HarnessError(f"{path}: not an evaluators' config of this version. Run `dvc repro --force evaluators`.")
    if sha256_file(weights) != config["sha256"]:
        raise HarnessError(
            f"{weights}: its sha256 differs from the one in {path.name}: the file is damaged. Run `dvc checkout` or "
            "`dvc repro --force evaluators`."
        )
    evaluators = Evaluators(Geometry(**config["geometry"]))
    evaluators.load_state_dict(load_file(weights))
    return evaluators.eval()


def evaluators_digest(folder: str | Path) -> str:
    """The sha256 of the weights, as the card's protocol states it."""
    return read_json(Path(folder) / "config.json", keys=("sha256",))["sha256"]
