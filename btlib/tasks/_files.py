"""Where a task's files lie, and how a JSON Lines split becomes examples."""

from __future__ import annotations

from pathlib import Path

import dspy

from btlib.errors import BtlibError
from btlib.support.files import read_jsonl
from btlib.support.paths import at_home, data_dir

PARTS = ("train", "dev", "test")


def folder(source: str, task: str) -> Path:
    """Return a task's folder in a source: the repository's own for "mini", else the folder that the source names, or
    the one in it with the task's name.
    """
    path = data_dir() / f"{task}-mini" if source == "mini" else at_home(source)
    if not path.is_dir():
        raise BtlibError(f"unknown data source {source!r}: no folder {path}; choose mini, hub, or an existing folder")
    return path / task if (path / task).is_dir() else path


def is_cut(path: Path) -> bool:
    """Tell a folder that is cut into train.jsonl, dev.jsonl and test.jsonl from one with the publishers' files."""
    return (path / "dev.jsonl").is_file()


def read_parts(path: Path, fields: dict[str, type], inputs: tuple[str, ...]) -> dict[str, list[dspy.Example]]:
    """Read train.jsonl, dev.jsonl and test.jsonl; an id that occurs twice in the three is an error."""
    parts, seen = {}, {}
    for part in PARTS:
        file = path / f"{part}.jsonl"
        rows = list(read_jsonl(file, {"id": str, **fields}))
        for number, row in enumerate(rows, start=1):
            if row["id"] in seen:
                raise BtlibError(f"{file}, row {number}: field 'id' {row['id']!r} is already used in {seen[row['id']]}")
            seen[row["id"]] = file.name
        parts[part] = [dspy.Example(**row).with_inputs(*inputs) for row in rows]
    return parts
