"""Folders that appear whole or not at all, and the JSON in them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into, and move it to `folder` when the block ends well.

    The folder to write into lies beside `folder` and is named by process; what killed processes left is cleared away.
    A block that fails leaves nothing.
    """
    import psutil

    for old in folder.parent.glob(f".{folder.name}.*.tmp"):
        if not psutil.pid_exists(int(old.name.split(".")[-2])):
            shutil.rmtree(old, ignore_errors=True)
    work = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_json(path: Path, value: dict) -> None:
    """Write a dict as readable JSON; what JSON does not know is written as text."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write one dict a line (JSON Lines)."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows), encoding="utf-8")
