import os

import pytest

from harness.errors import HarnessError
from harness.formats.placing import link_or_copy, refuse_foreign, whole_file, whole_folder


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "deep/target"
    for text in ("first", "second"):
        with whole_folder(target) as new:
            (new / text).write_text(text)
            assert not (target / text).exists()
        assert os.listdir(target) == [text]
    assert os.listdir(target.parent) == ["target"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "target"
    with whole_folder(target) as new:
        (new / "old").touch()

    def fail():
        with whole_folder(target) as new:
            (new / "new").touch()
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        fail()
    assert (os.listdir(tmp_path), os.listdir(target)) == (["target"], ["old"])
    rename = type(target).rename

    def fail_for_new(path, to):
        if path.name == "new":
            raise OSError("refused")
        return rename(path, to)

    monkeypatch.setattr(type(target), "rename", fail_for_new)
    with pytest.raises(HarnessError, match="target: cannot be written"), whole_folder(target) as new:
        (new / "new").touch()
    assert (os.listdir(tmp_path), os.listdir(target)) == (["target"], ["old"])


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep/a.pt"
    for text in ("first", "second"):
        with whole_file(target) as new:
            assert new.suffix == ".pt"
            new.write_text(text)
        assert target.read_text() == text

    def fail():
        with whole_file(target) as new:
            new.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(HarnessError, match="No space left"):
        fail()
    assert (target.read_text(), os.listdir(target.parent)) == ("second", ["a.pt"])


def test_what_is_not_ours_is_not_replaced(tmp_path):
    refuse_foreign(tmp_path / "nothing")
    refuse_foreign(tmp_path)
    (tmp_path / "thesis").touch()
    with pytest.raises(HarnessError, match="not written by import or export"):
        refuse_foreign(tmp_path)
    with pytest.raises(HarnessError, match="is a file"):
        refuse_foreign(tmp_path / "thesis")
    (tmp_path / "origin.json").touch()
    refuse_foreign(tmp_path)


def test_links_through_links_and_copies_where_it_must(tmp_path, monkeypatch):
    (tmp_path / "blob").write_text("x")
    (tmp_path / "name").symlink_to("blob")
    link_or_copy(tmp_path / "name", tmp_path / "to/linked")
    assert (tmp_path / "to/linked").samefile(tmp_path / "blob")
    assert not (tmp_path / "to/linked").is_symlink()

    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "name", tmp_path / "copied")
    assert not (tmp_path / "copied").samefile(tmp_path / "blob")
    assert (tmp_path / "copied").read_text() == "x"
