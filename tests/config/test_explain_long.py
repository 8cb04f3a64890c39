from pathlib import Path

from harness.config.explain_long import adapters, long_evaluation, long_tuning
from harness.config.load import resolve_file
from harness.config.schema import LoRAConfig, RunConfig

LONG = (
    "long_tuning.enabled=true",
    "long_tuning.max_frames=33",
    "long_tuning.min_new_frames=6",
    "long_tuning.switch_probability=0.5",
    "rollout.window=9",
    "rollout.sink=3",
)


def run(project: Path, *overrides: str) -> RunConfig:
    return resolve_file(project / "dmd.yaml", overrides, project / "params.yaml")


def told(project: Path, *overrides: str) -> str:
    return "\n".join(f"{name}  {text}" for name, text in long_tuning(run(project, *overrides), 4))


def test_long_tuning_in_words_and_numbers(project):
    text = told(project, *LONG)
    for part in (
        "up to 33 latent frames (129 frames): 4.12 updates",
        "makes 6 or 9 new frames, drawn evenly, the same on all ranks; the first of a sequence 9",
        "a clip of 9: the new frames, and up to 3 before them",
        "(7.73 are new on average)",
        "50% of the sequences change theirs once, at any of the frames 9…27 alike",
        "run again under the new one, the sink of 3 stays",
    ):
        assert part in text
    whole = ("long_tuning.min_new_frames=9", "dmd.critic_updates_per_generator_update=4")
    always = told(project, *LONG, *whole, "long_tuning.switch_probability=0")
    assert "makes 9 new frames; the first of a sequence 9" in always
    assert "one for a sequence" in always
    assert "run again" not in always
    for way, words in (
        ("recache", "the first of them are the sink"),
        ("keep", "stays as it is"),
        ("clear", "is emptied"),
    ):
        assert words in told(project, *LONG, f"rollout.on_switch={way}")


def test_adapters_are_told():
    text = adapters(LoRAConfig(rank=8, alpha=16, share_teacher=True))
    assert "rank 8, scaled by 2 (alpha 16), on every linear layer of the blocks" in text
    assert "the teacher is the critic's base without its adapter" in text
    some = adapters(LoRAConfig(rank=8, targets=("to_q", "to_v")))
    assert "on the layers to_q, to_v," in some
    assert "teacher" not in some


def test_long_clips_are_told(project):
    ((name, text),) = long_evaluation(run(project, "evaluate_frames=36"), 4)
    assert name == "long evaluation"
    assert "clips of 36 latent frames (141 frames) too, 4 times the training length" in text
    assert list(long_evaluation(run(project), 4)) == []
