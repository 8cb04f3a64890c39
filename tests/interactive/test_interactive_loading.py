"""What can be shown interactively, and the one line that is said of what cannot."""

import pytest
import yaml
from attrs import evolve
from image_project import SIZE, photo, target

from harness.config.schema import RolloutConfig
from harness.errors import HarnessError
from harness.interactive.loading import load_film, unlike_training
from harness.pipeline.agreement import Trained


def test_what_is_said_before_it_begins(project, tmp_path):
    loaded = load_film(target("none"), project)
    assert "trained without a window" in loaded.notes[0]
    assert loaded.fps == 8
    assert loaded.film.shape == (16, 3, SIZE // 4, SIZE // 4)
    small = photo(tmp_path / "small.png", size=(8, 8))
    loaded = load_film(target("both"), project, image=str(small), asked={"window": 4, "sink": None})
    assert loaded.film.rollout.window == 4
    assert not any("trained without a window" in note for note in loaded.notes)
    assert "small.png" in loaded.notes[-1]


def test_what_differs_from_training_is_said(project):
    notes = load_film(target("none"), project, asked={"window": 2}).notes
    told = [note.partition("): ")[2].partition(":")[0] for note in notes]
    assert told == ["window", "prompt switches", "length"]
    assert "asked a video without an end: positions beyond those of training" in notes[2]
    assert "asked as many as are typed" in notes[1]
    trained = Trained(rollout=RolloutConfig(window=9), frames=9, switches=True, few_step=True, source="")
    assert unlike_training(trained, evolve(trained.rollout, rope="relative"), 4)[0].what == "rope"
    relative = evolve(trained, rollout=evolve(trained.rollout, rope="relative"))
    assert unlike_training(relative, relative.rollout, 4) == []


def test_causal_sft_is_causal_whatever_the_rollout_says(project, tmp_path):
    loaded = load_film("causal_sft_i2v/both/seed0", project, image=str(photo(tmp_path / "p.png")))
    assert loaded.film.rollout.attention == "causal"


@pytest.mark.parametrize(
    ("name", "image", "words"),
    [
        ("teacher", None, "teacher: takes many guided steps"),
        ("none", "p.png", "--image p.png: ways/none/seed0 makes video from text alone"),
        ("both", None, "makes video from a picture: give --image"),
        ("both", "missing.png", "missing.png"),
        ("nobody/seed0", None, "nobody"),
    ],
)
def test_what_cannot_be_shown(project, name, image, words):
    with pytest.raises(HarnessError, match=words):
        load_film(target(name) if name in ("none", "both") else name, project, image=image)


def test_a_bidirectional_generator_is_refused_before_it_is_read(project, tmp_path):
    for name in ("params.yaml", "experiments/ways/experiment.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((project / name).read_text())
    file = tmp_path / "experiments/ways/experiment.yaml"
    values = yaml.safe_load(file.read_text())
    values["fixed"]["rollout.attention"] = "bidirectional"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(HarnessError, match="bidirectional, so it makes whole clips"):
        load_film(target("none"), tmp_path)
