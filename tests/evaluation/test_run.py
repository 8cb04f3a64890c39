import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from harness.config.load import resolve_target
from harness.config.metrics import METRICS
from harness.data.encode import encode
from harness.data.mds import CLIP_COLUMNS, iter_samples, write_mds
from harness.errors import HarnessError
from harness.evaluation import run as module
from harness.evaluation.fit_evaluators import main as fit
from harness.evaluation.run import entries, evaluate
from harness.io import read_json

TARGETS = ("teacher", "causal_sft/seed0", "toy/low/seed0")


@pytest.fixture(scope="module")
def cards(root) -> dict[str, dict]:
    for target in TARGETS:
        evaluate(target, root)
    return {target: json.loads((root / "results" / target / "cards.json").read_text()) for target in TARGETS}


def test_every_target_has_its_models(cards):
    assert {target: sorted(card["models"]) for target, card in cards.items()} == {
        "teacher": ["codec", "real", "teacher", "teacher_cut", "teacher_cut_cfg"],
        "causal_sft/seed0": ["causal_sft", "causal_sft_cfg", "causal_sft_euler"],
        "toy/low/seed0": ["init", "student"],
    }


def test_every_model_has_every_metric_with_its_interval(cards):
    for card in cards.values():
        for name, model in card["models"].items():
            # no caption here leaves the direction open
            assert set(METRICS) - set(model["metrics"]) <= {"mode_coverage"}, name
            for metric, estimate in model["metrics"].items():
                assert estimate["low"] <= estimate["value"] + 1e-6, (name, metric)
                assert estimate["value"] <= estimate["high"] + 1e-6, (name, metric)
            assert {len(curve) for curve in model["by_frame"].values()} == {9}


def test_one_protocol_for_all(cards):
    first, *others = (card["protocol"] for card in cards.values())
    assert all(other == first for other in others)
    assert first["clips"] == 16
    assert first["different_prompts"] == 12
    assert first["repeats"] == 2
    assert (first["frames"], first["size"]) == (9, [24, 24])


def test_the_cut_models_use_the_students_forwards(cards):
    student = cards["toy/low/seed0"]["models"]["student"]
    assert student["sampler"]["forwards_per_block"] == 2
    assert student["denoiser_forwards_per_video"] == pytest.approx(2 + 2 / 3)
    teacher = cards["teacher"]["models"]
    assert teacher["teacher"]["denoiser_forwards_per_video"] == 6
    for name in ("teacher_cut", "teacher_cut_cfg"):
        assert teacher[name]["denoiser_forwards_per_video"] == 2
    for model in cards["causal_sft/seed0"]["models"].values():
        assert model["sampler"]["forwards_per_block"] == 2


def test_time_is_split_and_apart_from_the_card(cards, root):
    timing = read_json(root / "results/toy/low/seed0/timing.json")["models"]
    assert set(timing) == set(cards["toy/low/seed0"]["models"])
    assert set(timing["student"]["seconds"]) == {"text", "denoiser", "vae"}
    assert timing["student"]["seconds_per_video"] == pytest.approx(sum(timing["student"]["seconds"].values()), rel=0.01)
    assert min(timing["student"]["seconds"].values()) > 0
    assert "real" not in read_json(root / "results/teacher/timing.json")["models"]


def test_a_repeated_evaluation_writes_the_same_card_and_clips(root, cards):
    folder = root / "results/toy/low/seed0"
    files = [folder / "cards.json", *sorted((folder / "clips").iterdir())]
    before = [file.read_bytes() for file in files]
    (folder / "cards.json").unlink()
    evaluate("toy/low/seed0", root)
    assert [file.read_bytes() for file in files] == before


def test_clips_of_all_models_show_the_same_prompts(cards, root):
    assert len({tuple(card["prompts"]) for card in cards.values()}) == 1
    for target, card in cards.items():
        named = [clip for model in card["models"].values() for clip in model["clips"]]
        assert len(named) == 6 * len(card["models"])
        folder = root / "results" / target
        assert sorted(named) == sorted(str(p.relative_to(folder)) for p in (folder / "clips").iterdir())
        with Image.open(folder / named[0]) as image:
            assert image.size == (96, 96)
            assert image.n_frames > 1


def test_real_is_nearer_than_random_models(cards):
    models = cards["teacher"]["models"]
    assert models["real"]["metrics"]["rigid_error"]["value"] < 0.02
    assert models["real"]["metrics"]["motion_accuracy"]["value"] == 1
    assert models["real"]["metrics"]["fvd"]["value"] < models["teacher"]["metrics"]["fvd"]["value"]


def test_evaluating_again_gives_the_same_numbers_and_clips(cards, root):
    folder = root / "results/toy/low/seed0"
    before = {path.name: path.read_bytes() for path in (folder / "clips").iterdir()}
    (folder / "clips/old_9.webp").write_bytes(b"left over")
    card = evaluate("toy/low/seed0", root)
    assert {path.name: path.read_bytes() for path in (folder / "clips").iterdir()} == before
    for name, model in cards["toy/low/seed0"]["models"].items():
        assert card["models"][name]["metrics"] == model["metrics"]


def test_a_poor_teacher_fails_after_its_card_is_written(root, tmp_path):
    for part in ("data", "checkpoints", "experiments"):
        (tmp_path / part).symlink_to(root / part)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["presets"]["small"]["evaluation"]["gate"] = {"caption_accuracy": 0.9, "motion_accuracy": 0.0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(HarnessError, match=r"caption_accuracy 0\.\d+ .* at least 0\.9 wanted"):
        evaluate("teacher", tmp_path)
    assert (tmp_path / "results/teacher/cards.json").is_file()


def test_missing_weights_are_told_before_the_work(root, tmp_path, monkeypatch):
    for part in ("data", "experiments", "params.yaml"):
        (tmp_path / part).symlink_to(root / part)
    shutil.copytree(root / "checkpoints/evaluators", tmp_path / "checkpoints/evaluators")
    shutil.copytree(root / "checkpoints/encoders", tmp_path / "checkpoints/encoders")
    monkeypatch.setattr(module, "test_reference", lambda *a: pytest.fail("work began"))
    with pytest.raises(HarnessError, match="checkpoints/toy/low/seed0/model"):
        evaluate("toy/low/seed0", tmp_path)


def test_samplers_of_a_bidirectional_student(root):
    from attrs import evolve

    from harness.config.schema import EvaluationConfig

    run = resolve_target("toy/low/seed0", root)
    run = evolve(run, rollout=evolve(run.rollout, attention="bidirectional"))
    student, init = entries("toy/low/seed0", run, root, EvaluationConfig())
    assert student.sampler == init.sampler
    assert student.sampler.describe()["forwards_per_video"] == 2


def test_the_same_noise_reaches_every_model(root, monkeypatch):
    seen = []
    original = module.Bench.latents

    def record(self, model, sampler, repeat, watch):
        seen.append((self.seed, tuple(self.prompts.captions), repeat))
        return original(self, model, sampler, repeat, watch)

    monkeypatch.setattr(module.Bench, "latents", record)
    evaluate("toy/low/seed0", root)
    assert seen[:2] == seen[2:]
    assert np.array_equal([repeat for *_, repeat in seen], [0, 1, 0, 1])


def test_real_videos_without_attributes(root, tmp_path):
    """A source of captioned videos: no attribute metrics, video features only, and the card says so."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["presets"]["small"]["data"] |= {"source": "videos", "path": "videos"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "experiments").symlink_to(root / "experiments")
    (tmp_path / "checkpoints").mkdir()
    for part in ("encoders", "toy"):
        (tmp_path / "checkpoints" / part).symlink_to(root / "checkpoints" / part)
    clips = tmp_path / "data/clips"
    for split in ("train", "validation", "test"):
        samples = [dict(sample) | {"attributes": {}} for sample in iter_samples(root / "data/clips" / split)]
        write_mds(clips / split, CLIP_COLUMNS, samples)
    shutil.copy(root / "data/clips/clips.json", clips)
    encode(
        clips,
        tmp_path / "checkpoints/encoders",
        tmp_path / "data/encoded",
        text_length=12,
        position_channels=True,
        work=tmp_path / ".work",
    )
    out = tmp_path / "checkpoints/evaluators"
    fit(["--params", str(tmp_path / "params.yaml"), "--clips", str(clips), "--out", str(out)])
    card = evaluate("toy/low/seed0", tmp_path)
    metrics = card["models"]["student"]["metrics"]
    assert {"fvd", "conditional_distance", "recall", "precision", "diversity", "ink", "saturation"} <= set(metrics)
    assert not {"caption_accuracy", "digit_accuracy", "identity", "rigid_error"} & set(metrics)
    assert "video network only" in card["protocol"]["features"]
    assert "caption accuracies" in card["protocol"]["absent"]


def test_the_card_is_handed_to_the_tracker(monkeypatch, capsys):
    published = []
    card = {"models": {"student": {"metrics": {"fvd": {"value": 1.5}}}}}
    monkeypatch.setattr(module, "evaluate", lambda target: card)
    monkeypatch.setattr(module, "evaluate_request", lambda target, root: target)
    monkeypatch.setattr(module, "publish", lambda make, root: published.append(make()))
    assert module.main("toy/low/seed0") == 0
    assert published == ["toy/low/seed0"]
    assert "student: fvd 1.5" in capsys.readouterr().out
