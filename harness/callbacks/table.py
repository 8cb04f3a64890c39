"""A growing CSV file: rows are in the file as soon as they are written, and it can be cut back to a number of them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.io import atomic_write_text

Value = str | int | float


class Table:
    """Rows of a CSV file. Columns that a row brings for the first time are added on the right, empty in earlier rows.

    path      the file; an existing one is kept and continued
    columns   the first columns, in this order
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.first_columns = tuple(columns)
        self.columns = list(columns)
        self.rows = 0
        if path.exists():
            lines = self._read()
            self.columns = lines[0] if lines else self.columns
            self.rows = max(len(lines) - 1, 0)

    def _read(self) -> list[list[str]]:
        """All whole lines; a last line that was cut off while it was written is dropped."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HarnessError(f"{self.path}: damaged ({error}). Delete {self.path.parent} and run again") from error
        return list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))

    def restart(self) -> None:
        """Begin anew: what an attempt that saved no state has written goes."""
        self.path.unlink(missing_ok=True)
        self.columns, self.rows = list(self.first_columns), 0

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows. Raises HarnessError if the file has fewer."""
        lines = self._read() if self.path.exists() else []
        if max(len(lines) - 1, 0) < rows:
            raise HarnessError(
                f"{self.path}: has {max(len(lines) - 1, 0)} rows, the saved state was written after {rows}; "
                f"the file was changed. Delete {self.path.parent} and run again"
            )
        self.rows = rows
        self._rewrite(lines[: rows + 1])

    def append(self, row: Mapping[str, Value]) -> None:
        """Write a row and flush it. Raises HarnessError when the file cannot be written."""
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            lines = self._read() if self.path.exists() else []
            self._rewrite([self.columns, *(line + [""] * len(new) for line in lines[1:])])
        first = not self.path.exists()
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                if first:
                    writer.writerow(self.columns)
                writer.writerow([row.get(name, "") for name in self.columns])
        except OSError as error:
            raise HarnessError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space or fix the permissions; run "
                "again: it goes on from the last saved state"
            ) from error
        self.rows += 1

    def _rewrite(self, lines: list[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        atomic_write_text(self.path, text.getvalue())

    def sync(self) -> None:
        """Force the rows to disk, so that a checkpoint never promises rows that a power cut takes away."""
        if self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
