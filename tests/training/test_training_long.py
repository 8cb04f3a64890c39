"""Whole runs of streaming long tuning: on any number of processes, through an interruption at any place."""

import functools
import signal
from itertools import pairwise

import pytest
import several_processes
import torch
from attrs import evolve
from composer.core import Callback, Event
from several_processes import SAMPLES, cpu_shims, exit_steps, network, rows, train, weights, with_parallelism
from test_session import Killer, same, start, with_killer
from test_session import rows as history
from test_session import weights as saved_weights

from harness.io import directory_digest, read_json, write_json
from harness.models.codec import PCACodec
from harness.training import assembly, state_files
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.run_store import run_folder

# Clips are 3 frames, sequences 7 or 8: a batch in four begins one. The prompt of each changes.
LONG = (
    "long_tuning.enabled=true",
    "long_tuning.max_frames=8",
    "long_tuning.min_new_frames=2",
    "long_tuning.switch_probability=1",
)
ROLLOUT = ("rollout.window=3", "rollout.sink=1", "rollout.rope=relative", "rollout.exit_step=uniform_per_block")
RUN = (
    *LONG,
    *ROLLOUT,
    "dmd.generator_updates=4",
    "dmd.critic_updates_per_generator_update=2",
    "dmd.critic_warmup_updates=2",
    f"dmd.batch_size={SAMPLES}",
    "parallelism.device_microbatch_size=2",
    "save_every_batches=100",
)
BATCHES = 12


def codec(channels):
    """A codec of orthonormal bases that nothing was fitted to."""
    rng = torch.Generator().manual_seed(0)
    made = PCACodec(z_dim=channels, latents_mean=[0.1] * channels, latents_std=[1.5] * channels)
    for basis in (made.first_basis, made.group_basis):
        basis.copy_(torch.linalg.qr(torch.randn(basis.shape, generator=rng)).Q)
    return made.eval()


@pytest.fixture
def project(project):
    """With the VAE that made its data."""
    vae, data = project / "checkpoints/encoders/vae", project / "data/encoded/fingerprint.json"
    codec(16).save_pretrained(vae)
    write_json(data, {**read_json(data), "vae": directory_digest(vae)})
    return project


class Stop(Callback):
    """Ends the training after so many batches."""

    def __init__(self, batches):
        self.batches = batches

    def batch_end(self, state, logger):
        if state.timestamp.batch.value == self.batches:
            state.stop_training()


def run(config, folder, in_processes, ranks=1, stop=None, **settings):
    config = with_parallelism(config, **settings)
    if stop is not None:
        config = evolve(config, save_every_batches=stop)

    def call(rank):
        cpu_shims()
        several_processes.build_training = functools.partial(assembly.build_training, vae=codec(4))
        meter = train(config, folder, rank, ranks, watchers=[] if stop is None else [Stop(stop)]).meter
        if rank == 0:
            (folder / "forwards").write_text(str(meter.forwards))

    assert in_processes(call, ranks) == [0] * ranks
    return folder


@pytest.fixture(scope="module")
def config(small_run, prepared):
    return small_run(prepared, "dmd", *RUN)


@pytest.fixture(scope="module")
def whole(config, in_processes, tmp_path_factory):
    return run(config, tmp_path_factory.mktemp("whole"), in_processes)


def test_sequences_go_on_over_updates_and_begin_again(whole):
    lengths = [int(float(row["sequence_frames"])) for row in rows(whole / "history.csv")]
    assert len(lengths) == BATCHES
    assert lengths[0] == 3
    for before, after in pairwise(lengths):
        assert after - before in (2, 3) if before + 2 <= 8 else after == 3
    assert lengths.count(3) > 2
    assert any(
        float((weights(whole / "generator")[k] - w).abs().mean()) > 1e-5 for k, w in network(1).named_parameters()
    )


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (2, {"kind": "ddp"}),
        pytest.param(2, {"kind": "fsdp1"}, marks=pytest.mark.slow),
        pytest.param(2, {"kind": "fsdp2"}, marks=pytest.mark.slow),
        pytest.param(2, {"kind": "ddp", "activation_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_two_processes_make_the_run_of_one(config, whole, in_processes, tmp_path, ranks, settings):
    folder = run(config, tmp_path, in_processes, ranks, **settings)
    first, second = rows(whole / "history.csv"), rows(folder / "history.csv")
    for a, b in zip(first, second, strict=True):
        assert (a["exit_step"], a["sequence_frames"]) == (b["exit_step"], b["sequence_frames"])
        for name in ("loss", "grad_norm", "sample_std"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=2e-4), (name, a["batch"])
        assert float(b["teraflops"]) == pytest.approx(float(a["teraflops"]), rel=1e-9)
    for name in ("generator", "critic", "ema"):
        expected, found = weights(whole / name), weights(folder / name)
        for key, tensor in expected.items():
            assert float((found[key] - tensor).abs().mean()) < 1e-6, (name, key)
    assert len(set(map(tuple, exit_steps(folder, ranks)))) == 1


@pytest.mark.parametrize("stop", [2, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 3, 4, 7))])
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(config, whole, in_processes, tmp_path, stop):
    run(config, tmp_path, in_processes, stop=stop)
    assert state_files.batches_saved(tmp_path / "states")[-1] == stop
    folder = run(config, tmp_path, in_processes)
    assert rows(folder / "history.csv") == rows(whole / "history.csv")
    for name in ("generator", "critic", "ema"):
        assert same(weights(whole / name), weights(folder / name)), name


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 5])
def test_so_it_does_on_two_processes(config, in_processes, tmp_path, stop):
    whole = run(config, tmp_path / "whole", in_processes, 2)
    run(config, tmp_path / "parts", in_processes, 2, stop=stop)
    assert state_files.batches_saved(tmp_path / "parts/states")[-1] == stop
    folder = run(config, tmp_path / "parts", in_processes, 2)
    for name in ("generator", "critic", "ema"):
        assert same(weights(whole / name), weights(folder / name)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill", [(Event.AFTER_TRAIN_BATCH, 5), (Event.BATCH_CHECKPOINT, 6), (Event.BATCH_END, 7)], ids=str
)
def test_a_killed_run_ends_bit_for_bit_as_if_it_had_not_been(project, small_run, in_processes, monkeypatch, kill):
    """From the command line's own path: the VAE is that of the project, and an input."""
    config = small_run(project, "dmd", *RUN, "save_every_batches=3")
    digests = input_digests(config, project)
    assert "vae" in digests
    assert in_processes(lambda rank: start(project, config)) == [0]
    folder = run_folder(project, fingerprint(config, digests))
    aside = folder.path.with_name("uninterrupted")
    folder.path.rename(aside)
    whole = type(folder)(aside)
    with monkeypatch.context() as patched:
        with_killer(patched, Killer(*kill))
        assert in_processes(lambda rank: start(project, config)) == [-signal.SIGKILL]
    newest = max(state_files.batches_saved(folder.path / "states"))
    saved = state_files.read_state(folder.path / "states", newest)["parts"]["long"]["sequences"]
    assert [sequence["stream"]["frames"] >= 3 for sequence in saved] == [True, True]
    assert in_processes(lambda rank: start(project, config)) == [0]
    for name in ("model", "last"):
        assert same(saved_weights(whole, name), saved_weights(folder, name)), name
    assert history(folder) == history(whole)
    first, second = (read_json(f.output / "manifest.json")["compute"] for f in (whole, folder))
    assert first["teraflops"] == second["teraflops"]


def test_long_tuning_needs_a_vae(config):
    with pytest.raises(ValueError, match="VAE"):
        assembly._long_tuning(config, network(1), None)
