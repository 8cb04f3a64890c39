import shutil
from pathlib import Path

import pytest

from harness.cli import main as harness
from harness.config import explain
from harness.config.documents import read_yaml
from harness.config.foreign.verb import main
from harness.config.load import resolve_file
from harness.errors import HarnessError

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"


@pytest.fixture
def here(theirs, monkeypatch):
    """Their files, in a project with our presets."""
    shutil.copy(PARAMS, theirs / "params.yaml")
    monkeypatch.chdir(theirs)
    return theirs


@pytest.mark.parametrize(
    "name", ["self_forcing_dmd", "longlive_train_long", "longlive_inference", "self_forcing_14b_i2v_dmd"]
)
def test_what_is_written_loads_and_is_explained(here, name, capsys):
    assert harness(["translate", f"{name}.yaml", "--out", "ours.yaml", "--strict"]) == 0
    assert "translated (" in capsys.readouterr().out
    assert resolve_file("ours.yaml").method == "dmd"
    assert explain.main(["ours.yaml"]) == 0
    assert "cfg_scale" in capsys.readouterr().out


def test_without_out_the_configuration_is_printed(here, capsys):
    assert main(["self_forcing_dmd.yaml", "--defaults", "default_config.yaml"]) == 0
    assert "preset: wan2_1-t2v-1_3b" in capsys.readouterr().out
    assert sorted(path.name for path in here.glob("*our*")) == []


def test_strict_fails_on_an_unknown_key_and_writes_nothing(here, capsys):
    with open("self_forcing_dmd.yaml", "a") as file:
        file.write("mystery: 1\n")
    assert main(["self_forcing_dmd.yaml", "--out", "ours.yaml", "--strict"]) == 1
    captured = capsys.readouterr()
    assert "unknown (1)" in captured.out
    assert "1 unknown keys; nothing is written" in captured.err
    assert not Path("ours.yaml").exists()
    assert main(["self_forcing_dmd.yaml", "--out", "ours.yaml"]) == 0
    assert Path("ours.yaml").exists()


def test_from_overrides_what_the_keys_say(here, capsys):
    main(["self_forcing_dmd.yaml", "--from", "longlive"])
    assert "max_iters: 10000 (their default)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["self_forcing_dmd.yaml", "--from", "longlive-2"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["missing.yaml"], "missing.yaml: no such file"),
        (["self_forcing_dmd.yaml", "--defaults", "missing.yaml"], "missing.yaml: no such file"),
        (["self_forcing_dmd.yaml", "--out", "params.yaml"], "exists; delete it or choose another name"),
        (["self_forcing_dmd.yaml", "--out", "ours.json"], "expected a name that ends in .yaml"),
        (["params.yaml"], "whose configuration is it"),
    ],
)
def test_mistakes_are_one_message(here, words, expected):
    with pytest.raises(HarnessError, match=expected):
        main(words)


def test_settings_that_do_not_fit_each_other_are_refused_and_not_written(here):
    text = Path("self_forcing_dmd.yaml").read_text().replace("num_frame_per_block: 3", "num_frame_per_block: 22")
    Path("odd.yaml").write_text(text.replace("timestep_shift: 5.0}", "timestep_shift: 5.0, local_attn_size: 6}"))
    with pytest.raises(
        HarnessError, match=r"odd\.yaml: (.|\n)*rollout\.window: must hold the sink and a block(.|\n)*change it there"
    ):
        main(["odd.yaml", "--out", "ours.yaml"])
    assert not Path("ours.yaml").exists()
    assert "num_frame_per_block" in read_yaml("odd.yaml")
