"""Data sets as their publishers give them: files (a JSON array, JSON Lines, Parquet), or the Hugging Face hub.

Rows of a table are read, and rows checked, when they are asked for: of HotPotQA's 97,852 a run needs 3000.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from btlib.errors import BtlibError
from btlib.support.files import check_fields, read_jsonl


class Rows(Sequence):
    """Rows of a file or of a hub's data set: `rows[n]` is row n, and the place where it stands, for messages.

    `get(n)` reads a row, `place` and its number say where it stands. A row without one of `fields` is an error.
    """

    def __init__(self, count: int, get: Callable[[int], Any], place: str, fields: dict[str, type]):
        self._count, self._get, self._place, self._fields = count, get, place, fields

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[dict[str, Any], str]:
        if not 0 <= number < self._count:
            raise IndexError(number)
        row, place = self._get(number), f"{self._place} {number + 1}"
        check_fields(row, self._fields, place)
        return row, place


def open_rows(folder: Path, patterns: tuple[str, ...], fields: dict[str, type]) -> Rows:
    """Open the first of the patterns ("train.jsonl", "main/train-*.parquet") that has files in `folder`."""
    found = (sorted(folder.glob(pattern)) for pattern in patterns)
    paths = next((paths for paths in found if paths), [])
    if not paths:
        raise BtlibError(f"folder {folder} has no {' or '.join(patterns)}")
    if paths[0].suffix == ".parquet":
        table = _table(paths)
        return Rows(len(table), lambda n: table.slice(n, 1).to_pylist()[0], f"{paths[0]}, row", fields)
    if paths[0].suffix == ".jsonl":
        rows = list(read_jsonl(paths[0], fields))
        return Rows(len(rows), rows.__getitem__, f"{paths[0]}, row", fields)
    rows = _array(paths[0])
    return Rows(len(rows), rows.__getitem__, f"{paths[0]}, item", fields)


def _table(paths: list[Path]) -> Any:
    """Read a table that lies in one file or in several."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pa.concat_tables([pq.read_table(path, memory_map=True) for path in paths])
    except (OSError, pa.ArrowException) as error:
        raise BtlibError(f"cannot read {paths[0]}: {str(error).splitlines()[0]}") from error


def _array(path: Path) -> list[Any]:
    """Read a .json file that holds one list; HotPotQA's mix texts and lists, which no column of Arrow can hold."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise BtlibError(f"cannot read {path}: {error}") from error
    except json.JSONDecodeError as error:
        raise BtlibError(
            f"{path}, line {error.lineno}: no valid JSON ({error.msg}); a .json file holds one list of objects, a file "
            "with one object a line is called .jsonl"
        ) from error
    if not isinstance(found, list):
        raise BtlibError(f"{path}: no JSON array; a .json file holds one list of objects")
    return found


def from_hub(repository: str, config: str, fields: dict[str, type]) -> dict[str, Rows]:
    """Load a data set from the Hugging Face hub (or from its cache, offline); one line when that fails.

    No code of the repository runs: `datasets` has no such feature any more.
    """
    try:
        from datasets import load_dataset

        data = load_dataset(repository, config)
    except Exception as error:  # datasets, huggingface_hub and the HTTP client each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BtlibError(
            f"cannot load {repository} from the hub ({reason[:200]}); go online, or use source 'mini' or a folder"
        ) from error
    return {part: Rows(len(rows), rows.__getitem__, f"{repository} {part}, row", fields) for part, rows in data.items()}
