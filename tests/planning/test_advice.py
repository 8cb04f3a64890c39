import pytest
from attrs import evolve

from harness.models.presets import MODELS
from harness.planning import advice
from harness.planning.advice import Change, changed, combinations, exact_changes, other_changes, peak, remedy


def words(changes):
    return [change.words for change in changes]


def test_what_can_be_changed(small):
    found = words(exact_changes(small("dmd", "dmd.rollouts_ahead=true", world_size=2, batch=8)))
    assert found == [
        "dmd.rollouts_ahead=false",
        "parallelism.device_microbatch_size=2",
        "parallelism.device_microbatch_size=1",
        "parallelism.kind=fsdp2",
        "parallelism.activation_checkpointing=true",
        "parallelism.teacher_cpu_offload=true parallelism.kind=fsdp2",
    ]
    done = small("sft", "parallelism.activation_checkpointing=true", batch=1)
    assert exact_changes(done) == []
    sharded = ("parallelism.kind=fsdp2", "parallelism.shard_degree=2", "parallelism.reshard_after_forward=false")
    found = words(exact_changes(small("sft", *sharded, world_size=4)))
    assert {"parallelism.shard_degree=null", "parallelism.reshard_after_forward=true"} <= set(found)


def test_a_teacher_may_be_shared_where_there_are_adapters(small):
    lora, word = ("lora.rank=2", "lora.alpha=2.0"), "lora.share_teacher=true"
    scene = small("dmd", *lora, world_size=2)
    change = next(change for change in exact_changes(scene) if change.words == word)
    assert change.apply(scene).config.lora.share_teacher
    assert peak(change.apply(scene)) < peak(scene)
    shared = words(exact_changes(small("dmd", *lora, word, world_size=2)))
    assert not any(word in text or "teacher_cpu_offload" in text for text in shared)
    for settings in ((), (*lora, "critic=elsewhere")):
        assert word not in words(exact_changes(small("dmd", *settings, world_size=2)))


def test_other_changes(small):
    found = words(other_changes(small("dmd", frames=21, batch=4)))
    assert found[:2] == ["--gpus 2", "--gpus 4"]
    assert "rollout.window=11 rollout.sink=3" in found
    big = MODELS["wan2.1-t2v-14b"]
    scene = evolve(small("dmd"), networks=tuple((role, big) for role in ("generator", "critic", "teacher")))
    assert any("--teacher-model wan2.1-t2v-1.3b" in text for text in words(other_changes(scene)))


def test_a_change_changes_what_it_says(small):
    scene = small("dmd", world_size=2)
    by_words = {change.words: change for change in exact_changes(scene) + other_changes(scene)}
    offload = by_words["parallelism.teacher_cpu_offload=true parallelism.kind=fsdp2"].apply(scene)
    assert (offload.config.parallelism.teacher_cpu_offload, offload.config.parallelism.kind) == (True, "fsdp2")
    assert by_words["--gpus 4"].apply(scene).world_size == 4
    smaller = Change("", "", 1, "score", teacher="tiny").apply(scene)
    assert dict(smaller.networks)["critic"] == MODELS["tiny"] == dict(smaller.networks)["teacher"]
    assert dict(smaller.networks)["generator"] == dict(scene.networks)["generator"]


def test_combinations_come_by_price_and_exclude_each_other():
    a1, a2, b, c = (Change(n, "", w, n[0]) for n, w in (("a1", 1), ("a2", 1.1), ("b", 2), ("c", 3.5)))
    found = ["".join(words(chosen)) for chosen in combinations([a1, a2, b, c])]
    assert found == ["a1", "a2", "b", "a1b", "a2b", "c", "a1c", "a2c", "bc", "a1bc", "a2bc"]


@pytest.fixture
def counted(monkeypatch):
    """Peaks by a table instead of rehearsals."""

    def use(function):
        monkeypatch.setattr(advice, "peak", function)
        monkeypatch.setattr(advice, "held_throughout", lambda scene: {})
        monkeypatch.setattr(advice, "gathered", lambda scene: 0)

    return use


def test_the_cheapest_that_fits(small, counted):
    def size(scene):
        settings = scene.config.parallelism
        return 100 + 25 * scene.microbatch - 30 * settings.activation_checkpointing - 10 * (scene.world_size - 1)

    counted(size)
    scene = small("dmd", batch=4)
    assert words(remedy(scene, 160).changes) == ["parallelism.device_microbatch_size=2"]
    assert words(remedy(scene, 130).changes) == ["parallelism.device_microbatch_size=1"]
    assert words(remedy(scene, 120).changes) == [
        "parallelism.device_microbatch_size=2",
        "parallelism.activation_checkpointing=true",
    ]
    assert remedy(scene, 120).peak == 120
    assert "--gpus 2" in words(remedy(scene, 90).changes)
    assert remedy(scene, 10) is None


def test_with_another_change_no_more_exact_ones_than_it_takes(small, counted):
    def size(scene):
        settings = scene.config.parallelism
        return 100 + 25 * scene.microbatch - 30 * settings.activation_checkpointing - 10 * (scene.world_size - 1)

    counted(size)
    scene = small("dmd", batch=4)
    assert words(remedy(scene, 85).changes) == [
        "--gpus 2",
        "parallelism.device_microbatch_size=1",
        "parallelism.activation_checkpointing=true",
    ]
    counted(lambda scene: size(scene) - 60 * (scene.world_size > 1))
    assert words(remedy(scene, 80).changes) == ["--gpus 2"]
    assert words(remedy(scene, 60).changes) == ["--gpus 2", "parallelism.device_microbatch_size=1"]
    assert words(remedy(scene, 50).changes) == ["--gpus 2", "parallelism.activation_checkpointing=true"]
    assert remedy(scene, 50).peak == 50


def test_the_same_model_judges(small):
    scene = small("sft", batch=4)
    limit = peak(small("sft", "parallelism.device_microbatch_size=2", batch=4))
    cure = remedy(scene, limit)
    assert cure.peak == peak(changed(scene, cure.changes)) == limit < peak(scene)
    assert words(cure.changes) == ["parallelism.device_microbatch_size=2"]
