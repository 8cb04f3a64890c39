import pytest
from attrs import evolve

from harness.io import code_digest
from harness.training import fingerprint as module
from harness.training.fingerprint import fingerprint, import_closure, module_file, training_code

INPUTS = {"data": "d", "teacher": "t"}


@pytest.fixture
def config(project, small_run):
    return small_run(project, "dmd")


def test_equal_for_equal_runs(config):
    assert fingerprint(config, INPUTS) == fingerprint(config, dict(reversed(INPUTS.items())))
    assert len(fingerprint(config, INPUTS)) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda c: evolve(c, seed=1),
        lambda c: evolve(c, dmd=evolve(c.dmd, cfg_scale=1.5)),
        lambda c: evolve(c, rollout=evolve(c.rollout, shift=2.0)),
        lambda c: evolve(c, threads=2),
        lambda c: evolve(c, dmd=evolve(c.dmd, monitor_every_updates=1)),
        lambda c: evolve(c, long_tuning=evolve(c.long_tuning, enabled=True, max_frames=9)),
        lambda c: evolve(c, lora=evolve(c.lora, rank=4)),
    ],
)
def test_another_for_other_settings(config, change):
    assert fingerprint(change(config), INPUTS) != fingerprint(config, INPUTS)


def test_another_where_a_setting_has_its_switch_on(config):
    tuned = evolve(config, long_tuning=evolve(config.long_tuning, enabled=True, max_frames=9))
    adapted = evolve(config, lora=evolve(config.lora, rank=4))
    watched = evolve(config, dmd=evolve(config.dmd, monitor_every_updates=1))
    for first, second in (
        (tuned, evolve(tuned, long_tuning=evolve(tuned.long_tuning, min_new_frames=3))),
        (adapted, evolve(adapted, lora=evolve(adapted.lora, alpha=3.0))),
        (watched, evolve(watched, evaluate_frames=9)),
    ):
        assert fingerprint(first, INPUTS) != fingerprint(second, INPUTS)


def test_another_for_other_inputs_or_processes(config):
    assert fingerprint(config, INPUTS | {"teacher": "u"}) != fingerprint(config, INPUTS)
    assert fingerprint(config, INPUTS, world_size=2) != fingerprint(config, INPUTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: evolve(c, sft=evolve(c.sft, updates=99)),  # another method's
        lambda c: evolve(c, save_every_batches=99),
        lambda c: evolve(c, long_tuning=evolve(c.long_tuning, min_new_frames=3)),  # of what is turned off
        lambda c: evolve(c, lora=evolve(c.lora, alpha=3.0)),
        lambda c: evolve(c, evaluate_frames=9),  # no monitor reads it
        lambda c: evolve(c, data="elsewhere/encoded"),  # the digest says what is there
    ],
)
def test_the_same_for_what_changes_no_number(config, change):
    assert fingerprint(change(config), INPUTS) == fingerprint(config, INPUTS)


def test_the_code_is_that_of_the_run(config, project, small_run):
    names = {path.relative_to(module.PACKAGE).as_posix() for path in training_code(config)}
    assert {
        "methods/dmd.py",
        "methods/long_sequence.py",
        "algorithms/long_tuning.py",
        "rollout/stream.py",
        "config/chunks.py",
        "models/causal_wan.py",
        "rollout/causal.py",
        "diffusion/flow.py",
        "algorithms/updates.py",
        "algorithms/generator_ema.py",
        "callbacks/compute_meter.py",
        "training/checkpointing.py",
        "training/method_builder.py",
        "data/loader.py",
        "seeding.py",
    } <= names
    assert not {"methods/sft.py", "callbacks/progress_line.py", "tracking/background.py"} & names
    assert {"training/session.py", "training/weights.py"} <= names
    assert not {"training/run_store.py", "evaluation/monitor.py"} & names
    monitored = training_code(evolve(config, dmd=evolve(config.dmd, monitor_every_updates=1)))
    assert module_file("harness.evaluation.monitor") in monitored
    sft = {path.name for path in training_code(small_run(project, "sft"))}
    assert "sft.py" in sft
    assert "dmd.py" not in sft


def test_changes_with_code_and_not_with_comments(config, monkeypatch, tmp_path):
    source = module_file("harness.algorithms.updates").read_text()
    copy = tmp_path / "updates.py"
    digests = []
    for text in (source, source + "\n# a remark\n", source.replace("turn % (1 + self.ratio)", "turn % self.ratio")):
        copy.write_text(text)
        digests.append(code_digest([copy]))
    assert digests[0] == digests[1] != digests[2]
    plain = fingerprint(config, INPUTS)
    monkeypatch.setattr(module, "training_code", lambda config: [copy])
    assert fingerprint(config, INPUTS) != plain


def test_closure_follows_imports_inside_functions(tmp_path, monkeypatch):
    package = tmp_path / "harness"
    package.mkdir()
    monkeypatch.setattr(module, "PACKAGE", package)
    (package / "a.py").write_text("def f():\n    from harness import b\n")
    (package / "b.py").write_text("import harness.c\nimport harness.d\nimport os\n")
    (package / "c.py").write_text("import harness.a\n")
    (package / "d.py").write_text("")
    assert [path.name for path in import_closure(["harness.a"])] == ["a.py", "b.py", "c.py", "d.py"]
    assert [path.name for path in import_closure(["harness.a"], without=["harness.d"])] == ["a.py", "b.py", "c.py"]
