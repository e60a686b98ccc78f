"""Find passages for a search query: BM25 over a file of passages, in memory.

The paper retrieves with a frozen ColBERTv2 over five million Wikipedia abstracts (section 4); BM25 over a small file
is what a laptop can hold. A retriever has one method, `search(query, k)`, and is frozen: no step optimizes it.
Taught in notebook 01.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from btlib.errors import BtlibError

SEPARATOR = " | "  # a passage is shown to the LM as "title | text"


class Retriever:
    """BM25 over passages of the form "title | text"; the same query always gives the same passages."""

    def __init__(self, passages: Sequence[str]):
        """Index the passages: English stop words out, no stemming, bm25s's default BM25 (k1 1.5, b 0.75)."""
        if not passages:
            raise BtlibError("a retriever needs at least one passage")
        self.passages = tuple(passages)
        self._index = bm25s.BM25(method="lucene")  # a score of 0 means: no word in common
        self._index.index(_tokenize(self.passages), show_progress=False)

    def search(self, query: str, k: int = 3) -> list[str]:
        """Return up to k passages, best first; ties in the file's order.

        Passages that share no word with the query are left out, so an empty query finds nothing.
        """
        words = _tokenize([query])[0] if query.strip() else []
        if not words:
            return []
        scores = self._index.get_scores(words)
        # A stable sort, not bm25s's partition: equal scores must not depend on the library's version.
        best = np.argsort(-scores, kind="stable")[:k]
        return [self.passages[i] for i in best if scores[i] > 0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Retriever:
        """Return itself: an optimizer copies programs by the dozen, and the index is read-only."""
        return self


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)


def read_jsonl(path: Path, fields: dict[str, type]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file; a missing file, a broken line or field is an error that names it."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise BtlibError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BtlibError(
                f"{path}, line {number}: no valid JSON ({error.msg}); one object a line is expected"
            ) from error
        for name, kind in fields.items():
            value = row.get(name) if isinstance(row, dict) else None
            if not isinstance(value, kind) or (kind is str and not value.strip()):
                raise BtlibError(
                    f"{path}, line {number}: field {name!r} must be a non-empty {kind.__name__}, got {value!r}"
                )
        yield row


@lru_cache(maxsize=4)
def _load(path: Path, stamp: tuple[int, int]) -> Retriever:
    passages = []
    for number, row in enumerate(read_jsonl(path, {"title": str, "text": str}), start=1):
        if SEPARATOR in row["title"]:
            raise BtlibError(f"{path}, line {number}: field 'title' must not hold {SEPARATOR!r}, got {row['title']!r}")
        passages.append(f"{row['title']}{SEPARATOR}{row['text']}")
    if not passages:
        raise BtlibError(f"{path} holds no passages; one JSON object with title and text a line is expected")
    return Retriever(passages)


def load_retriever(path: Path) -> Retriever:
    """Index a passages.jsonl ({"title", "text"} a line), once per file and process."""
    try:
        stat = path.stat()
    except OSError as error:
        raise BtlibError(
            f"cannot read {path}: {error.strerror}; HotPotQA needs a passages.jsonl beside its splits"
        ) from error
    return _load(path.resolve(), (stat.st_mtime_ns, stat.st_size))


def title_of(passage: str) -> str:
    """Return the title of a "title | text" passage."""
    return passage.split(SEPARATOR, 1)[0]


def gold_found(passages: Iterable[str], gold_titles: Iterable[str]) -> list[bool]:
    """Tell for each gold title whether a passage with that title is among the passages."""
    found = {title_of(passage) for passage in passages}
    return [title in found for title in gold_titles]
