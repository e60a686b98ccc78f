"""Where a task's files lie, how a JSON Lines split becomes examples, and the way to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy

from btlib.errors import BtlibError
from btlib.support.files import read_jsonl
from btlib.support.paths import data_dir

PARTS = ("train", "dev", "test")


def folder(source: str, task: str) -> Path:
    """Return a task's folder in a source: the repository's own for "mini", else the folder that the source names, or
    the one in it with the task's name.
    """
    path = data_dir() / f"{task}-mini" if source == "mini" else Path(source).expanduser()
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


def from_hub(repository: str, config: str) -> Any:
    """Load a data set from the Hugging Face hub (or from its cache, offline); one line when that fails.

    No code of the repository runs: `datasets` has no such feature any more.
    """
    try:
        from datasets import load_dataset

        return load_dataset(repository, config)
    except Exception as error:  # datasets, huggingface_hub and the HTTP client each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BtlibError(
            f"cannot load {repository} from the hub ({reason[:200]}); go online, or use source 'mini' or a folder"
        ) from error
