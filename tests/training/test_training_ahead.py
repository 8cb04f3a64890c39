"""Whole runs with rollouts ahead: the numbers of a rollout per update, on any number of processes, through a kill."""

import signal

import pytest
from composer.core import Event
from several_processes import SAMPLES, cpu_shims, exit_steps, network, rows, train, weights, with_parallelism
from test_session import Killer, same, start, with_killer
from test_session import rows as history
from test_session import weights as saved_weights

from harness.io import read_json
from harness.training import state_files
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.run_store import run_folder

# Four critic updates to warm up, then cycles of a generator update and five critic updates, the last of which is cut in
# two by the end of the first epoch (20 batches).
RUN = (
    "dmd.generator_updates=4",
    "dmd.critic_updates_per_generator_update=5",
    "dmd.critic_warmup_updates=4",
    f"dmd.batch_size={SAMPLES}",
    "rollout.exit_step=uniform_per_block",
    "rollout.denoising_steps=[1000,750,500,250]",
    "parallelism.device_microbatch_size=2",
    "save_every_batches=100",
)
BATCHES = 23


def run(config, folder, in_processes, ranks=1, **settings):
    config = with_parallelism(config, **settings)

    def call(rank):
        cpu_shims()
        meter = train(config, folder, rank, ranks).meter
        if rank == 0:
            (folder / "forwards").write_text(str(meter.forwards))

    assert in_processes(call, ranks) == [0] * ranks
    return folder


@pytest.fixture(scope="module")
def ahead(small_run, prepared):
    return small_run(prepared, "dmd", *RUN, "dmd.rollouts_ahead=true")


@pytest.fixture(scope="module")
def separate(small_run, prepared, in_processes, tmp_path_factory):
    config = small_run(prepared, "dmd", *RUN)
    return run(config, tmp_path_factory.mktemp("separate"), in_processes)


def assert_agrees(one, other):
    """To the tolerances of several processes against one (`test_parallelism`): only the order of sums differs."""
    first, second = rows(one / "history.csv"), rows(other / "history.csv")
    assert len(first) == len(second) == BATCHES
    for a, b in zip(first, second, strict=True):
        assert a["exit_step"] == b["exit_step"]
        for name in ("loss", "grad_norm", "sample_std"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=2e-4), (name, a["batch"])
    for name in ("generator", "critic", "ema"):
        expected, found = weights(one / name), weights(other / name)
        for key, tensor in expected.items():
            assert float((found[key] - tensor).abs().mean()) < 1e-6, (name, key)
    assert any(float((weights(one / "generator")[k] - w).abs().mean()) > 1e-4 for k, w in network(1).named_parameters())


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, {}),
        (2, {"kind": "ddp"}),
        pytest.param(2, {"kind": "ddp", "device_microbatch_size": None}, marks=pytest.mark.slow),
        pytest.param(2, {"kind": "fsdp1"}, marks=pytest.mark.slow),
        pytest.param(2, {"kind": "fsdp2"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_numbers_are_those_of_a_rollout_per_update(ahead, separate, in_processes, tmp_path, ranks, settings):
    folder = run(ahead, tmp_path, in_processes, ranks, **settings)
    assert_agrees(separate, folder)
    first, second = rows(separate / "history.csv"), rows(folder / "history.csv")
    for a, b in zip(first, second, strict=True):
        if a["phase"] == "generator":  # what was spent when the generator has its turn is the same
            assert float(b["teraflops"]) == pytest.approx(float(a["teraflops"]), rel=1e-9)
    calls = [int((f / "forwards").read_text()) * n for f, n in ((separate, 1), (folder, ranks))]
    assert calls[1] < 0.6 * calls[0]
    assert len(set(map(tuple, exit_steps(folder, ranks)))) == 1


KILLS = [(Event.AFTER_TRAIN_BATCH, 5), (Event.BATCH_CHECKPOINT, 6), (Event.BATCH_END, 10)]


@pytest.mark.parametrize(
    "kill", [KILLS[0], *(pytest.param(kill, marks=pytest.mark.slow) for kill in KILLS[1:])], ids=str
)
def test_a_killed_run_ends_bit_for_bit_as_if_it_had_not_been(project, small_run, in_processes, monkeypatch, kill):
    """Epochs are four batches long, the groups of critic updates up to three. State 5 holds a sample that waits."""
    config = small_run(
        project,
        "dmd",
        "dmd.rollouts_ahead=true",
        "dmd.generator_updates=3",
        "dmd.critic_updates_per_generator_update=3",
        "dmd.critic_warmup_updates=2",
        "dmd.batch_size=4",
        "parallelism.device_microbatch_size=2",
        "save_every_batches=5",
    )
    assert in_processes(lambda rank: start(project, config)) == [0]
    folder = run_folder(project, fingerprint(config, input_digests(config, project)))
    aside = folder.path.with_name("uninterrupted")
    folder.path.rename(aside)
    whole = type(folder)(aside)
    with monkeypatch.context() as patched:
        with_killer(patched, Killer(*kill))
        assert in_processes(lambda rank: start(project, config)) == [-signal.SIGKILL]
    assert state_files.batches_saved(folder.path / "states") == [5]
    saved = state_files.read_state(folder.path / "states", 5)
    assert [len(samples) for samples in saved["parts"]["ahead"]["made"]] == [1, 1]
    assert in_processes(lambda rank: start(project, config)) == [0]
    for name in ("model", "last"):
        assert same(saved_weights(whole, name), saved_weights(folder, name)), name
    assert history(folder) == history(whole)
    first, second = (read_json(f.output / "manifest.json")["compute"] for f in (whole, folder))
    assert first["teraflops"] == second["teraflops"]
    assert first["denoiser_forwards"] == second["denoiser_forwards"]
