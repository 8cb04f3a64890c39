"""What the tests of tracking make: a small project with finished results."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

EXPERIMENT = "two_arms"
ARMS = ("first", "second")
SEEDS = (0, 1)


def webp(seed: int, frames: int = 3) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, 12, 16, 3), np.uint8)
    images = [Image.fromarray(frame) for frame in pixels]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], duration=125, lossless=True)
    return buffer.getvalue()


def estimate(value: float) -> dict:
    return {"value": value, "low": value - 1, "high": value + 1}


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def fingerprint(target: str) -> str:
    return hashlib.sha256(target.encode()).hexdigest()


def make_target(root: Path, target: str, seed: int) -> None:
    folder = root / "results" / target
    config = {"preset": "tiny", "method": "dmd", "seed": seed, "data": "data/encoded"}
    write(
        folder / "manifest.json",
        {
            "fingerprint": fingerprint(target),
            "config": config,
            "inputs": {"data": "d"},
            "parents": [{"target": "teacher"}],
        },
    )
    write(folder / "history.csv", "batch,phase,loss\n1,critic,0.5\n2,generator,0.25\n3,critic,0.125\n")
    write(folder / "quality.csv", f"batch,update,fvd\n0,0,9\n3,1,{7 + seed}\n")
    model = {
        "label": "Student",
        "metrics": {"fvd": estimate(7.0 + seed)},
        "by_frame": {"ink": [1.0, 1.5]},
        "clips": ["clips/student_0.webp"],
    }
    card = {"protocol": {"preset": "tiny"}, "prompts": ["a red 3"], "models": {"student": model}}
    write(folder / "cards.json", card)
    write(folder / "clips/student_0.webp", webp(seed))


def make_comparison(root: Path) -> None:
    folder = root / "comparisons" / EXPERIMENT
    gain = {"outcome": "supported", "gain": {**estimate(2.0), "n": 2}, "reason": "the interval is above 0"}
    unknown = {"outcome": "undecided", "gain": None, "reason": "no common budget"}
    paired = {arm: {**estimate(7.5), "seeds": {str(s): 7.0 + s for s in SEEDS}} for arm in ARMS}
    paired["second"] |= {"low": None, "high": None}
    write(
        folder / "comparison.json",
        {
            "experiment": EXPERIMENT,
            "declaration": {"question": "Is the first arm better, by 5% or more?", "claim": "It is.", "seeds": [0, 1]},
            "protocol": {"preset": "tiny"},
            "arms": [{"name": arm, "label": f"The {arm}"} for arm in ARMS],
            "metrics": [{"name": "fvd"}],
            "fingerprints": {arm: {str(s): fingerprint(f"{EXPERIMENT}/{arm}/seed{s}") for s in SEEDS} for arm in ARMS},
            "hypotheses": [
                {
                    "name": "first_wins",
                    "statement": "a|b",
                    "metric": "fvd",
                    "on": {"updates": gain, "teraflops": unknown},
                }
            ],
            "paired": [{"metric": "fvd", "arms": paired}],
            "settings": {"differ": {"init.kind": {"first": "teacher", "second": "random"}}},
            "clips": [{"name": "first", "label": "The first", "files": ["clips/first_0.webp"], "prompts": ["a red 3"]}],
        },
    )
    write(folder / "clips/first_0.webp", webp(9))


def lock_text(outputs: dict[str, str]) -> str:
    stages = "".join(
        f"  stage{i}:\n    cmd: x\n    outs:\n    - path: {path}\n      hash: md5\n      md5: '{md5}'\n"
        for i, (path, md5) in enumerate(outputs.items())
    )
    return f"schema: '2.0'\nstages:\n{stages}"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
