import pytest

from harness.formats.folders import model_folder


@pytest.mark.parametrize("place", ["", "transformer", "model"])
def test_the_network_is_found_under_its_folder(tmp_path, place):
    assert model_folder(tmp_path) is None
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "config.json").touch()
    assert model_folder(tmp_path) == tmp_path / place
