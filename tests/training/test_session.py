"""Whole runs at the smallest size: what is left behind, and that an interruption changes nothing of it."""

import csv
import os
import shutil
import signal

import pytest
import torch
from attrs import evolve
from composer.core import Callback, Event
from safetensors.torch import load_file, save_file

from harness.data.mds import PROMPT_COLUMNS, iter_samples, write_mds
from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.training import assembly, session, state_files
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.request import Request
from harness.training.run_store import RunFolder, run_folder

TIMES = {"seconds", "device_seconds", "monitor_seconds"}


def start(root, config, monkeypatch=None):
    """Train as the command line does; the run's folder."""
    request = Request.ad_hoc("small", config, ["small.yaml"])
    inputs = input_digests(config, root)
    identity = fingerprint(config, inputs)
    folder = run_folder(root, identity)
    session.train(request, folder, fingerprint=identity, inputs=inputs, root=root)
    return folder


def rows(folder, name="history.csv"):
    with open(folder.output / name, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def weights(folder, name):
    return load_file(folder.output / "checkpoints" / name / "diffusion_pytorch_model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


DMD = ("dmd.generator_updates=3", "dmd.critic_warmup_updates=2", "save_every_batches=3", "dmd.ema_decay=0.9")


def test_sft_leaves_what_it_promises(project, small_run, in_processes):
    config = small_run(project, "sft", "sft.updates=3")
    assert in_processes(lambda rank: start(project, config)) == [0]
    folder = run_folder(project, fingerprint(config, input_digests(config, project)))
    assert folder.finished
    assert [row["update"] for row in rows(folder)] == ["1", "2", "3"]
    manifest = read_json(folder.output / "manifest.json")
    assert manifest["updates"] == {"generator": 3, "critic": 0}
    assert manifest["compute"]["denoiser_forwards"] == 3
    assert manifest["compute"]["teraflops"] > 0
    assert manifest["effective_batch"] == config.sft.batch_size
    assert manifest["best"] is None
    assert manifest["parents"] == []
    assert manifest["inputs"].keys() == {"data"}
    assert same(weights(folder, "model"), weights(folder, "last"))
    assert not (folder.path / "states").exists()


class Killer(Callback):
    """Kills its own process, at once, at an event of a batch."""

    def __init__(self, event, batch):
        self.event, self.batch = event, batch

    def run_event(self, event, state, logger):
        if event == self.event and state.timestamp.batch.value == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def with_killer(monkeypatch, killer):
    """Put the killer among the callbacks, after the history and before the states are saved."""
    plain = assembly.build_training

    def build(*args, watchers, **kwargs):
        return plain(*args, watchers=lambda order, history: [*watchers(order, history), killer], **kwargs)

    monkeypatch.setattr(session, "build_training", build)


@pytest.fixture
def uninterrupted(project, small_run, in_processes):
    """A whole DMD run: its folder, moved away, and its settings."""
    config = small_run(project, "dmd", *DMD)
    assert in_processes(lambda rank: start(project, config)) == [0]
    folder = run_folder(project, fingerprint(config, input_digests(config, project)))
    aside = folder.path.with_name("uninterrupted")
    folder.path.rename(aside)
    return config, type(folder)(aside)


KILLS = [
    (Event.AFTER_TRAIN_BATCH, 7),  # gradients are there, the step is not made
    (Event.BATCH_END, 3),  # after the row of batch 3, before its state
    (Event.BATCH_END, 7),
    (Event.BATCH_CHECKPOINT, 8),
    (Event.FIT_END, 9),
    (Event.BEFORE_FORWARD, 0),
]


@pytest.mark.parametrize(
    "kill", [KILLS[0], *(pytest.param(kill, marks=pytest.mark.slow) for kill in KILLS[1:])], ids=str
)
def test_a_killed_run_ends_as_if_it_had_not_been(project, in_processes, uninterrupted, monkeypatch, kill):
    config, whole = uninterrupted
    with monkeypatch.context() as patched:
        with_killer(patched, Killer(*kill))
        assert in_processes(lambda rank: start(project, config)) == [-signal.SIGKILL]
    folder = run_folder(project, fingerprint(config, input_digests(config, project)))
    assert not folder.finished
    saved = state_files.batches_saved(folder.path / "states")
    assert bool(saved) == (kill[1] > 3)
    assert in_processes(lambda rank: start(project, config)) == [0]
    for name in ("model", "last", "init"):
        assert same(weights(whole, name), weights(folder, name)), name
    assert not same(weights(whole, "last"), weights(whole, "init"))
    assert rows(folder) == rows(whole)
    first, second = (read_json(f.output / "manifest.json")["compute"] for f in (whole, folder))
    assert first["teraflops"] == second["teraflops"]
    assert first["denoiser_forwards"] == second["denoiser_forwards"]


def test_stops_clearly_at_a_gradient_that_is_not_finite(project, small_run, in_processes, monkeypatch, capfd):
    config = small_run(project, "sft", "sft.updates=4", "save_every_batches=1")

    class Poison(Callback):
        def before_backward(self, state, logger):
            if state.timestamp.batch.value == 2:
                state.loss = state.loss * float("nan")

    with_killer(monkeypatch, Poison())

    def call(rank):
        with pytest.raises(HarnessError, match=r"generator is not finite .* update 3"):
            start(project, config)

    assert in_processes(call) == [0]
    folder = run_folder(project, fingerprint(config, input_digests(config, project)))
    identity = fingerprint(config, input_digests(config, project))
    assert state_files.newest_good(folder.path / "states", stage="", fingerprint=identity, world_size=1) == 2
    assert not folder.finished


def test_damaged_shards_are_found_before_training(project, small_run, in_processes):
    config = small_run(project, "sft")
    shard = next((project / "data/encoded/train").glob("*.mds"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)

    def call(rank):
        with pytest.raises(HarnessError, match="damaged"):
            start(project, config)

    assert in_processes(call) == [0]


def test_clips_that_are_too_short_are_refused(project, small_run):
    config = small_run(project, "sft")
    with pytest.raises(HarnessError, match=r"frames: 4 latent frames wanted.* have 3"):
        session.open_data(evolve(config, frames=4), project, project / "work")


def test_latents_of_another_vae_are_refused(project, small_run):
    config = small_run(project, "sft")
    session.open_data(config, project, project / "work")  # without the encoders nothing can be compared
    vae = project / "checkpoints/encoders/vae"
    vae.mkdir(parents=True)
    (vae / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"fingerprint.json: this data was encoded by something else:\n  vae: "):
        session.open_data(config, project, project / "work")


def test_a_run_that_ends_early_says_how_far_it_came_and_is_complete(project, small_run, in_processes, monkeypatch):
    config = small_run(project, "sft", "sft.monitor_every_updates=1", "monitor.patience=2", "save_every_batches=1")
    folder = run_folder(project, "ab" * 32)
    monkeypatch.setattr(session, "_monitor", lambda config, root, folder: lambda network: {"fvd": 1.0})
    finish = RunFolder.finish

    def killed_at_the_end(self, manifest):
        os._exit(9)

    def call(rank):
        request = Request.ad_hoc("small", config, ["small.yaml"])
        session.train(request, folder, fingerprint="ab" * 32, inputs={}, root=project)

    monkeypatch.setattr(RunFolder, "finish", killed_at_the_end)
    assert in_processes(call) == [9]
    monkeypatch.setattr(RunFolder, "finish", finish)
    assert in_processes(call) == [0]
    assert read_json(folder.output / "manifest.json")["updates"]["generator"] == 3  # the first was the best
    assert [row["update"] for row in rows(folder)] == ["1", "2", "3"]


def as_prompts(root, **different):
    """`data/prompts` with the texts of the clips of `data/encoded`, in their order."""
    folder = root / "data/prompts"
    rows = list(iter_samples(root / "data/encoded/train"))
    write_mds(folder / "prompts", PROMPT_COLUMNS, ({name: row[name] for name in PROMPT_COLUMNS} for row in rows))
    shutil.copy(root / "data/encoded/unconditional.safetensors", folder)
    fingerprint = read_json(root / "data/encoded/fingerprint.json")
    write_json(folder / "fingerprint.json", fingerprint | different)


def test_distillation_from_prompts_is_that_from_clips_with_these_captions(project, small_run, in_processes):
    as_prompts(project)
    of_clips, of_prompts = (small_run(project, "dmd", *DMD, *words) for words in ((), ("prompts=data/prompts",)))
    assert in_processes(lambda rank: start(project, of_clips)) == [0]
    expected = run_folder(project, fingerprint(of_clips, input_digests(of_clips, project)))
    (project / "data/encoded").rename(project / "gone")  # no clip is needed
    assert in_processes(lambda rank: start(project, of_prompts)) == [0]
    folder = run_folder(project, fingerprint(of_prompts, input_digests(of_prompts, project)))
    assert same(weights(folder, "last"), weights(expected, "last"))
    assert rows(folder) == rows(expected)
    assert read_json(folder.output / "manifest.json")["inputs"].keys() == {"prompts", "teacher", "init"}


def test_prompts_and_the_monitors_clips_must_have_one_text_encoder(project, small_run):
    as_prompts(project, text_encoder="another")
    config = small_run(project, "dmd", "prompts=data/prompts", "dmd.monitor_every_updates=1")
    with pytest.raises(HarnessError, match=r"(?s)text_encoder: 'another' here, None wanted.*harness prompts LIST\.txt"):
        session.open_data(config, project, project)
    shape = session.open_data(evolve(config, dmd=evolve(config.dmd, monitor_every_updates=None)), project, project)
    assert shape.dataloader is not None


def test_guidance_leads_away_from_the_negative_prompt_in_distillation_alone(project, small_run):
    words = torch.ones(2, 64, dtype=torch.float16)
    save_file({"text": words}, project / "data/encoded/negative.safetensors")
    for method, expected in (("dmd", 2 * 64), ("causal_sft", 0), ("sft", 0)):
        batch = next(iter(session.open_data(small_run(project, method), project, project).dataloader))
        assert batch["condition"].unconditional_text.sum() == expected


def test_a_damaged_validation_clip_is_told_before_it_is_measured(project, small_run):
    shutil.copytree(project / "data/encoded/validation", project / "data/clips/validation")
    config = small_run(project, "dmd", "dmd.monitor_every_updates=1")
    session.open_data(config, project, project)
    for place in ("encoded", "clips"):
        (shard,) = (project / "data" / place / "validation").glob("*.mds")
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(HarnessError, match=f"data/{place}/validation/.*damaged, its sha256"):
            session.open_data(config, project, project)
        session.open_data(small_run(project, "dmd"), project, project)  # which does not look at it
        shard.write_bytes(whole)


def test_a_state_that_holds_something_else_is_told(project, small_run, in_processes, monkeypatch):
    config = small_run(project, "dmd", *DMD)
    with monkeypatch.context() as patched:
        with_killer(patched, Killer(Event.BATCH_END, 5))
        assert in_processes(lambda rank: start(project, config)) == [-signal.SIGKILL]
    monkeypatch.setattr("harness.training.checkpointing.read_state", lambda *_: {"weights": {}})

    def refused(rank):
        with pytest.raises(HarnessError, match=r"does not hold what this run has .*Delete that folder and run again"):
            start(project, config)

    assert in_processes(refused) == [0]
