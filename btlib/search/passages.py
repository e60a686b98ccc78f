"""Files of passages, one a line, shown to the LM as "title | text"."""

from __future__ import annotations

import codecs
import mmap
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from btlib.errors import BtlibError
from btlib.support.files import check_fields, parse_row

SEPARATOR = " | "  # between a passage's title and its text


class Passages(Sequence):
    """The passages of a file, each read from the disk when it is asked for; `starts` are their lines' offsets."""

    def __init__(self, path: Path, starts: np.ndarray):
        self.path, self.starts = path, starts
        with open(path, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        start = int(self.starts[number])
        end = self._bytes.find(b"\n", start)
        return _passage(self.path, self._bytes[start : end if end >= 0 else None], f"{self.path}, passage {number}")


def read_passages(path: Path, starts: array, progress: bool = False) -> Iterator[str]:
    """Yield a file's passages one at a time, noting in `starts` where each one's line begins; a bar shows the bytes
    read.
    """
    size, at = path.stat().st_size, 0
    with (
        open(path, "rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc="read", disable=not progress) as bar,
    ):
        for number, line in enumerate(file, start=1):
            mark = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
            if line[mark:].strip():
                passage = _passage(path, line[mark:], f"{path}, line {number}")
                starts.append(at + mark)
                yield passage
            at += len(line)
            bar.update(len(line))
    if not starts:
        raise BtlibError(f"{path} holds no passages; one JSON object with title and text (or title TAB text) a line")


def _passage(path: Path, line: bytes, where: str) -> str:
    """Read one line: JSON {"title", "text"} in a .jsonl file (text may be a list of sentences), else title TAB text."""
    if path.suffix == ".jsonl":
        row = parse_row(line, where)
        if isinstance(row, dict) and isinstance(row.get("text"), list):
            row["text"] = " ".join(str(sentence).strip() for sentence in row["text"])
    else:
        try:
            title, _, text = line.decode("utf-8").strip("\r\n").partition("\t")
        except UnicodeDecodeError as error:
            raise BtlibError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
        row = {"title": title, "text": text}
    check_fields(row, {"title": str, "text": str}, where)
    if SEPARATOR in row["title"]:
        raise BtlibError(f"{where}: field 'title' must not hold {SEPARATOR!r}, got {row['title']!r}")
    return f"{row['title']}{SEPARATOR}{row['text']}"


def title_of(passage: str) -> str:
    """Return the title of a "title | text" passage."""
    return passage.split(SEPARATOR, 1)[0]


def gold_found(passages: Iterable[str], gold_titles: Iterable[str]) -> list[bool]:
    """Tell for each gold title whether a passage with that title is among the passages."""
    found = {title_of(passage) for passage in passages}
    return [title in found for title in gold_titles]
