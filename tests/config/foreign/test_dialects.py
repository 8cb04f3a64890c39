import pytest

from harness.config.documents import read_yaml
from harness.config.foreign.dialects import DIALECTS, NAMES, detect, dialect_called
from harness.config.foreign.theirs import dotted
from harness.errors import HarnessError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("self_forcing_dmd", "self-forcing"),
        ("self_forcing_sid", "self-forcing"),
        ("longlive_train_init", "longlive"),
        ("longlive_train_long", "longlive"),
        ("longlive_inference", "longlive"),
        ("self_forcing_14b_dmd", "self-forcing-plus"),
        ("self_forcing_14b_i2v_dmd", "self-forcing-plus"),
    ],
)
def test_their_files_are_told_apart(theirs, name, expected):
    keys = dict(dotted(read_yaml(theirs / f"{name}.yaml")))
    assert detect(keys, name).name == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["model", "steps"], "f.yaml: has none of the keys .* --from longlive"),
        (["generator_type", "global_sink", "lr"], "could be of longlive or self-forcing-plus; say it with --from"),
        (["infra.sharding_strategy", "algorithm.trainer", "training.lr"], "LongLive 2's layout"),
    ],
)
def test_what_cannot_be_told_is_asked(keys, expected):
    with pytest.raises(HarnessError, match=expected):
        detect(keys, "f.yaml")


def test_names():
    assert {dialect_called(name).name for name in NAMES} == set(NAMES) < {dialect.name for dialect in DIALECTS}
