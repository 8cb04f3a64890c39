import pytest
import torch
from checkpoint_makers import T2V, make_diffusers, make_self_forcing, random_state
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError
from harness.formats.reading import open_checkpoint
from harness.models.checkpoint import WEIGHTS

STATE = random_state(T2V)


def test_the_config_is_whole_and_the_weights_are_not_read(tmp_path, small_presets, same):
    folder = make_diffusers(tmp_path / "a", STATE, T2V)
    found = open_checkpoint(folder)
    assert found.config["rope_max_seq_len"] == 1024
    assert found.config["qk_norm"] == "rms_norm_across_heads"
    same(dict(found.weights.stream()), STATE)
    named = open_checkpoint(make_self_forcing(tmp_path / "a.pt", STATE, T2V))
    assert named.config == found.config
    assert named.chosen == "generator_ema"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("proj_out.bias"), "a: the parameters do not fit.*1 missing: proj_out.bias"),
        (lambda s: s.update({"blocks.0.extra.weight": torch.ones(1)}), "1 unexpected: blocks.0.extra.weight"),
        (lambda s: s.update({"proj_out.bias": torch.ones(3)}), r"proj_out.bias \[3\] instead of \[16\]"),
    ],
)
def test_a_folder_that_does_not_fit_its_config(tmp_path, small_presets, change, words):
    folder = make_diffusers(tmp_path / "a", STATE, T2V)
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    with pytest.raises(HarnessError, match=words):
        open_checkpoint(folder)
