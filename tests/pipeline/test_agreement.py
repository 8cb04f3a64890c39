"""What differs between training and a sampling call, and where it is known."""

import pytest
from attrs import evolve

from harness.config.schema import RolloutConfig
from harness.io import write_json
from harness.pipeline.agreement import RELEASED, Asked, Trained, differences, trained_as, trained_weights

BOUNDED = RolloutConfig(window=9, sink=3, rope="relative")
TRAINED = Trained(rollout=BOUNDED, frames=36, switches=True, few_step=True, source="a run")
ASKED = Asked(rollout=BOUNDED, frames=36)


def told(trained: Trained = TRAINED, **asked) -> list[str]:
    rollout = evolve(trained.rollout, **asked.pop("rollout", {}))
    return [
        difference.what for difference in differences(trained, Asked(**{"frames": 36, **asked}, rollout=rollout), 4)
    ]


def test_the_same_call_differs_in_nothing():
    assert differences(TRAINED, ASKED, 4) == []
    assert told(frames=3, switches=3) == []
    assert told(frames=10_000) == []  # a window and positions inside it know no length
    assert told(rollout={"exit_step": "last", "gradient_frames": 3, "kv_grad": "straight_through"}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 12),
        ("sink", 0),
        ("rope", "absolute"),
        ("context_sigma", 0.1),
        ("shift", 3.0),
        ("denoising_steps", (1000,)),
        ("frames_per_block", 1),
        ("image_conditioning", "both"),
    ],
)
def test_each_setting_is_told(name, value):
    assert told(rollout={name: value}) == [name]


def test_a_line_says_what_was_trained_what_is_asked_and_what_it_does():
    asked = Asked(rollout=evolve(BOUNDED, window=-1, denoising_steps=(1000, 500)), frames=501)
    lines = [str(difference) for difference in differences(TRAINED, asked, 4)]
    assert lines[0].startswith("window: trained 9 latent frames, asked with all frames in sight: from the window's end")
    assert lines[1].startswith("denoising_steps: trained [1000, 750, 500, 250], asked [1000, 500]: the network")
    assert lines[2].startswith("length: trained up to 141 frames, asked 2,001 frames: without a window every block")


def test_length_matters_without_a_window_or_with_positions_that_grow():
    absolute = evolve(TRAINED, rollout=evolve(BOUNDED, rope="absolute"))
    assert told(absolute, frames=37) == ["length"]
    assert told(absolute, frames=36) == []
    long = Asked(rollout=absolute.rollout, frames=37)
    assert str(differences(absolute, long, 4)[-1]).endswith(": positions beyond those of training")
    assert str(differences(TRAINED, long, 4)[-1]).endswith("; --rope relative keeps them inside the window")
    whole = evolve(TRAINED, rollout=RolloutConfig(attention="bidirectional"))
    assert told(whole, frames=37) == ["length"]
    assert told(whole, rollout={"window": 5, "sink": 1}) == []  # there is no cache


def test_switches_are_compared_where_there_are_any():
    assert told(rollout={"on_switch": "keep"}) == []
    assert told(rollout={"on_switch": "keep"}, switches=1) == ["on_switch"]
    assert told(evolve(TRAINED, switches=False), switches=2) == ["prompt switches"]
    assert told(evolve(TRAINED, switches=None), switches=2) == []


def test_the_ode_is_not_what_a_distilled_generator_learnt():
    assert told(ode_steps=25, rollout={"shift": 3.0}) == ["sampler"]
    assert told(evolve(TRAINED, few_step=False), ode_steps=25, rollout={"shift": 3.0}) == []


def config(method: str = "dmd", **others) -> dict:
    return {"method": method, "frames": 9, "rollout": {"window": 9, "sink": 3, "context_sigma": 0.1}, **others}


def test_a_manifest_of_any_age_is_read(tmp_path):
    def read(**values) -> Trained:
        write_json(tmp_path / "results/e/a/seed0/manifest.json", {"config": config(**values)})
        return trained_as("e/a/seed0", tmp_path)

    old = read(rollout={"window": 9, "sink": 3, "gone_since": 1})
    assert (old.rollout, old.frames, old.switches, old.few_step) == (RolloutConfig(window=9, sink=3), 9, False, True)
    assert old.source == "results/e/a/seed0/manifest.json"
    tuning = {"enabled": True, "max_frames": 36, "switch_probability": 0.5}
    assert (read(long_tuning=tuning).frames, read(long_tuning=tuning).switches) == (36, True)
    assert read(long_tuning=tuning | {"switch_probability": 0.0}).switches is False
    assert read(long_tuning=tuning | {"enabled": False}).frames == 9
    assert read(method="sft").rollout.attention == "bidirectional"
    causal = read(method="causal_sft")  # saw whole clips under a mask
    assert (causal.rollout.window, causal.rollout.sink, causal.rollout.context_sigma) == (-1, 0, 0.0)
    assert not causal.few_step


def test_weights_are_known_by_where_they_lie_or_what_lies_beside_them(tmp_path):
    write_json(tmp_path / "results/e/a/seed0/manifest.json", {"config": config()})
    checkpoints = tmp_path / "checkpoints/e/a/seed0"
    for name, known in (("last", True), ("model", True), ("init", False)):
        (checkpoints / name).mkdir(parents=True)
        assert (trained_weights(checkpoints / name, tmp_path, 4) is not None) is known
    write_json(tmp_path / "runs/mine/manifest.json", {"config": config(frames=12)})
    for name in ("mine", "runs/mine"):
        assert (trained_as(name, tmp_path).frames, trained_as(name, tmp_path).source) == (12, "runs/mine/manifest.json")
    known = trained_weights(tmp_path / "runs/mine/checkpoints/last", tmp_path, 4)
    assert known is not None
    assert known.frames == 12
    saved = tmp_path / "pipeline/transformer"
    saved.mkdir(parents=True)
    assert trained_weights(saved, tmp_path, 4) is None
    write_json(tmp_path / "pipeline/model_index.json", {"rollout": {"window": 5}, "num_frames": 33})
    known = trained_weights(saved, tmp_path, 4)
    assert known is not None
    assert (known.rollout.window, known.frames, known.switches) == (5, 9, None)


@pytest.mark.parametrize(
    ("origin", "known"),
    [
        ({"source": "gdhe17/Self-Forcing/checkpoints/self_forcing_dmd.pt"}, "self_forcing_dmd"),
        ({"source": "base", "lora": {"source": "Efficient-Large-Model/LongLive-1.3B/lora.pt"}}, "LongLive-1.3B"),
        ({"source": "somewhere/else", "lora": None}, None),
    ],
)
def test_released_weights_are_known_by_their_origin(tmp_path, origin, known):
    write_json(tmp_path / "origin.json", origin)
    assert trained_weights(tmp_path, tmp_path, 4) == (None if known is None else RELEASED[known])


def test_an_export_is_known_by_its_run(tmp_path):
    write_json(tmp_path / "results/e/a/seed0/manifest.json", {"config": config()})
    write_json(tmp_path / "exported/origin.json", {"source": "e/a/seed0"})
    known = trained_weights(tmp_path / "exported", tmp_path, 4)
    assert known is not None
    assert known.rollout.context_sigma == 0.1
    write_json(tmp_path / "runs/mine/manifest.json", {"config": config(frames=12)})
    for source in ("mine", "runs/mine", "runs/mine/checkpoints/model"):
        write_json(tmp_path / "exported/origin.json", {"source": source})
        known = trained_weights(tmp_path / "exported", tmp_path, 4)
        assert known is not None
        assert known.frames == 12
    write_json(tmp_path / "exported/origin.json", {"source": "runs/mine/checkpoints/init"})
    assert trained_weights(tmp_path / "exported", tmp_path, 4) is None
