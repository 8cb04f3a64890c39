import shutil

import pytest
from attrs import evolve

from harness.config.load import resolve_target
from harness.errors import HarnessError
from harness.io import write_json
from harness.training.inputs import init_folder, input_digests, input_folders, parents


def test_names_everything_that_is_missing_and_what_makes_it(project, small_run):
    config = small_run(project, "dmd", "dmd.monitor_every_updates=2")
    shutil.rmtree(project / "data")
    shutil.rmtree(project / "checkpoints")
    with pytest.raises(HarnessError) as error:
        input_digests(config, project)
    text = str(error.value)
    for wanted in (
        "data/encoded: no such folder (data); run `dvc repro encode`",
        "checkpoints/teacher/model: no such folder (teacher); run `dvc repro teacher`",
        "checkpoints/evaluators: no such folder (evaluators); run `dvc repro evaluators`",
        "run `dvc repro encoders`",
    ):
        assert wanted in text


def test_names_the_run_that_makes_an_init(project, small_run):
    config = small_run(project, "dmd", "init.kind=causal_sft", "seed=1")
    with pytest.raises(HarnessError, match=r"causal_sft/seed1/model.*--target causal_sft/seed1"):
        input_digests(config, project)


def test_a_missing_folder_of_weights_of_ones_own(project, small_run):
    config = small_run(project, "dmd", "init.kind=checkpoint", "init.path=mine/model")
    with pytest.raises(HarnessError, match=r"mine/model: no such folder \(init\); .*correct `init`"):
        input_digests(config, project)


def test_digests_follow_the_content(project, small_run):
    config = small_run(project, "dmd")
    before = input_digests(config, project)
    assert before.keys() == {"data", "teacher", "init"}
    assert before["teacher"] == before["init"]
    weights = project / "checkpoints/teacher/model/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    index = project / "data/encoded/train/index.json"
    index.write_text(index.read_text() + " ")
    after = input_digests(config, project)
    assert after["teacher"] != before["teacher"]
    assert after["data"] != before["data"]


def test_what_the_monitor_reads_of_the_teachers_card_is_an_input(project, small_run):
    def card(**values: float) -> None:
        found = {name: {"value": value, "low": value, "high": value} for name, value in values.items()}
        write_json(project / "results/teacher/cards.json", {"models": {"teacher": {"metrics": found}}})

    for folder in ("checkpoints/evaluators", "checkpoints/encoders/vae"):
        (project / folder).mkdir(parents=True)
    watched, alone = small_run(project, "dmd", "dmd.monitor_every_updates=2"), small_run(project, "dmd")
    without = input_digests(watched, project)
    card(late_motion=0.5, fvd=10)
    first = input_digests(watched, project)
    assert first.keys() - without.keys() == {"teacher_motion"}
    card(late_motion=0.5, fvd=11)
    assert input_digests(watched, project) == first
    card(late_motion=0.6, fvd=11)
    assert input_digests(watched, project)["teacher_motion"] != first["teacher_motion"]
    assert "teacher_motion" not in input_digests(alone, project)
    assert "teacher_motion" not in input_digests(small_run(project, "sft", "sft.monitor_every_updates=2"), project)


def test_a_teacher_from_random_weights_reads_only_data(project, small_run):
    assert input_digests(small_run(project, "sft"), project).keys() == {"data"}


def test_parents_are_the_runs_behind_the_weights(project, small_run):
    config = small_run(project, "dmd", "init.kind=causal_sft")
    for target, teraflops in (("teacher", 2.0), ("causal_sft/seed0", 1.0)):
        write_json(
            project / "results" / target / "manifest.json",
            {"fingerprint": f"f-{target}", "compute": {"teraflops": teraflops}, "other": 1},
        )
    assert parents(config, project) == [
        {"target": "causal_sft/seed0", "fingerprint": "f-causal_sft/seed0", "compute": {"teraflops": 1.0}},
        {"target": "teacher", "fingerprint": "f-teacher", "compute": {"teraflops": 2.0}},
    ]
    assert parents(evolve(config, teacher="pretrained/wan"), project) == parents(config, project)[:1]


def test_image_to_video_runs_name_what_they_start_from(project):
    shutil.rmtree(project / "checkpoints")
    for target, command in (
        ("teacher_i2v", r"checkpoints/teacher: no such folder \(init\); run `dvc repro teacher`"),
        ("causal_sft_i2v/both/seed1", r"teacher_i2v/model: no such folder \(init\); run `dvc repro teacher_i2v`"),
        ("causal_sft_i2v/first_latent/seed0", r"sft_first_latent: no such folder .*run `dvc repro sft_first_latent`"),
    ):
        with pytest.raises(HarnessError, match=command):
            input_digests(resolve_target(target, project), project)


IMAGE_DMD = (
    "rollout.image_conditioning=both",
    "init.kind=causal_sft",
    "init.path=checkpoints/causal_sft_i2v/both",
    "seed=1",
)


def test_a_causal_start_may_be_named_by_its_folder(project, small_run):
    config = small_run(project, "dmd", *IMAGE_DMD)
    assert init_folder(config, project) == project / "checkpoints/causal_sft_i2v/both/seed1/model"
    with pytest.raises(
        HarnessError, match=r"\(init\); run `python harness/train.py --target causal_sft_i2v/both/seed1`"
    ):
        input_digests(config, project)


def test_parents_of_an_image_to_video_run(project, small_run):
    targets = ("teacher", "teacher_i2v", "sft_first_latent", "causal_sft_i2v/both/seed1")
    for target in targets:
        write_json(project / "results" / target / "manifest.json", {"fingerprint": target, "compute": {}})
    found = parents(small_run(project, "dmd", *IMAGE_DMD), project)
    assert [parent["target"] for parent in found] == ["causal_sft_i2v/both/seed1", "teacher_i2v"]
    assert [parent["target"] for parent in parents(resolve_target("teacher_i2v", project), project)] == ["teacher"]
    shutil.copytree(project / "checkpoints/teacher", project / "checkpoints/sft_first_latent")
    way = resolve_target("causal_sft_i2v/first_latent/seed0", project)
    assert [parent["target"] for parent in parents(way, project)] == ["sft_first_latent"]


def test_long_tuning_reads_the_vae_with_a_monitor_or_without(project, small_run):
    long = ("long_tuning.enabled=true", "long_tuning.max_frames=9", "long_tuning.min_new_frames=2")
    for monitor in ("null", "2"):
        config = small_run(project, "dmd", *long, f"dmd.monitor_every_updates={monitor}")
        assert "vae" in input_folders(config, project)
        with pytest.raises(HarnessError, match=r"\(vae\); run `dvc repro encoders`: long tuning encodes frames anew"):
            input_digests(config, project)
    (project / "checkpoints/encoders/vae").mkdir(parents=True)
    assert "vae" in input_digests(small_run(project, "dmd", *long), project)
    assert "vae" not in input_digests(small_run(project, "dmd"), project)


def test_a_student_is_the_start_of_its_seed(project, small_run):
    config = small_run(project, "dmd", "init={kind: student, path: checkpoints/trial/one}", "seed=1")
    assert init_folder(config, project) == project / "checkpoints/trial/one/seed1/model"
    with pytest.raises(HarnessError, match=r"\(init\); run `python harness/train.py --target trial/one/seed1`"):
        input_digests(config, project)
    write_json(project / "results/trial/one/seed1/manifest.json", {"fingerprint": "f", "compute": {}})
    assert parents(config, project) == [{"target": "trial/one/seed1", "fingerprint": "f", "compute": {}}]
