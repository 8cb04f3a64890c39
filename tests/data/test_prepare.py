import json

import numpy as np
import pytest
from attrs import evolve
from test_videos import pattern, save

from harness.config.schema import DataConfig, Splits
from harness.data.mds import load_split
from harness.data.prepare import prepare
from harness.errors import HarnessError


def test_moving_digits(data):
    split = load_split(data.clips / "train")
    assert split["video"].shape == (46, 9, 16, 24, 3)
    assert split["video"].dtype == np.uint8
    assert len(set(split["key"])) == 46
    color, digit = split["attributes"][0]["color"], split["attributes"][0]["digit"]
    assert split["caption"][0].startswith(f"a {color} {digit} moving")
    manifest = json.loads((data.clips / "clips.json").read_text())
    assert manifest["keys"]["train"] == split["key"]
    assert json.loads((data.clips / "report.json").read_text())["problems"] == []


def test_same_settings_same_bytes_and_another_seed_other_clips(data, tmp_path):
    prepare(data.config, tmp_path / "again")
    prepare(evolve(data.config, seed=1), tmp_path / "other")
    for file in ("train/shard.00000.mds", "train/index.json", "clips.json", "report.json"):
        assert (tmp_path / "again" / file).read_bytes() == (data.clips / file).read_bytes()
    assert (tmp_path / "other" / "train/shard.00000.mds").read_bytes() != (
        data.clips / "train/shard.00000.mds"
    ).read_bytes()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "videos"
    for i in range(5):
        save(folder / f"v{i}.gif", pattern(5 + i, 20 + 2 * i, 30))
        (folder / f"v{i}.txt").write_text(f"video number {i}")
    return folder


def settings(folder, train=3):
    return DataConfig(
        source="videos",
        height=16,
        width=24,
        frames=5,
        clips=Splits(train=train, validation=1, test=1),
        path=str(folder),
    )


def test_videos(folder, tmp_path):
    report = prepare(settings(folder), tmp_path / "clips")
    assert report.written == {"train": 3, "validation": 1, "test": 1}
    captions = [c for s in ("train", "validation", "test") for c in load_split(tmp_path / "clips" / s)["caption"]]
    assert sorted(captions) == [f"video number {i}" for i in range(5)]
    assert load_split(tmp_path / "clips" / "test")["attributes"][0]["source"].startswith("v")


def test_a_bad_video_stops_it_unless_skips_are_allowed(folder, tmp_path):
    (folder / "v2.gif").write_bytes(b"GIF89a broken")
    (folder / "v3.txt").write_text("")
    with pytest.raises(HarnessError) as caught:
        prepare(settings(folder), tmp_path / "clips")
    message = str(caught.value)
    assert "2 items cannot be used" in message
    assert "1 cannot be decoded:\n  v2.gif" in message
    assert "1 with an empty caption:\n  v3.gif" in message
    assert not (tmp_path / "clips" / "train").exists()
    report = json.loads((tmp_path / "clips" / "report.json").read_text())
    assert report["counts"] == {"broken": 1, "empty_caption": 1}

    prepare(settings(folder), tmp_path / "clips", allow_skips=True)
    report = json.loads((tmp_path / "clips" / "report.json").read_text())
    assert report["counts"] == {"broken": 1, "empty_caption": 1}
    assert report["written"] == {"train": 1, "validation": 1, "test": 1}


def test_a_bad_video_that_is_not_needed_stops_it_too(folder, tmp_path):
    (folder / "v3.txt").write_text("")
    with pytest.raises(HarnessError, match="1 items cannot be used"):
        prepare(settings(folder, train=1), tmp_path / "clips")
    assert prepare(settings(folder, train=1), tmp_path / "clips", allow_skips=True).counts() == {"empty_caption": 1}


def test_an_earlier_result_survives_a_failure(folder, tmp_path):
    prepare(settings(folder), tmp_path / "clips")
    before = load_split(tmp_path / "clips" / "train")["key"]
    (folder / "v2.gif").write_bytes(b"broken")
    with pytest.raises(HarnessError):
        prepare(settings(folder), tmp_path / "clips")
    assert load_split(tmp_path / "clips" / "train")["key"] == before


def test_too_few_and_too_many(folder, tmp_path):
    with pytest.raises(HarnessError, match=r"too few videos; short of data\.clips: train 3 of 9"):
        prepare(settings(folder, train=9), tmp_path / "clips")
    report = prepare(settings(folder, train=1), tmp_path / "clips")
    assert len(report.surplus) == 2
    assert "2 not needed" in report.summary()


def test_no_path():
    config = DataConfig(source="videos", height=16, width=24, frames=5, clips=Splits(train=1, validation=1, test=1))
    with pytest.raises(HarnessError, match=r"data\.path is not set"):
        prepare(config, "unused")
