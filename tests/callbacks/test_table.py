from pathlib import Path

import pytest

from harness.callbacks.table import Table
from harness.errors import HarnessError


def test_rows_are_in_the_file_at_once_and_new_columns_come_on_the_right(tmp_path):
    table = Table(tmp_path / "t.csv", ["a", "b"])
    table.append({"a": 1, "b": 0.1})
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,0.1\n"
    table.append({"a": 2, "c": "x"})
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n1,0.1,\n2,,x\n"


def test_floats_survive_exactly(tmp_path):
    table = Table(tmp_path / "t.csv", ["a"])
    table.append({"a": 1 / 3})
    assert float((tmp_path / "t.csv").read_text().splitlines()[1]) == 1 / 3


def test_cut_back_and_continued_as_if_nothing_had_happened(tmp_path):
    whole, cut = Table(tmp_path / "whole.csv", ["a"]), Table(tmp_path / "cut.csv", ["a"])
    for n in range(5):
        whole.append({"a": n} if n < 3 else {"a": n, "late": n})
    for n in range(4):
        cut.append({"a": n} if n < 3 else {"a": n, "late": n})
    with open(tmp_path / "cut.csv", "a") as file:
        file.write("4,")  # killed in the middle of a line
    again = Table(tmp_path / "cut.csv", ["a"])
    again.truncate(2)
    for n in range(2, 5):
        again.append({"a": n} if n < 3 else {"a": n, "late": n})
    assert (tmp_path / "cut.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert again.rows == 5


def test_refuses_to_go_on_with_fewer_rows_than_were_saved(tmp_path):
    table = Table(tmp_path / "t.csv", ["a"])
    table.append({"a": 1})
    with pytest.raises(HarnessError, match=r"t\.csv: has 1 rows, the saved state was written after 3"):
        table.truncate(3)


def test_a_full_disk_is_told(tmp_path):
    table = Table(tmp_path / "t.csv", ["a"])
    table.path = Path("/dev/full")
    with pytest.raises(HarnessError, match=r"/dev/full: cannot be written \(No space left"):
        table.append({"a": 1})


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HarnessError, match=r"t\.csv: damaged .*Delete .* and run again"):
        Table(tmp_path / "t.csv", ["a"])
