"""The example configurations say what the published files translate to, in fewer words."""

from pathlib import Path

import pytest
from their_files import FILES

from harness.config.documents import parse_yaml
from harness.config.foreign.translate import translate
from harness.config.load import load_params, resolve_file, resolve_values, to_dict

ROOT = Path(__file__).resolve().parents[3]
PARAMS = ROOT / "params.yaml"
PRESETS = {name: load_params(PARAMS, name).preset for name in load_params(PARAMS).raw["presets"]}
BOOKKEEPING = ("save_every_batches",)


@pytest.mark.parametrize(
    ("example", "theirs"),
    [
        ("dmd_self_forcing", "self_forcing_dmd"),
        ("dmd_longlive_init", "longlive_train_init"),
        ("dmd_longlive_long", "longlive_train_long"),
    ],
)
def test_an_example_is_the_translation(example, theirs):
    document = translate(parse_yaml(FILES[theirs], theirs), PRESETS, where=theirs).document
    translated = to_dict(resolve_values(document, theirs, (), PARAMS))
    ours = to_dict(resolve_file(ROOT / "configs" / f"{example}.yaml", (), PARAMS))
    for key in BOOKKEEPING:
        del translated[key], ours[key]
    assert ours == translated
