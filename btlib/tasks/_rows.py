"""Data sets in their publishers' own files: a JSON array, JSON Lines, or Parquet.

Rows are checked when a file is opened and read again when asked for: of HotPotQA's half a gigabyte a run needs 3000.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from btlib.errors import BtlibError
from btlib.support.files import check_fields, parse_row

Check = Callable[[dict[str, Any], str], object]
_BLANK = re.compile(r"[\s,]*")


class TextRows:
    """The rows of a .json (one array) or .jsonl file, kept as its text and where each row lies in it."""

    def __init__(self, path: Path, check: Check):
        self.path = path
        self._spans: list[tuple[int, int, str]] = []
        try:
            self._text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BtlibError(f"cannot read {path}: {error}") from error
        for start, end, where, row in self._lines() if path.suffix == ".jsonl" else self._items():
            check(row, where)
            self._spans.append((start, end, where))

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> dict[str, Any]:
        start, end, _ = self._spans[number]
        return json.loads(self._text[start:end])

    def where(self, number: int) -> str:
        return self._spans[number][2]

    def _lines(self) -> Iterator[tuple[int, int, str, Any]]:
        at = 0
        for number, line in enumerate(self._text.split("\n"), start=1):
            where = f"{self.path}, line {number}"
            if line.strip():
                yield at, at + len(line), where, parse_row(line.encode(), where)
            at += len(line) + 1

    def _items(self) -> Iterator[tuple[int, int, str, Any]]:
        decode, at, line = json.JSONDecoder().raw_decode, _BLANK.match(self._text).end(), 1
        if self._text[at : at + 1] != "[":
            raise BtlibError(f"{self.path}, line 1: no JSON array; a .json file holds one list of objects")
        before, at, number = 0, at + 1, 0
        while True:
            at, number = _BLANK.match(self._text, at).end(), number + 1
            line, before = line + self._text.count("\n", before, at), at
            if self._text[at : at + 1] == "]":
                return
            where = f"{self.path}, line {line}, item {number}"
            try:
                row, end = decode(self._text, at)
            except json.JSONDecodeError as error:
                raise BtlibError(f"{where}: no valid JSON ({error.msg}, line {error.lineno})") from error
            yield at, end, where, row
            at = end


class TableRows:
    """The rows of a Parquet file, or of the shards of one; `datasets` gives the same interface for the hub's."""

    def __init__(self, paths: list[Path], fields: tuple[str, ...], check: Check):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = paths[0]
        try:
            self._table = pa.concat_tables([pq.read_table(path, memory_map=True) for path in paths])
        except (OSError, pa.ArrowException) as error:
            raise BtlibError(f"cannot read {self.path}: {str(error).splitlines()[0]}") from error
        for name in fields:
            if name not in self._table.column_names:
                found = ", ".join(self._table.column_names)
                raise BtlibError(f"{self.path}: field {name!r} is missing; the columns are {found}")
        self._check = check

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._table.slice(number, 1).to_pylist()[0]
        self._check(row, self.where(number))
        return row

    def where(self, number: int) -> str:
        return f"{self.path}, row {number + 1}"


Rows = TextRows | TableRows


def open_rows(folder: Path, patterns: tuple[str, ...], fields: dict[str, type], check: Check) -> Rows:
    """Open the first of the patterns ("train.jsonl", "main/train-*.parquet") that has files in `folder`.

    Every row must have `fields` and pass `check(row, where)`; an error names file, line (or row) and field.
    """

    def checked(row: dict[str, Any], where: str) -> None:
        check_fields(row, fields, where)
        check(row, where)

    for pattern in patterns:
        paths = sorted(folder.glob(pattern))
        if paths and paths[0].suffix == ".parquet":
            return TableRows(paths, tuple(fields), checked)
        if paths:
            return TextRows(paths[0], checked)
    raise BtlibError(f"folder {folder} has no {' or '.join(patterns)}")
