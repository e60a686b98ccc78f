"""BM25 over passages, by tantivy: a small file in memory, a large one indexed once and memory-mapped ever after.

BM25 is Lucene's, with k1 = 1.2 and b = 0.75. With N passages, n of them with the word, the word f times in a passage
of d words, and passages of D words on average, a word of the query gives the passage

    ln(1 + (N - n + 0.5) / (n + 0.5)) * f * (k1 + 1) / (f + k1 * (1 - b + b * d / D))

where d is kept in one byte: exact up to 40 words, in growing steps beyond. Notebook 01 computes it by hand.
"""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tantivy

from btlib.errors import BtlibError
from btlib.search.passages import Passages, read_passages, title_of
from btlib.support.files import whole_folder, write_json
from btlib.support.paths import at_home, cache_dir

IN_MEMORY = 8 << 20  # bytes: files up to this size are indexed in memory, in about a second, and leave no index behind
FORMAT = 2  # of the folder that an index is kept in
HEAP = 512 << 20  # bytes that an index on disk is built with
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with".split()
)  # Lucene's; they are indexed, and looked for when a query holds nothing else
# Scripts that put no space between words: each of their characters is a word.
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_ANALYZER = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    .filter(tantivy.Filter.remove_long(255))
    .filter(tantivy.Filter.lowercase())
    .build()
)
_SCHEMA = (
    tantivy.SchemaBuilder()
    .add_text_field("text", tokenizer_name="words", index_option="freq")
    .add_integer_field("number", fast=True)
    .build()
)


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are indexed: runs of letters and digits, in lower case."""
    return _ANALYZER.analyze(_spaced(text))


def _spaced(text: str) -> str:
    return text if text.isascii() else _UNSPACED.sub(r" \1 ", text)


class Retriever:
    """BM25 over passages of the form "title | text"; the same query always gives the same passages."""

    def __init__(self, passages: Sequence[str], index: tantivy.Index | None = None, name: str = ""):
        """Index the passages in memory; with `index`, an index of these passages is taken as it is."""
        if not passages:
            raise BtlibError("a retriever needs at least one passage")
        self.passages = passages if isinstance(passages, Passages) else tuple(passages)
        self.name = name or f"BM25 over {len(self.passages)} passages"
        self._searcher = (index or _index(self.passages)).searcher()
        self._best = lru_cache(maxsize=4096)(self._find)  # optimizers ask the same again and again

    def search(self, query: str, k: int = 3) -> list[str]:
        """Return up to k passages, best first; ties in the file's order.

        Stop words of the query count only when it holds no other word. Passages that share no word with the query are
        left out, so an empty query finds nothing.
        """
        return [self.passages[number] for number, _ in self.scores(query, k)]

    def scores(self, query: str, k: int = 3) -> list[tuple[int, float]]:
        """Return the numbers of the passages that `search` finds, from 0 on, with their BM25 scores."""
        words = words_of(query)
        words = [word for word in words if word not in STOP_WORDS] or words
        return list(self._best(tuple(words), k)) if words and k > 0 else []

    def _find(self, words: tuple[str, ...], k: int) -> tuple[tuple[int, float], ...]:
        terms = [(tantivy.Occur.Should, tantivy.Query.term_query(_SCHEMA, "text", word, "freq")) for word in words]
        query, limit = tantivy.Query.boolean_query(terms), k + 1
        # As many as it takes until a passage is worse than the k-th: only then are all that tie with it known.
        while True:
            hits = self._searcher.search(query, limit, count=False).hits
            if len(hits) < limit or hits[-1][0] < hits[k - 1][0]:
                break
            limit *= 4
        numbers = self._searcher.fast_field_values("number", [address for _, address in hits])
        found = zip(numbers, (score for score, _ in hits), strict=True)
        return tuple(sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k])

    def __deepcopy__(self, memo: dict[int, Any]) -> Retriever:
        """Return itself: an optimizer copies programs by the dozen, and the index is read-only."""
        return self


def _index(passages: Iterable[str], folder: Path | None = None) -> tantivy.Index:
    """Index passages in memory, or into a folder; by one thread, so that it always comes out the same."""
    index = tantivy.Index(_SCHEMA, path=None if folder is None else str(folder))
    index.register_tokenizer("words", _ANALYZER)
    writer = index.writer(heap_size=HEAP if folder else 32 << 20, num_threads=1)
    try:
        for number, passage in enumerate(passages):
            writer.add_document(tantivy.Document(text=_spaced(passage), number=number))
        writer.commit()
    finally:
        writer.wait_merging_threads()  # after a broken line too: they would go on writing into the folder
    index.reload()
    return index


def load(source: str | Path, cache: Path | None = None) -> Retriever:
    """Return the retriever of a file of passages; see `btlib.search.load_retriever`."""
    path = at_home(source)
    try:
        stat = path.stat()
    except OSError as error:
        raise BtlibError(
            f"cannot read {path}: {error.strerror}; HotPotQA searches a passages.jsonl beside its splits, another file "
            "of passages, or a ColBERTv2 server (http://...)"
        ) from error
    return _load(path.resolve(), (stat.st_mtime_ns, stat.st_size), cache or cache_dir())


@lru_cache(maxsize=4)
def _load(path: Path, stamp: tuple[int, int], cache: Path) -> Retriever:
    if stamp[1] <= IN_MEMORY:
        return Retriever(list(read_passages(path, array("q"))), name=f"BM25 over {path.name}")
    folder = cache / "bm25" / f"{path.stem}-{_key(path, stamp)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock

        with FileLock(folder.with_name(f"{folder.name}.lock")):  # the others of a grid wait, and then find it made
            if not folder.is_dir():
                build_index(path, folder)
        return open_index(path, folder)
    except (OSError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BtlibError(
            f"no index of {path} in {folder} ({reason}); delete that folder if it is there, or set BTLIB_CACHE to a "
            "folder with more room"
        ) from error


def open_index(path: Path, folder: Path) -> Retriever:
    """Return the retriever of a file whose index `build_index` left in `folder`."""
    index = tantivy.Index.open(str(folder))
    index.register_tokenizer("words", _ANALYZER)
    passages = Passages(path, np.load(folder / "starts.npy", mmap_mode="r"))
    retriever = Retriever(passages, index, f"BM25 over {path.name}")
    retriever.scores(title_of(passages[0]), 1)  # some damage shows at the first search only
    return retriever


def build_index(path: Path, folder: Path) -> None:
    """Index a file of passages into `folder`, which appears whole or not at all; a progress bar on a terminal."""
    starts = array("q")
    with whole_folder(folder) as work:
        _index(read_passages(path, starts, sys.stderr.isatty()), work)
        np.save(work / "starts.npy", np.frombuffer(starts, dtype=np.int64))
        write_json(work / "about.json", {"file": path.name, "passages": len(starts), "tantivy": tantivy.__version__})


def _key(path: Path, stamp: tuple[int, int]) -> str:
    """Return 16 hex digits: a file's time, size and both ends, since hashing gigabytes at every start would cost."""
    digest = hashlib.sha256(f"{FORMAT} {tantivy.__version__} {stamp}".encode())
    with open(path, "rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(-min(1 << 20, stamp[1]), 2)
        digest.update(file.read())
    return digest.hexdigest()[:16]
