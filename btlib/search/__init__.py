"""Find passages for a search query: BM25 over a file of passages, or a ColBERTv2 server.

The paper retrieves with a frozen ColBERTv2 over five million Wikipedia abstracts (section 4). Either retriever has one
method, `search(query, k)`, and no step optimizes it. Taught in notebook 01.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from btlib.search.colbert import ColBERT, is_url, public
from btlib.search.passages import SEPARATOR, gold_found, title_of

__all__ = ["SEPARATOR", "ColBERT", "Searcher", "gold_found", "is_url", "load_retriever", "public", "title_of"]


class Searcher(Protocol):
    """What a program needs of a retriever. `name` says in a run's record what was searched."""

    name: str

    def search(self, query: str, k: int = 3) -> list[str]: ...


def load_retriever(source: str | Path, cache: Path | None = None) -> Searcher:
    """Return the retriever of a source: the URL of a ColBERTv2 server, or a file of passages.

    A file holds one passage a line, as `title<TAB>text` or, with the ending .jsonl, as {"title", "text"}. Up to 8 MiB
    it is indexed in memory; a larger one once, into a folder of `cache` (default: cache_dir()) that is named after
    the file's size, time and ends. Once per file and process.
    """
    if is_url(source):
        return ColBERT(str(source), cache=cache)
    from btlib.search.bm25 import load

    return load(source, cache)


def __getattr__(name: str) -> Any:
    """Import BM25, and with it tantivy, when it is asked for."""
    if name == "Retriever":
        from btlib.search.bm25 import Retriever

        return Retriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
