import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from layers import ROOT, imports, modules

from harness.config.documents import read_yaml
from harness.config.load import load_params
from harness.errors import HarnessError
from harness.stages import read_plan

EXPERIMENTS = sorted((ROOT / "experiments").glob("*/dvc.yaml"))
ENTRY = {  # stage → the module that its command runs
    "data": "harness.data.prepare",
    "encoders": "harness.data.encoders",
    "encode": "harness.data.encode",
    "evaluators": "harness.evaluation.fit_evaluators",
    "teacher": "harness.train",
    "evaluate_teacher": "harness.evaluation.run",
    "causal_sft": "harness.train",
    "evaluate_causal_sft": "harness.evaluation.run",
    "teacher_i2v": "harness.train",
    "sft_first_latent": "harness.train",
    "evaluate_teacher_i2v": "harness.evaluation.run",
    "causal_sft_i2v": "harness.train",
    "report": "harness.comparison.report",
    "train": "harness.train",
    "evaluate": "harness.evaluation.run",
    "compare": "harness.comparison.compare",
}
METHOD = {
    "teacher": {"harness.methods.sft"},
    "teacher_i2v": {"harness.methods.sft"},
    "sft_first_latent": {"harness.methods.sft"},
    "causal_sft": {"harness.methods.causal_sft"},
    "causal_sft_i2v": {"harness.methods.causal_sft"},
}
# Say how values are read, kept and shown elsewhere, not what they are. Of the configuration, defaults, metric
# directions and the chunks of long tuning count.
CONFIG = {"harness.config.schema", "harness.config.metrics", "harness.config.chunks"}
NOT_TRACKED = {"harness.errors", "harness.io"} | {
    name
    for name in modules()
    if name.startswith("harness.tracking") or (name.startswith("harness.config.") and name not in CONFIG)
}


def stages(path: Path) -> dict[str, dict[str, Any]]:
    return read_yaml(path)["stages"]


ALL = stages(ROOT / "dvc.yaml") | stages(EXPERIMENTS[0])


def other_methods(stage: str) -> set[str]:
    own = METHOD.get(stage)
    every = {
        name
        for name in modules()
        if name in ("harness.methods.sft", "harness.methods.causal_sft", "harness.methods.dmd")
    }
    return every - own if own else set()


def kind(path: Path) -> str:
    declared = read_yaml(path.with_name("experiment.yaml"))
    if "rollout.image_conditioning" in declared["varied"]:
        return "i2v"
    return "long" if declared["fixed"].get("long") else "short"


KINDS = ("short", "i2v", "long")


@pytest.mark.parametrize("which", KINDS)
def test_experiments_of_a_kind_have_the_same_pipeline(which):
    assert len({path.read_bytes() for path in EXPERIMENTS if kind(path) == which}) == 1
    assert {path.parent for path in EXPERIMENTS} == {p.parent for p in (ROOT / "experiments").glob("*/experiment.yaml")}


def test_kinds_of_experiments_differ_in_the_runs_that_they_start_from_only():
    def without_runs(path: Path) -> dict[str, Any]:
        found = stages(path)
        for stage in found.values():
            stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith(("checkpoints/", "results/"))]
        for stage in ("train", "evaluate"):
            found[stage]["params"][0]["params.yaml"] = [
                name for name in found[stage]["params"][0]["params.yaml"] if not name.endswith((".i2v", ".long"))
            ]
        return found

    text, image, long = (next(path for path in EXPERIMENTS if kind(path) == which) for which in KINDS)
    assert without_runs(text) == without_runs(image) == without_runs(long)


@pytest.mark.parametrize("stage", sorted(ALL))
def test_a_stage_depends_on_the_modules_that_it_runs(stage):
    known = modules()
    skipped = other_methods(stage)
    used = set()
    queue = {ENTRY[stage]}
    while queue:  # as closure(), but another stage's method is not entered
        name = queue.pop()
        used.add(name)
        queue |= (imports(known[name]) & known.keys()) - used - skipped - {"harness"}
    files = {
        known[name].relative_to(ROOT).as_posix() for name in used - NOT_TRACKED if known[name].name != "__init__.py"
    }
    listed = [path for path in ALL[stage]["deps"] if path.startswith("harness/")]
    assert len(listed) == len(set(listed))

    def covers(path: str, file: str) -> bool:
        return file == path or file.startswith(path + "/")

    missing = sorted(file for file in files if not any(covers(path, file) for path in listed))
    assert not missing, f"{stage} runs these, but does not depend on them"
    config = {"harness/config/schema.py", "harness/config/metrics.py"}
    idle = [path for path in listed if path not in config and not any(covers(path, file) for file in files)]
    assert not idle, f"{stage} depends on these, but does not run them"
    assert all((ROOT / path).exists() for path in listed)


@pytest.mark.parametrize("stage", sorted(ALL))
def test_no_stage_switches_the_run_cache_off(stage):
    text = str(ALL[stage])
    for word in ("persist", "always_changed", "frozen"):
        assert word not in text, f"{stage}: {word}"
    for out in ALL[stage].get("outs", []):
        assert isinstance(out, str), f"{stage}: an output that is neither metric nor plot must be cached"
        assert out.startswith(("checkpoints/", "data/")), f"{stage}: {out} would be in git"
    for out in [*ALL[stage].get("metrics", []), *ALL[stage].get("plots", [])]:
        ((path, options),) = out.items()
        assert options == {"cache": False}
        assert path.startswith(("results/", "comparisons/", "reports")), path


@pytest.mark.parametrize("preset", sorted(read_yaml(ROOT / "params.yaml")["presets"]))
def test_every_preset_says_what_image_to_video_and_long_video_change(preset):
    assert {"i2v", "long"} <= read_yaml(ROOT / "params.yaml")["presets"][preset].keys()  # DVC wants each key it is told


def test_a_card_depends_on_that_of_the_teacher():
    for stage in ("evaluate", "evaluate_causal_sft"):
        assert "results/teacher/cards.json" in ALL[stage]["deps"]


@pytest.mark.parametrize("preset", ["smoke", "tiny"])
@pytest.mark.parametrize("stage", ["teacher", "causal_sft", "teacher_i2v", "sft_first_latent", "causal_sft_i2v"])
def test_a_training_stage_tracks_every_setting_that_it_reads(stage, preset):
    run = load_params(ROOT / "params.yaml", preset).preset.run
    method = {"sft_first_latent": "teacher"}.get(stage, stage.removesuffix("_i2v"))
    unread = {"sft", "causal_sft", "dmd", "save_every_batches"} - {{"teacher": "sft"}.get(method, method)}
    assert ("presets.${preset}.i2v" in ALL[stage]["params"]) == (stage not in ("teacher", "causal_sft"))
    prefix = "presets.${preset}.run."
    tracked = {name.removeprefix(prefix) for name in ALL[stage]["params"] if name.startswith(prefix)}
    assert tracked == run.keys() - unread


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """The pipeline's files without what it made, as the working directory."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("dvc.lock"))
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_third_experiment_is_one_more_folder(pipeline):
    shutil.copytree(EXPERIMENTS[0].parent, pipeline / "experiments/third", ignore=shutil.ignore_patterns("dvc.lock"))
    declaration = pipeline / "experiments/third/experiment.yaml"
    own = EXPERIMENTS[0].parent.name
    declaration.write_text(declaration.read_text().replace(f"name: {own}", "name: third"))
    plan = read_plan()
    third = "experiments/third/dvc.yaml:"
    assert f"{third}compare" in plan["report"].needs
    arm = next(iter(read_yaml(declaration)["arms"]))
    train = plan[f"{third}train@{arm}-0"]
    assert f"--target third/{arm}/seed0" in train.command
    assert {"teacher", "causal_sft@0", "evaluate_teacher", "encode", "evaluators"} <= train.needs
    assert f"{third}evaluate@{arm}-0" in plan[f"{third}compare"].needs


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        (["causal_vs_bidirectional", "i2v_vs_t2v"], {"causal_vs_bidirectional", "i2v_vs_t2v"}),
        (["long_tuning"], {"long_tuning", "two_stage_vs_one_stage"}),  # whose students it starts from
    ],
)
def test_a_plan_of_some_experiments_reads_only_the_files_it_needs(pipeline, asked, read):
    whole = read_plan()
    for path in EXPERIMENTS:
        if path.parent.name not in read:
            (pipeline / "experiments" / path.parent.name / "dvc.yaml").write_text("not: [a pipeline")
    plan = read_plan(experiments=asked)
    assert {f"experiments/{name}/dvc.yaml:compare" for name in asked} <= plan.keys()
    assert plan.pop("report").needs == {f"experiments/{name}/dvc.yaml:compare" for name in read}
    assert plan == {name: whole[name] for name in plan}
    assert all(stage.needs <= plan.keys() for stage in plan.values())


@pytest.mark.parametrize("file", ["dvc.yaml", "dvc.lock"])
def test_a_merge_conflict_is_named(pipeline, file):
    whole = (ROOT / file).read_text()
    (pipeline / file).write_text(f"<<<<<<< HEAD\n{whole}=======\n{whole}>>>>>>> theirs\n")
    with pytest.raises(HarnessError, match=rf"^{file}, line 1: a merge conflict\. Keep one side"):
        read_plan()


def test_what_git_and_dvc_ignore():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"/data/", "/checkpoints/", "/.work/", "/.smoke/", "/runs/", "__pycache__/"} <= set(ignored)
    assert not {"/results/", "/comparisons/", "/reports/", "dvc.lock"} & set(ignored)
    assert {"__pycache__", ".venv", ".work", ".smoke"} <= set((ROOT / ".dvcignore").read_text().split())
    assert "analytics = false" in (ROOT / ".dvc/config").read_text()
    assert "autostage" not in (ROOT / ".dvc/config").read_text()


@pytest.mark.parametrize("script", [".ci/run", "scripts/smoke.sh"])
def test_scripts_parse_and_stop_at_the_first_error(script):
    path = ROOT / script
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert "set -euo pipefail" in path.read_text()
    assert path.stat().st_mode & 0o111
