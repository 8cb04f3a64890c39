import pytest
from their_files import DEFAULTS, FILES


@pytest.fixture
def theirs(tmp_path):
    """The folder with all of their files."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "default_config.yaml").write_text(DEFAULTS)
    return tmp_path
