"""Faults of real training runs, planted one at a time in a small project: each is found, and a run without one is not.

Only the code or the data is at fault: the settings that a faulty run claims are those of the reference, but where the
fault is a setting. A run with a seed of its own must leave the band; one that repeats a seed must part from it at once.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from harness.algorithms import alternating_updates, generator_ema
from harness.data.mds import ENCODED_COLUMNS, iter_samples, write_mds
from harness.methods import dmd
from harness.reference.claims import Digests, check_result
from harness.reference.compare_to import compare_to, report
from harness.training import session
from harness.training.fingerprint import fingerprint
from harness.training.inputs import input_digests
from harness.training.request import Request
from harness.training.run_store import materialize, run_folder

_path = Path(__file__).resolve().parents[1] / "training/conftest.py"
_spec = importlib.util.spec_from_file_location("a_project_to_train_in", _path)
assert _spec is not None
assert _spec.loader is not None
_project = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_project)
prepared, small_run, in_processes = _project.prepared, _project.small_run, _project.in_processes

COMMON = ("save_every_batches=1000", "dmd.critic_optimizer.lr=0.002")
SHORT = (*COMMON, "dmd.generator_updates=5", "dmd.critic_warmup_updates=2", "dmd.ema_decay=0.6")
LONG = (*COMMON, "dmd.generator_updates=40", "dmd.critic_warmup_updates=10", "dmd.ema_decay=0.9")


def guidance_of_another_convention():
    """`cond + s·(cond − uncond)` where `uncond + s·(cond − uncond)` is meant: one more than asked for."""
    plain = dmd.guided_velocity
    dmd.guided_velocity = lambda teacher, x, t, both, scale: plain(teacher, x, t, both, scale + 1.0)


def critic_without_gradient():
    """The critic computes its loss, and is never updated."""
    plain = alternating_updates.AlternatingUpdates.apply

    def apply(self, event, state, logger):
        plain(self, event, state, logger)
        if event == alternating_updates.Event.AFTER_TRAIN_BATCH:
            alternating_updates.drop_gradients(self.method.get_submodule("critic"))

    alternating_updates.AlternatingUpdates.apply = apply


def frozen_average():
    """The averaged weights stay what they were at the start."""
    generator_ema.average = lambda shadow, weights, decay: None


def another_shift():
    """Score timesteps of a shift that nobody asked for."""
    plain = dmd.score_timesteps
    dmd.score_timesteps = lambda u, shift, low, high: plain(u, 8.0, low, high)


def no_fault():
    """The code as it is."""


class World:
    """A project that trains runs in processes of their own, so that a fault stays in its run."""

    def __init__(self, root, small_run, in_processes):
        self.root, self.small_run, self.in_processes = root, small_run, in_processes

    def train(self, where, method, seed, *settings, fault=no_fault):
        """Train into `where`; a fault changes the code after the run has got its identity."""
        config = self.small_run(self.root, method, f"seed={seed}", *settings)
        request = Request.ad_hoc("a", config, [])

        def call(rank):
            inputs = input_digests(config, self.root)
            identity = fingerprint(config, inputs)
            folder = run_folder(self.root, identity)
            shutil.rmtree(folder.path)
            folder = run_folder(self.root, identity)
            fault()
            session.train(request, folder, fingerprint=identity, inputs=inputs, root=self.root)
            materialize(folder, self.root / "weights" / where, self.root / where, own=request.own_manifest())

        assert self.in_processes(call) == [0]
        return str(self.root / where)

    def compare(self, run, arm="results/x/a"):
        found = compare_to(run, arm, self.root)
        return found, report(found)


@pytest.fixture(scope="module")
def make_world(prepared, tmp_path_factory, small_run, in_processes):
    """Makes a world with an arm `x/a` of three seeds; a copy of the one prepared project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")

        def make(method, *settings):
            root = tmp_path_factory.mktemp("world")
            shutil.copytree(prepared, root, dirs_exist_ok=True)
            patch.chdir(root)
            world = World(root, small_run, in_processes)
            for seed in range(3):
                world.train(f"results/x/a/seed{seed}", method, seed, *settings)
            return world

        yield make


@pytest.fixture(scope="module")
def long(make_world):
    """The reference that faults are held against, with all its learning in it."""
    return make_world("dmd", *LONG)


def first_to_leave(found):
    return found.comparison.left[0].signal if found.comparison.left else None


def test_an_average_that_stands_still_is_found_and_nothing_else_is(make_world):
    world = make_world("dmd", *SHORT)
    found, text = world.compare(world.train("runs/control", "dmd", 7, *SHORT))
    assert not found.differs, text
    found, text = world.compare(world.train("runs/ema", "dmd", 8, *SHORT, fault=frozen_average))
    assert found.differs, text
    assert first_to_leave(found) == "generator/ema_distance"
    assert found.facts == ()  # nothing but the curves tells


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_runs_without_a_fault_stay_in_the_band(long, seed):
    found, text = long.compare(long.train(f"runs/control{seed}", "dmd", seed, *LONG))
    assert not found.differs, text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "signals"),
    [
        (critic_without_gradient, {"generator/critic_lag", "generator/dmd_gradient_norm", "critic/critic_loss"}),
        (frozen_average, {"generator/ema_distance"}),
    ],
)
def test_a_fault_under_a_seed_of_its_own_leaves_the_band(long, fault, signals):
    found, text = long.compare(long.train(f"runs/{fault.__name__}", "dmd", 7, *LONG, fault=fault))
    assert found.differs, text
    assert first_to_leave(found) in signals, text
    assert found.facts == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "phase", "batch"),
    [
        (guidance_of_another_convention, "generator", 11),  # the first update of the generator, after 10 of the critic
        (another_shift, "critic", 1),
        (critic_without_gradient, "critic", 2),  # one update too late to be seen in its own batch
        (frozen_average, "generator", 11),
    ],
)
def test_a_fault_in_a_replay_shows_at_its_first_batch(long, fault, phase, batch):
    found, text = long.compare(long.train(f"runs/replay_{fault.__name__}", "dmd", 1, *LONG, fault=fault))
    assert found.differs, text
    assert found.pair.leaps
    assert (found.pair.begins.batch, found.pair.begins.signal.partition("/")[0]) == (batch, phase), text


@pytest.mark.slow
def test_a_replay_without_a_fault_is_identical(long):
    found, text = long.compare(long.train("runs/replay", "dmd", 1, *LONG))
    assert found.pair.identical, text
    assert not found.differs


@pytest.mark.slow
def test_a_setting_at_fault_is_named(long):
    settings = (*LONG, "dmd.shift=8", "dmd.cfg_scale=3")
    found, text = long.compare(long.train("runs/settings", "dmd", 1, *settings))
    assert found.differs, text
    assert {fact.key: (fact.run, fact.reference) for fact in found.facts} == {
        "dmd.shift": ("8.0", "3.0"),
        "dmd.cfg_scale": ("3.0", "2.0"),
    }


@pytest.mark.slow
def test_stale_shards_are_found_by_curves_and_by_digests(make_world):
    settings = ("save_every_batches=1000", "sft.updates=20")
    world = make_world("sft", *settings)
    data = world.root / "data/encoded"
    for split in ("train", "validation"):
        samples = [{**sample, "latent": sample["latent"] * 2} for sample in iter_samples(data / split)]
        shutil.rmtree(data / split)
        write_mds(data / split, ENCODED_COLUMNS, samples)
    found, text = world.compare(world.train("runs/stale", "sft", 7, *settings))
    assert found.differs, text
    assert first_to_leave(found) == "generator/velocity_error"
    assert [(fact.kind, fact.key) for fact in found.facts] == [("data", "data")]
    checks = check_result("x/a/seed0", world.root / "results/x/a/seed0", world.root, Digests())
    assert [check.claim for check in checks if check.outcome == "mismatch"] == ["inputs"]
