import json

import numpy as np
import pytest

from harness.data.mds import iter_samples, write_mds
from harness.data.selection import containing, select_split
from harness.errors import HarnessError

CAPTIONS = ["a red 3 moving left slowly", "a red 3 moving up quickly", "a blue 7 moving up slowly"]


@pytest.fixture
def split(tmp_path):
    folder = tmp_path / "encoded"
    folder.mkdir()
    (folder / "fingerprint.json").write_text(json.dumps({"vae": "abc"}))
    samples = [{"caption": c, "latent": np.full((2, 3), i, np.float16)} for i, c in enumerate(CAPTIONS * 2)]
    write_mds(folder / "train", {"caption": "str", "latent": "ndarray"}, samples)
    (folder / "test").mkdir()
    return folder / "train"


def test_captions_are_chosen_by_what_they_contain():
    assert containing(CAPTIONS, "slowly") == [0, 2]
    assert containing(CAPTIONS, None) == [0, 1, 2]
    with pytest.raises(HarnessError, match="captions_with: none of 3 captions contains 'sideways'"):
        containing(CAPTIONS, "sideways")


def test_a_selected_split_has_the_chosen_clips_in_their_order(split, tmp_path):
    selected = select_split(split, "slowly", tmp_path / "run" / "selected")
    found = list(iter_samples(selected))
    assert [sample["caption"] for sample in found] == [CAPTIONS[0], CAPTIONS[2]] * 2
    assert [int(sample["latent"][0, 0]) for sample in found] == [0, 2, 3, 5]
    assert selected.name == "train"


def test_what_describes_the_data_is_beside_it(split, tmp_path):
    selected = select_split(split, "slowly", tmp_path / "selected")
    assert json.loads((selected.parent / "fingerprint.json").read_text()) == {"vae": "abc"}
    assert sorted(p.name for p in selected.parent.iterdir()) == ["fingerprint.json", "train"]


def test_an_earlier_selection_is_replaced_whole(split, tmp_path):
    select_split(split, "slowly", tmp_path / "selected")
    selected = select_split(split, "quickly", tmp_path / "selected")
    assert [sample["caption"] for sample in iter_samples(selected)] == [CAPTIONS[1]] * 2


def test_nothing_is_left_where_no_caption_fits(split, tmp_path):
    with pytest.raises(HarnessError, match="captions_with"):
        select_split(split, "sideways", tmp_path / "selected")
    assert not (tmp_path / "selected").exists()
