"""A synthetic project folder: a declaration and the results of runs with numbers that the tests choose."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from harness.config.documents import dump_yaml, read_yaml
from harness.config.load import resolve_target
from harness.config.structure import to_dict

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENT = "two_stage_vs_one_stage"
OPTIMIZER = {"lr": 1e-3}
RUN = {
    "model": "tiny",
    "frames": 9,
    "sft": {"updates": 100, "optimizer": OPTIMIZER},
    "causal_sft": {"updates": 50, "optimizer": OPTIMIZER},
    "dmd": {"generator_updates": 40, "generator_optimizer": OPTIMIZER, "critic_optimizer": OPTIMIZER},
    "rollout": {"denoising_steps": [1000, 500]},
}
PARAMS = {
    "preset": "tiny",
    "seeds": [0, 1, 2],
    "presets": {
        "tiny": {
            "data": {
                "source": "moving_digits",
                "height": 24,
                "width": 24,
                "frames": 33,
                "clips": {"train": 8, "validation": 8, "test": 8},
            },
            "encoders": {"image_encoder": "random_clip"},
            "evaluators": {"steps": 10},
            "evaluation": {},
            "run": RUN,
            "i2v": {"model": "tiny-i2v", "teacher": "checkpoints/teacher_i2v"},
            "long": {
                "evaluate_frames": 36,
                "rollout": {"window": 9, "sink": 3, "rope": "relative"},
                "long_tuning": {"enabled": True, "max_frames": 36, "min_new_frames": 6},
            },
        }
    },
}
PROTOCOL = {"prompts_sha256": "ab" * 32, "clips": 128, "repeats": 1, "seeds": [1234], "frames": 33, "size": [24, 24]}
IMAGE = {"given": "first frames", "sha256": "34" * 32}  # what the protocol of an image-to-video card says
COST = {"teacher": 500.0, "teacher_i2v": 120.0}  # TFLOP; 80 for other parents
FVD = {"two_stage": [51.0, 52.0, 53.0], "one_stage": [62.0, 62.5, 64.0]}
PROMPTS = [f"a {c} 3 moving {d} slowly" for c, d in (("red", "left"), ("green", "up"), ("blue", "down"), ("red", "up"))]


def metrics(fvd: float) -> dict:
    """A card's metrics, all derived from one number so that tests can reason about them."""
    values = {
        "fvd": fvd,
        "conditional_distance": fvd / 1000,
        "caption_accuracy": 1.0 - fvd / 1000,
        "recall": 1.0 - fvd / 200,
        "identity": 1.0 - fvd / 500,
        "rigid_error": fvd / 900,
        "ink": 1.0 + fvd / 1000,
        "saturation": 1.0,
    }
    return {name: {"value": v, "low": v - 0.01 * fvd, "high": v + 0.01 * fvd} for name, v in values.items()}


def of_image(fvd: float) -> dict:
    """Metrics of clips that were given an image."""
    values = {
        "first_frame_psnr": 30.0 - fvd / 10,
        "first_frame_ssim": 1.0 - fvd / 400,
        "image_identity": 1.0 - fvd / 300,
    }
    return {name: {"value": v, "low": v - 0.01, "high": v + 0.01} for name, v in values.items()}


def against_teacher(start: float, value: float, teacher: float) -> dict:
    """Metrics of a student against its own teacher."""
    values = {"static_collapse": 0.9, "fvd_gap": (value - teacher) / (start - teacher)}
    return {name: {"value": v, "low": v - 0.01, "high": v + 0.01} for name, v in values.items()}


def webp(color: tuple[int, int, int], frames: int = 6) -> bytes:
    """A short animated clip: a square that moves."""
    images = []
    for i in range(frames):
        image = Image.new("RGB", (24, 24), (10, 10, 14))
        image.paste(color, (2 + 2 * i, 8, 10 + 2 * i, 16))
        images.append(image)
    stream = io.BytesIO()
    images[0].save(stream, "WEBP", save_all=True, append_images=images[1:], duration=125, loop=0, lossless=True)
    return stream.getvalue()


def long_block(start: float, slope: float, offset: float = 0.0, window: int | None = 9) -> dict:
    """A long evaluation over four clips' length: the Fréchet distance grows by `slope` in each segment."""
    values = [start + slope * s for s in range(4)]
    names = ("fvd", "caption_accuracy", "identity", "ink")
    frames = list(range(141))
    return {
        "frames": 141,
        "clips": 64,
        "segment_frames": 33,
        "segments": [
            {"start": 36 * s, "metrics": {name: metrics(v)[name]["value"] for name in names}, "real": {"fvd": 18.0 + s}}
            for s, v in enumerate(values)
        ],
        "by_frame": {
            "frame": frames,
            "identity": [0.9 - offset - 0.001 * slope * f for f in frames],
            "rigid_error": [0.05 + offset + 0.0001 * slope * f for f in frames],
            "ink": [1.0 + offset + 0.001 * slope * f for f in frames],
        },
        "switch": {
            "at": 72,
            "frame": list(range(4, 69, 4)),
            "obeyed": [min(1.0, 0.05 * f) for f in range(17)],
            "delay_cap": 69,
        },
        "cache_mib": [0.1 * min(3 * (b + 1), window or 36) for b in range(12)],
    }


class World:
    """A project folder whose results can be changed one by one."""

    def __init__(self, root: Path):
        self.root = root
        if (root / "params.yaml").exists():
            return
        shutil.copytree(REPOSITORY / "experiments", root / "experiments")
        (root / "params.yaml").write_text(dump_yaml(PARAMS))

    def copy(self, root: Path) -> World:
        shutil.copytree(self.root, root)
        return World(root)

    def declaration(self, name: str = EXPERIMENT) -> Path:
        return self.root / "experiments" / name / "experiment.yaml"

    def edit_declaration(self, change, name: str = EXPERIMENT) -> None:
        document = read_yaml(self.declaration(name))
        change(document)
        self.declaration(name).write_text(dump_yaml(document))

    def edit(self, file: str, change) -> None:
        path = self.root / "results" / file
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    def set_motion(self, target: str, values: dict[int, float]) -> None:
        """Change the readings of `static_collapse` at some updates."""
        path = self.root / "results" / target / "quality.csv"
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        for row in rows:
            row["static_collapse"] = values.get(int(row["update"]), row["static_collapse"])
        path.write_text(table(rows))

    def write_baselines(self) -> None:
        values = {"real": 18.0, "codec": 22.0, "teacher": 49.0, "teacher_cut_cfg": 98.0, "teacher_cut": 110.0}
        self.write("teacher", {name: (value, 2) for name, value in values.items()}, parents=[], flops=500.0)
        for seed in (0, 1, 2):
            models = {"causal_sft": 61.0, "causal_sft_euler": 66.0, "causal_sft_cfg": 84.0}
            self.write(
                f"causal_sft/seed{seed}",
                {name: (value + 0.5 * seed, 6) for name, value in models.items()},
                parents=["teacher"],
                flops=80.0,
            )

    def write_arms(self, name: str = EXPERIMENT, fvd=FVD, init=None) -> None:
        for arm, values in fvd.items():
            start = (init or {}).get(arm, 61.0 if arm == "two_stage" else 125.0)
            for seed, value in enumerate(values):
                parents = ["teacher", f"causal_sft/seed{seed}"] if arm == "two_stage" else ["teacher"]
                self.write(
                    f"{name}/{arm}/seed{seed}",
                    {"student": (value, 6), "init": (start + 0.5 * seed, 6)},
                    parents=parents,
                    flops=200.0,
                    curve=(start + 0.5 * seed, value),
                )

    def write_image_teacher(self) -> None:
        values = {"real": 18.0, "codec": 22.0, "teacher": 40.0, "teacher_cut_cfg": 80.0, "teacher_cut": 90.0}
        models = {name: (value, 2) for name, value in values.items()}
        self.write("teacher_i2v", models, parents=["teacher"], flops=120.0, image=True)

    def write_students(self, experiment: str, arm: str, parents: str, start: float, end: float, flops=200.0) -> None:
        """Three seeds of one arm; `parents` holds `{seed}` where it does."""
        image, teacher = arm != "t2v", 49.0 if arm == "t2v" else 40.0
        for seed in (0, 1, 2):
            value = end + 0.5 * seed
            self.write(
                f"{experiment}/{arm}/seed{seed}",
                {"student": (value, 6), "init": (start, 6)},
                parents=parents.format(seed=seed).split(),
                flops=flops,
                curve=(start, value),
                image=image,
                more={"student": against_teacher(start, value, teacher)},
            )

    def write(
        self, target: str, models: dict, parents: list[str], flops: float, curve=None, image=False, more=None
    ) -> None:
        folder = self.root / "results" / target
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        protocol = {**PROTOCOL, "image": IMAGE} if image else PROTOCOL
        cards = {"schema": 1, "target": target, "protocol": protocol, "prompts": PROMPTS, "models": {}}
        if image:
            cards["given"] = [f"clips/given_{k}.png" for k in range(4)]
            for k, name in enumerate(cards["given"]):
                Image.new("RGB", (24, 24), (60 + 40 * k, 90, 10)).save(folder / name)
        for i, (name, (fvd, forwards)) in enumerate(models.items()):
            clips = []
            for k in range(4):
                (folder / "clips" / f"{name}_{k}.webp").write_bytes(webp((60 + 40 * k, 200 - 30 * i, 90 + 30 * i)))
                clips.append(f"clips/{name}_{k}.webp")
            cards["models"][name] = {
                "label": name.replace("_", " "),
                "sampler": {"kind": "few_step", "steps": 2, "cfg_scale": 1.0, "forwards": 2},
                "metrics": {**metrics(fvd), **(of_image(fvd) if image else {}), **(more or {}).get(name, {})},
                "by_frame": {"identity": [1.0 - fvd / 500 - 0.002 * f for f in range(33)]},
                "denoiser_forwards_per_video": forwards,
                "clips": clips,
            }
        (folder / "cards.json").write_text(json.dumps(cards))
        times = {name: {"seconds_per_video": 0.01 * forwards} for name, (_, forwards) in models.items()}
        (folder / "timing.json").write_text(json.dumps({"schema": 1, "target": target, "models": times}))
        (folder / "manifest.json").write_text(json.dumps(self._manifest(target, parents, flops)))
        if curve:
            (folder / "quality.csv").write_text(quality(*curve, flops=flops, watched=more is not None))

    def write_long(self, name: str, slopes: dict[str, float], windows: dict[str, int | None] | None = None) -> None:
        """Add a long evaluation to the cards of some arms: all start from one model, and differ in how they drift."""

        def add(card, model: str, block: dict) -> None:
            files = [f"clips/{model}_long_{k}.webp" for k in range(3)]
            for k, file in enumerate(files):
                (folder / file).write_bytes(webp((60 + 40 * k, 120, 90), frames=8))
            card["models"][model]["long"] = {**block, "clips_files": files}

        for arm, slope in slopes.items():
            for seed in (0, 1, 2):
                folder = self.root / "results" / name / arm / f"seed{seed}"
                student = long_block(50.0 + seed, slope, 0.01 * seed, (windows or {}).get(arm, 9))
                init = long_block(60.0 + seed, 20.0)
                for model, block in (("student", student), ("init", init)):
                    self.edit(f"{name}/{arm}/seed{seed}/cards.json", lambda card, m=model, b=block: add(card, m, b))

    def write_sink(self, distances: dict[str, list[float]], start: float = 95.0) -> None:
        """The runs of the experiment `sink`: `distances` are those at the end of long clips, seed by seed."""

        def metrics_of(value: float) -> dict:
            found = {"long_fvd": value, "long_identity": 1 - value / 500, "long_ink": 1.0, "fvd_drift": value - 50.0}
            return {name: {"value": v, "low": v - 0.5, "high": v + 0.5} for name, v in found.items()}

        for arm, values in distances.items():
            for seed, value in enumerate(values):
                self.write(
                    f"sink/{arm}/seed{seed}",
                    {"student": (51.0 + seed, 6), "init": (52.0 + seed, 6)},
                    parents=["teacher", f"two_stage_vs_one_stage/two_stage/seed{seed}"],
                    flops=200.0,
                    curve=(52.0 + seed, 51.0 + seed),
                    more={"student": metrics_of(value), "init": metrics_of(start + seed)},
                )
        self.write_long("sink", {"sink": 1.0, "no_sink": 10.0})

    def _manifest(self, target: str, parents: list[str], flops: float) -> dict:
        config = to_dict(resolve_target(target, self.root))
        return {
            "schema": 1,
            "target": target,
            "fingerprint": f"{'one' if target.endswith(('one_stage/seed0', '/causal/seed0')) else target}",
            "ad_hoc": False,
            "command": f"python harness/train.py --target {target}",
            "config": config,
            "inputs": {"data": "cd" * 32, "teacher": "ef" * 32},
            "parents": [
                {
                    "target": p,
                    "fingerprint": p,
                    "compute": {
                        "teraflops": COST.get(p, 80.0),
                        "device_seconds": COST.get(p, 80.0) / 2,
                    },
                }
                for p in parents
            ],
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "diff_sha256": None},
            "lock_sha256": "12" * 32,
            "packages": {"torch": "2.7.0"},
            "device": "cpu",
            "threads": 1,
            "seeds": {"run": config["seed"]},
            "world_size": 1,
            "effective_batch": 8,
            "updates": {"generator": 40, "critic": 200},
            "compute": {"teraflops": flops, "denoiser_forwards": 1000, "device_seconds": flops / 2},
            "wall_seconds": flops / 2 + 10,
            "peak_memory_mib": 900,
            "best": {"update": 40, "metric": "fvd", "value": 50.0},
            "started": "2025-01-01T00:00:00Z",
            "finished": "2025-01-01T00:03:00Z",
        }


def quality(start: float, end: float, flops: float, watched: bool = False) -> str:
    """A monitor file: five readings on a straight line from `start` to `end`; `watched` by the alarm or not."""
    rows = []
    for k in range(5):
        values = {name: entry["value"] for name, entry in metrics(start + (end - start) * k / 4).items()}
        values |= {"static_collapse": 0.6 + 0.1 * k} if watched else {}
        rows.append({"update": 10 * k, "teraflops": flops * k / 4, "device_seconds": flops * k / 8, **values})
    return table(rows)


def table(rows: list[dict]) -> str:
    """Rows as CSV text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> World:
    """The synthetic project, made once."""
    world = World(tmp_path_factory.mktemp("template"))
    world.write_baselines()
    world.write_arms()
    world.write_arms("causal_vs_bidirectional", {"causal": [62.0, 62.5, 64.0], "bidirectional": [55.0, 61.9, 63.0]})
    return world


@pytest.fixture
def world(template, tmp_path) -> World:
    """A copy that a test may change. Two stages are better by about 11 in each seed, and cost 80 TFLOP more."""
    return template.copy(tmp_path / "project")


LONG = "two_stage_vs_one_stage"


@pytest.fixture(scope="session")
def long_template(template, tmp_path_factory) -> World:
    """The project with long evaluations on the cards of one experiment, made once."""
    world = template.copy(tmp_path_factory.mktemp("long_template") / "project")
    world.write_long(LONG, {"two_stage": 1.0, "one_stage": 10.0}, {"one_stage": None})
    return world


@pytest.fixture
def long_world(long_template, tmp_path) -> World:
    """A copy that a test may change. The second arm drifts ten times as fast, and keeps all frames in its cache."""
    return long_template.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def image_template(tmp_path_factory) -> World:
    """The project with both experiments on images, made once."""
    world = World(tmp_path_factory.mktemp("image_template"))
    world.write_baselines()
    world.write_image_teacher()
    world.write_students("i2v_vs_t2v", "t2v", "teacher", start=125.0, end=87.0)
    world.write_students("i2v_vs_t2v", "i2v", "teacher_i2v", start=120.0, end=56.0, flops=220.0)
    for arm, end in {"channels": 60.0, "first_latent": 58.0, "both": 52.0}.items():
        parents = f"teacher_i2v causal_sft_i2v/{arm}/seed{{seed}}"
        world.write_students("i2v_conditioning", arm, parents, start=70.0, end=end)
    return world


@pytest.fixture
def image_world(image_template, tmp_path) -> World:
    """A copy that a test may change. Half of the way is left in text to video, a fifth in image to video."""
    return image_template.copy(tmp_path / "project")
