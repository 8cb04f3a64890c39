import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from attrs import evolve
from PIL import Image

from harness.config.load import load_params, resolve_target
from harness.config.metrics import AGAINST_TEACHER, METRICS, OF_IMAGES, OF_LONG_CLIPS
from harness.config.runs import find_run
from harness.data.encode import encode
from harness.data.mds import CLIP_COLUMNS, iter_samples, write_mds
from harness.errors import HarnessError
from harness.evaluation import run as module
from harness.evaluation.evaluators import load_evaluators
from harness.evaluation.fit_evaluators import main as fit
from harness.evaluation.prompts import fixed_prompts
from harness.evaluation.run import entries, evaluate, switched_prompts
from harness.evaluation.switching import TURNED
from harness.io import read_json, write_json

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
            # no caption here leaves the direction open; the gap is of a student that begins above its teacher
            assert set(METRICS) - set(model["metrics"]) - {"fvd_gap"} <= {
                "mode_coverage",
                *OF_IMAGES,
                *OF_LONG_CLIPS,
            }, name
            assert not set(OF_IMAGES) & set(model["metrics"]), name
            for metric, estimate in model["metrics"].items():
                assert estimate["low"] <= estimate["value"] + 1e-6, (name, metric)
                assert estimate["value"] <= estimate["high"] + 1e-6, (name, metric)
            assert {len(curve) for curve in model["by_frame"].values()} == {9}


def test_every_model_is_measured_against_the_teachers_motion(cards):
    teacher = cards["teacher"]["models"]["teacher"]["metrics"]
    assert teacher["static_collapse"]["value"] == 1
    for card in cards.values():
        for model in card["models"].values():
            found = model["metrics"]["late_motion"]["value"] / teacher["late_motion"]["value"]
            assert model["metrics"]["static_collapse"]["value"] == pytest.approx(found, rel=1e-4)


def test_the_gap_is_of_students_and_between_init_and_teacher(cards):
    for target, card in cards.items():
        for name, model in card["models"].items():
            if name != "student":
                assert "fvd_gap" not in model["metrics"], (target, name)
    student, init = (cards["toy/low/seed0"]["models"][name]["metrics"]["fvd"]["value"] for name in ("student", "init"))
    teacher = cards["teacher"]["models"]["teacher"]["metrics"]["fvd"]["value"]
    gap = cards["toy/low/seed0"]["models"]["student"]["metrics"].get("fvd_gap")
    if init > teacher:
        assert gap["value"] == pytest.approx((student - teacher) / (init - teacher), rel=1e-4)
    else:
        assert gap is None


def test_one_protocol_for_all(cards):
    first, *others = (card["protocol"] for card in cards.values())
    assert all(other == first for other in others)
    assert "image" not in first
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
        assert "given" not in card
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


@pytest.mark.parametrize("place", ["clips", "encoded"])
def test_a_damaged_test_clip_is_told_before_the_work(root, tmp_path, monkeypatch, place):
    for part in ("experiments", "params.yaml", "checkpoints"):
        (tmp_path / part).symlink_to(root / part)
    shutil.copytree(root / "data", tmp_path / "data")
    shard = next((tmp_path / "data" / place / "test").rglob("*.mds"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    monkeypatch.setattr(module, "test_reference", lambda *a: pytest.fail("work began"))
    with pytest.raises(HarnessError, match=f"data/{place}/test/.*damaged, its sha256"):
        evaluate("toy/low/seed0", tmp_path)


def test_an_ad_hoc_run_is_evaluated_as_it_was_trained(ad_hoc, cards):
    card = evaluate("mine", ad_hoc)
    assert card == read_json(ad_hoc / "runs/mine/evaluation/cards.json")
    assert (card["target"], card["run"]) == ("runs/mine", "f")
    declared = cards["toy/low/seed0"]
    assert "run" not in declared
    assert card["protocol"] == declared["protocol"]
    forwards = {name: model["sampler"]["forwards"] for name, model in card["models"].items()}
    assert forwards == {"student": 3, "init": 3}
    assert {model["sampler"]["forwards"] for model in declared["models"].values()} == {2}
    for model in card["models"].values():
        assert all((ad_hoc / "runs/mine/evaluation" / clip).is_file() for clip in model["clips"])
    assert not (ad_hoc / "results").exists()


def test_a_run_of_shorter_clips_is_compared_with_real_clips_as_short(ad_hoc, tmp_path, cards):
    for part in ("params.yaml", "data", "checkpoints", "experiments"):
        (tmp_path / part).symlink_to(ad_hoc / part)
    shutil.copytree(ad_hoc / "runs/mine", tmp_path / "runs/short")
    manifest = read_json(tmp_path / "runs/short/manifest.json")
    write_json(tmp_path / "runs/short/manifest.json", manifest | {"config": manifest["config"] | {"frames": 2}})
    card = evaluate("short", tmp_path)
    assert (card["protocol"]["frames"], cards["toy/low/seed0"]["protocol"]["frames"]) == (5, 9)
    for model in card["models"].values():
        assert {len(curve) for curve in model["by_frame"].values()} == {5}
    run = find_run("short", tmp_path).config
    params = load_params(tmp_path / "params.yaml")
    bench = module.build_bench(run, params, load_evaluators(tmp_path / "checkpoints/evaluators"), tmp_path)
    reference, _ = module.test_reference(bench, tmp_path / "data/clips", tmp_path / run.data)
    assert reference.measured.brightness.shape[1] == 5
    assert all(outcome.shown[0].shape[0] == 5 for *_, outcome in module.real_outcomes(bench, tmp_path / "data/clips"))


def test_samplers_of_a_bidirectional_student(root):
    from attrs import evolve

    from harness.config.schema import EvaluationConfig

    run = resolve_target("toy/low/seed0", root)
    run = evolve(run, rollout=evolve(run.rollout, attention="bidirectional"))
    student, init = entries(root / "checkpoints/toy/low/seed0", run, EvaluationConfig())
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


def test_a_damaged_card_of_the_teacher_is_told_before_anything_is_made(root, tmp_path, monkeypatch):
    folder = project(root, tmp_path)
    write_json(folder / "results/teacher/cards.json", {"models": {"teacher": {"metrics": {}}}})
    monkeypatch.setattr(module, "sample_repeats", lambda *_: pytest.fail("made"))
    with pytest.raises(HarnessError, match=r"teacher/cards\.json: protocol is missing"):
        evaluate("toy/low/seed0", folder)


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


WITH_IMAGE = (
    "teacher_i2v",
    "causal_sft_i2v/first_latent/seed0",
    "pictured/channels/seed0",
    "pictured/first_latent/seed0",
    "pictured/both/seed0",
)


@pytest.fixture(scope="module")
def image_cards(image_root) -> dict[str, dict]:
    return {target: evaluate(target, image_root) for target in WITH_IMAGE}


def test_clips_that_were_given_an_image_are_measured_against_it(image_cards):
    for target, card in image_cards.items():
        for name, model in card["models"].items():
            given = name not in ("real", "codec")  # these are clips from elsewhere, with the captions
            assert set(OF_IMAGES) <= set(model["metrics"]) if given else not set(OF_IMAGES) & set(model["metrics"])
            assert ("image_identity" in model["by_frame"]) == given, (target, name)
            assert "static_collapse" in model["metrics"], (target, name)


def test_a_given_first_frame_is_in_the_clip_and_a_random_network_does_not_draw_one(image_cards):
    def psnr(target: str, name: str = "student") -> float:
        return image_cards[target]["models"][name]["metrics"]["first_frame_psnr"]["value"]

    for target in ("pictured/first_latent/seed0", "pictured/both/seed0"):
        assert psnr(target) > psnr("pictured/channels/seed0") + 5
    assert psnr("pictured/first_latent/seed0") == pytest.approx(psnr("pictured/first_latent/seed0", "init"))
    assert psnr("causal_sft_i2v/first_latent/seed0", "causal_sft_cfg") == psnr("pictured/first_latent/seed0")


def test_cards_with_an_image_say_which_and_how(image_cards, cards):
    protocols = [card["protocol"] for card in image_cards.values()]
    assert all(protocol == protocols[0] for protocol in protocols)
    assert len(protocols[0]["image"]["sha256"]) == 64
    assert set(protocols[0]) - set(cards["teacher"]["protocol"]) == {"image"}
    ways = [card["models"]["student"]["sampler"]["image_conditioning"] for card in list(image_cards.values())[2:]]
    assert ways == ["channels", "first_latent", "both"]
    assert "image_conditioning" not in cards["toy/low/seed0"]["models"]["student"]["sampler"]


def test_the_given_images_are_shown_beside_their_clips(image_cards, image_root):
    prompts = fixed_prompts(image_root / "data/encoded", "test", 16, 3, image=True)
    for target, card in image_cards.items():
        folder = image_root / "results" / target
        assert card["given"] == [f"clips/given_{i}.png" for i in range(6)]
        written = read_json(folder / "cards.json")
        named = [*written["given"], *(clip for model in written["models"].values() for clip in model["clips"])]
        assert sorted(named) == sorted(str(path.relative_to(folder)) for path in (folder / "clips").iterdir())
        for path, first in zip(card["given"], prompts.first_frames, strict=False):
            with Image.open(folder / path) as image:
                assert image.size == (96, 96)
                assert np.array_equal(np.asarray(image.convert("RGB"))[::4, ::4], first)


def test_encoding_the_image_is_part_of_the_time(image_cards, image_root):
    seconds = read_json(image_root / "results/pictured/channels/seed0/timing.json")["models"]["student"]["seconds"]
    assert set(seconds) == {"text", "image", "denoiser", "vae"}
    assert min(seconds.values()) > 0


def test_without_the_teachers_card_nothing_is_measured_against_it(root, tmp_path):
    for part in ("data", "checkpoints", "experiments", "params.yaml"):
        (tmp_path / part).symlink_to(root / part)
    metrics = evaluate("toy/low/seed0", tmp_path)["models"]["student"]["metrics"]
    assert not set(AGAINST_TEACHER) & set(metrics)
    assert "late_motion" in metrics


def test_image_to_video_needs_data_with_images(root, tmp_path, image_root):
    for part in ("data", "checkpoints"):
        (tmp_path / part).symlink_to(root / part)
    for part in ("experiments", "params.yaml"):
        (tmp_path / part).symlink_to(image_root / part)
    with pytest.raises(HarnessError, match="image_encoder"):
        evaluate("pictured/channels/seed0", tmp_path)


def test_other_images_and_another_order_are_another_protocol():
    one, two = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    sums = [module._sums(images)["sha256"] for images in ([one, two], [two, one], [one, one])]
    assert len(set(sums)) == 3
    assert module._sums([one.copy(), two.copy()])["sha256"] == sums[0]


UNTURNED = {new: old for old, new in TURNED.items()}
LONG = 7  # latent frames; a training clip has 3


def project(root, folder, **run):
    """A project that shares its files with `root`, whose runs are set otherwise."""
    for part in ("data", "checkpoints", "experiments"):
        (folder / part).symlink_to(root / part)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["presets"]["small"]["run"] |= run
    params["presets"]["small"]["evaluation"] |= {"long_clips": 12}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


@pytest.fixture(scope="module")
def long_card(root, tmp_path_factory) -> tuple[dict, Path]:
    folder = project(root, tmp_path_factory.mktemp("long"), evaluate_frames=LONG)
    evaluate("toy/low/seed0", folder)
    results = folder / "results/toy/low/seed0"
    return read_json(results / "cards.json"), results


def test_a_causal_student_and_its_init_are_evaluated_long(long_card, cards):
    card, _ = long_card
    short = cards["toy/low/seed0"]
    assert card["protocol"] == short["protocol"]  # a teacher's card has no long clips, and still compares
    for name, model in card["models"].items():
        others = {
            metric: e for metric, e in model["metrics"].items() if metric not in (*OF_LONG_CLIPS, *AGAINST_TEACHER)
        }
        assert others == {m: e for m, e in short["models"][name]["metrics"].items() if m not in AGAINST_TEACHER}
        assert set(OF_LONG_CLIPS) <= set(model["metrics"]), name
        for metric in OF_LONG_CLIPS:
            estimate = model["metrics"][metric]
            assert estimate["low"] <= estimate["value"] + 1e-6 <= estimate["high"] + 2e-6, metric
        long = model["long"]
        assert (long["frames"], long["clips"], long["segment_frames"]) == (25, 12, 9)
        assert [segment["start"] for segment in long["segments"]] == [0, 12]
        measured = {"fvd", "caption_accuracy", "motion_accuracy", "identity", "rigid_error", "ink", "saturation"}
        for segment in long["segments"]:
            assert set(segment["metrics"]) == set(segment["real"]) == measured
        assert long["by_frame"]["frame"] == [*range(9), *range(12, 21)]
        assert {len(curve) for curve in long["by_frame"].values()} == {18}
        assert long["cache_mib"][0] == 0
        assert len(long["cache_mib"]) == LONG
        assert model["metrics"]["long_cache"]["value"] == max(long["cache_mib"]) > 0
        last = long["segments"][-1]["metrics"]
        for metric in ("fvd", "caption_accuracy", "motion_accuracy", "identity", "ink", "saturation"):
            assert model["metrics"][f"long_{metric}"]["value"] == pytest.approx(last[metric], rel=1e-5)
        drift = last["fvd"] - long["segments"][0]["metrics"]["fvd"]
        assert model["metrics"]["fvd_drift"]["value"] == pytest.approx(drift, abs=0.01)


def test_the_switch_is_on_the_card(long_card):
    for model in long_card[0]["models"].values():
        switch = model["long"]["switch"]
        assert switch["at"] == 1 + 4 * (3 - 1)
        assert switch["delay_cap"] == 25 - 9
        assert switch["frame"] == list(range(16))
        assert len(switch["obeyed"]) == 16
        assert all(0 <= share <= 1 for share in switch["obeyed"])
        assert 0 <= model["metrics"]["switch_delay"]["value"] <= 16


def test_real_clips_are_the_floor_of_every_segment(long_card):
    model = long_card[0]["models"]["student"]
    for segment in model["long"]["segments"]:
        real = segment["real"]
        assert real["motion_accuracy"] == 1
        assert real["identity"] > 0.9
        assert real["rigid_error"] < 0.02
        assert real["fvd"] < segment["metrics"]["fvd"]


def test_long_clips_can_be_looked_at(long_card):
    card, results = long_card
    named = []
    for name, model in card["models"].items():
        assert model["long"]["clips_files"] == [f"clips/{name}_long_{i}.webp" for i in range(3)]
        named += [*model["clips"], *model["long"]["clips_files"]]
        with Image.open(results / model["long"]["clips_files"][0]) as image:
            assert image.size == (96, 96)
    assert sorted(named) == sorted(str(path.relative_to(results)) for path in (results / "clips").iterdir())


def test_a_long_evaluation_is_the_same_again(long_card, root, tmp_path):
    again = evaluate("toy/low/seed0", project(root, tmp_path, evaluate_frames=LONG))
    first = long_card[0]["models"]
    for name, model in again["models"].items():
        assert model["long"] == first[name]["long"]
    for i in range(3):
        file = f"results/toy/low/seed0/clips/student_long_{i}.webp"
        assert (tmp_path / file).read_bytes() == (long_card[1] / f"clips/student_long_{i}.webp").read_bytes()


def test_bidirectional_students_and_teachers_have_no_long_clips(root, tmp_path, cards):
    preset = yaml.safe_load((root / "params.yaml").read_text())["presets"]["small"]
    rollout = preset["run"]["rollout"] | {"attention": "bidirectional"}
    folder = project(root, tmp_path, evaluate_frames=LONG, rollout=rollout)
    assert module.build_long_bench(None, resolve_target("toy/low/seed0", folder), 12, None, folder) is None
    assert module.build_long_bench(None, resolve_target("teacher", folder), 12, None, folder) is None
    assert not any("long" in model for card in cards.values() for model in card["models"].values())


def test_after_the_switch_the_caption_says_the_same_object_in_another_direction(root):
    prompts = fixed_prompts(root / "data/encoded", "test", 8, 3)
    switched = switched_prompts(prompts, root / "checkpoints/encoders")
    for before, after, old, new in zip(
        prompts.attributes, switched.attributes, prompts.captions, switched.captions, strict=True
    ):
        assert {name for name in before if before[name] != after[name]} == {"direction", "moves"}
        assert new == old.replace(before["direction"], after["direction"])
    assert not torch.equal(switched.condition(0, 8).text, prompts.condition(0, 8).text)
    same = evolve(prompts, attributes=[a | {"moves": UNTURNED[a["moves"]]} for a in prompts.attributes])
    encoded = switched_prompts(same, root / "checkpoints/encoders")  # they turn to what the stored captions say
    assert encoded.captions == prompts.captions
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(encoded.text, prompts.text, strict=True))
