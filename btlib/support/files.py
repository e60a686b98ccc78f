"""Folders that appear whole or not at all, and JSON files, read with errors that name file, line and field."""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from btlib.errors import BtlibError
from btlib.support.values import json_text


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into, and move it to `folder` when the block ends well.

    The folder to write into lies beside `folder` and is named by machine and process; what killed processes of this
    machine left is cleared away. A block that fails leaves nothing.
    """
    import psutil

    host = re.sub(r"[^\w-]", "-", platform.node()) or "host"
    name = glob.escape(folder.name)
    for old in folder.parent.glob(f".{name}.{host}.*.tmp"):  # of another machine, nobody here knows who lives
        process = old.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(old, ignore_errors=True)
    work = folder.parent / f".{folder.name}.{host}.{os.getpid()}.tmp"
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
    """Write one dict a line (JSON Lines); values of any type come back by `btlib.support.values.from_json`."""
    path.write_text("".join(json_text(row) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path, fields: dict[str, type]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file, one at a time; a missing file, a broken line or field is an error that
    names it.
    """
    try:
        with open(path, "rb") as file:  # in binary, a line ends at \n only: a text may hold U+2028
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = parse_row(line, f"{path}, line {number}")
                    check_fields(row, fields, f"{path}, line {number}")
                    yield row
    except OSError as error:
        raise BtlibError(f"cannot read {path}: {error}") from error


def parse_row(line: bytes, where: str) -> Any:
    """Parse one line of JSON; an error begins with `where`."""
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise BtlibError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise BtlibError(f"{where}: no valid JSON ({error.msg}); one object a line is expected") from error


def check_fields(row: Any, fields: dict[str, type], where: str) -> None:
    """Check that a row has all fields, each of its type and no text blank; an error begins with `where`."""
    for name, kind in fields.items():
        value = row.get(name) if isinstance(row, dict) else None
        if not isinstance(value, kind) or (kind is str and not value.strip()):
            raise BtlibError(f"{where}: field {name!r} must be a non-empty {kind.__name__}, got {value!r:.200}")
