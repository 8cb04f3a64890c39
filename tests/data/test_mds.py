import errno
import json
import os

import numpy as np
import pytest

from harness.data import mds
from harness.data.mds import (
    disk_errors_named,
    iter_samples,
    load_split,
    merge_indices,
    new_folder,
    read_index,
    write_mds,
)
from harness.errors import HarnessError

COLUMNS = {"key": "str", "latent": "ndarray:float16", "text": "ndarray:float16", "caption": "str", "attributes": "json"}


def rows(start, stop):
    for i in range(start, stop):
        yield {
            "key": f"k{i}",
            "latent": np.full((2, 1, 2, 2), i, np.float16),
            "text": np.full((1 + i % 3, 4), i, np.float16),
            "caption": f"caption {i}",
            "attributes": {"i": i},
        }


def test_what_is_written_is_read_back(tmp_path):
    assert write_mds(tmp_path / "a", COLUMNS, rows(0, 5)) == 5
    split = load_split(tmp_path / "a")
    assert split["latent"].shape == (5, 2, 1, 2, 2)
    assert [t.shape[0] for t in split["text"]] == [1, 2, 3, 1, 2]
    assert split["key"] == ["k0", "k1", "k2", "k3", "k4"]
    assert split["attributes"][3] == {"i": 3}
    assert np.array_equal(split["latent"][:, 0, 0, 0, 0], np.arange(5))


def test_what_is_not_picked_is_not_kept(tmp_path):
    write_mds(tmp_path / "a", COLUMNS, rows(0, 5))
    split = load_split(tmp_path / "a", 2, lambda sample: {"key": sample["key"], "first": sample["latent"][:, :1]})
    assert set(split) == {"key", "first"}
    assert split["key"] == ["k0", "k1"]


def test_same_samples_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_mds(tmp_path / name, COLUMNS, rows(0, 4))
    for file in ("index.json", "shard.00000.mds"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_small_shards_and_merged_parts_keep_the_order(tmp_path):
    write_mds(tmp_path / "p0", COLUMNS, rows(0, 5), shard_bytes=600)
    write_mds(tmp_path / "p1", COLUMNS, rows(5, 7))
    assert len(read_index(tmp_path / "p0")) > 1
    assert merge_indices(tmp_path, ["p0", "p1"]) == 7
    assert [s["key"] for s in iter_samples(tmp_path)] == [f"k{i}" for i in range(7)]
    assert [s["key"] for s in iter_samples(tmp_path, 4, 6)] == ["k4", "k5"]


def test_limit(tmp_path):
    write_mds(tmp_path / "a", COLUMNS, rows(0, 5))
    assert load_split(tmp_path / "a", 2)["key"] == ["k0", "k1"]
    with pytest.raises(HarnessError, match="6 samples wanted, it has 5"):
        load_split(tmp_path / "a", 6)


@pytest.mark.parametrize("content", [None, "", '{"version": 2, "sha', '{"version": 2}', '{"shards": [{}]}', "[]"])
def test_damaged_index_is_named(tmp_path, content):
    (tmp_path / "a").mkdir()
    if content is not None:
        (tmp_path / "a" / "index.json").write_text(content)
    with pytest.raises(HarnessError, match=r"a/index\.json"):
        read_index(tmp_path / "a")


def test_undecodable_sample_is_named(tmp_path):
    write_mds(tmp_path / "a", COLUMNS, rows(0, 3))
    shard = tmp_path / "a" / "shard.00000.mds"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(HarnessError, match="sample 2 cannot be decoded"):
        load_split(tmp_path / "a")


def test_missing_shard_is_named(tmp_path):
    write_mds(tmp_path / "a", COLUMNS, rows(0, 3))
    (tmp_path / "a" / "shard.00000.mds").unlink()
    with pytest.raises(HarnessError, match=r"shard\.00000\.mds: shard is missing"):
        load_split(tmp_path / "a")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_named_and_nothing_half_written_stays(tmp_path, monkeypatch, code):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("kept")
    real = mds.MDSWriter.flush_shard
    flushed = []

    def flush(self):
        flushed.append(1)
        if len(flushed) == 2:
            raise OSError(code, os.strerror(code))
        real(self)

    monkeypatch.setattr(mds.MDSWriter, "flush_shard", flush)
    with (
        pytest.raises(HarnessError, match=r"out: disk full while writing \(\d+ MiB free.*Then do this"),
        disk_errors_named(tmp_path / "out", "Then do this"),
        new_folder(tmp_path / "out") as new,
    ):
        write_mds(new / "train", COLUMNS, rows(0, 9), shard_bytes=600)
    assert (tmp_path / "out" / "report.json").read_text() == "kept"
    assert os.listdir(tmp_path) == ["out"]


def test_new_folder_replaces_and_removes_what_a_killed_process_left(tmp_path):
    dead = tmp_path / ".out.new-999999999"
    alive = tmp_path / f".out.new-{os.getppid()}"
    for folder in (dead, alive, tmp_path / "out"):
        folder.mkdir()
        (folder / "report.json").touch()
    with new_folder(tmp_path / "out") as new:
        (new / "fresh").touch()
    assert os.listdir(tmp_path / "out") == ["fresh"]
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize("there", ["out/precious.txt", "out/clips/report.json", "out"])
def test_what_no_data_stage_has_written_is_not_replaced(tmp_path, there):
    path = tmp_path / there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with (
        pytest.raises(HarnessError, match=r"out: is there, and was not written by a data stage"),
        new_folder(tmp_path / "out"),
    ):
        pass
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as new:
        (new / "fresh").touch()
    assert os.listdir(tmp_path / "out") == ["fresh"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    with pytest.raises(HarnessError, match="out: cannot be written"), disk_errors_named(out, "x"), new_folder(out):
        pass


def test_index_has_sums(tmp_path):
    write_mds(tmp_path / "a", COLUMNS, rows(0, 3))
    assert (
        len(json.loads((tmp_path / "a" / "index.json").read_text())["shards"][0]["raw_data"]["hashes"]["sha256"]) == 64
    )
