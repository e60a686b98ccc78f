"""Find passages for a search query: BM25 over a file of passages, or a ColBERTv2 server.

The paper retrieves with a frozen ColBERTv2 over five million Wikipedia abstracts (section 4). BM25 over a small file is
what a laptop can hold in memory; a large file is indexed once, and its index memory-mapped ever after. A retriever has
one method, `search(query, k)`, and is frozen: no step optimizes it. Taught in notebook 01.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import bm25s
import numpy as np
from bm25s.tokenization import Tokenizer
from tqdm import tqdm

from btlib.colbert import ColBERT, is_url
from btlib.errors import BtlibError
from btlib.files import check_fields, parse_row, read_jsonl, whole_folder, write_json
from btlib.paths import cache_dir

__all__ = ["Passages", "Retriever", "Searcher", "gold_found", "load_retriever", "read_jsonl", "title_of"]

SEPARATOR = " | "  # a passage is shown to the LM as "title | text"
IN_MEMORY = 8 << 20  # bytes: files up to this size are indexed in memory, in about a second, and leave no index behind
FORMAT = 1  # of the folder that an index is kept in


class Searcher(Protocol):
    """What a program needs of a retriever. `name` says in a run's record what was searched."""

    name: str

    def search(self, query: str, k: int = 3) -> list[str]: ...


class Retriever:
    """BM25 over passages of the form "title | text"; the same query always gives the same passages."""

    def __init__(self, passages: Sequence[str], index: bm25s.BM25 | None = None, name: str = ""):
        """Index the passages: English stop words out, no stemming, bm25s's default BM25 (k1 1.5, b 0.75).

        With `index`, an index of these passages is taken as it is.
        """
        if not passages:
            raise BtlibError("a retriever needs at least one passage")
        self.passages = passages if isinstance(passages, Passages) else tuple(passages)
        self.name = name or f"BM25 over {len(self.passages)} passages"
        self._index = index or _index(self.passages)
        self._best = lru_cache(maxsize=4096)(self._find)  # optimizers ask the same again and again

    def search(self, query: str, k: int = 3) -> list[str]:
        """Return up to k passages, best first; ties in the file's order.

        Passages that share no word with the query are left out, so an empty query finds nothing.
        """
        words = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
        return [self.passages[i] for i in self._best(tuple(words), k)] if words and k > 0 else []

    def _find(self, words: tuple[str, ...], k: int) -> list[int]:
        scores = self._index.get_scores(list(words))
        # The k-th best score, then a stable sort of those that reach it: equal scores must not depend on how a
        # library's version partitions, and five million scores are not sorted for the sake of three.
        floor = np.partition(scores, -k)[-k] if k < len(scores) else 0
        reached = np.flatnonzero(scores >= floor) if floor > 0 else np.flatnonzero(scores)  # 0: no word in common
        return reached[np.argsort(-scores[reached], kind="stable")[:k]].tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Retriever:
        """Return itself: an optimizer copies programs by the dozen, and the index is read-only."""
        return self


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


def _read(path: Path, starts: array, progress: bool = False) -> Iterator[str]:
    """Yield a file's passages one at a time, noting where each one's line starts; a bar shows the bytes read."""
    size, at = path.stat().st_size, 0
    with (
        open(path, "rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc="read", disable=not progress) as bar,
    ):
        for number, line in enumerate(file, start=1):
            if line.strip():
                passage = _passage(path, line, f"{path}, line {number}")
                starts.append(at)
                yield passage
            at += len(line)
            bar.update(len(line))
    if not starts:
        raise BtlibError(f"{path} holds no passages; one JSON object with title and text (or title TAB text) a line")


class _Words:
    """The word numbers of many passages, four bytes each: as lists of ints they would take several times that."""

    def __init__(self, passages: Iterable[Iterable[int]]):
        self.words, self.ends = array("i"), array("q", [0])
        for words in passages:
            self.words.extend(words)
            self.ends.append(len(self.words))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[array]:
        return (self.words[start:end] for start, end in pairwise(self.ends))


def _index(passages: Iterable[str], progress: bool = False) -> bm25s.BM25:
    tokenizer = Tokenizer(stopwords="en")
    words = _Words(tokenizer.streaming_tokenize(passages, update_vocab=True))
    index = bm25s.BM25(method="lucene")  # a score of 0 means: no word in common
    index.index(SimpleNamespace(ids=words, vocab=tokenizer.word_to_id), show_progress=progress)
    return index


def load_retriever(source: str | Path, cache: Path | None = None) -> Searcher:
    """Return the retriever of a source: the URL of a ColBERTv2 server, or a file of passages.

    A file holds one passage a line, as `title<TAB>text` or, with the ending .jsonl, as {"title", "text"}. Up to 8 MiB
    it is indexed in memory; a larger one once, into a folder of `cache` (default: cache_dir()) that is named after
    the file's size, time and ends. Once per file and process.
    """
    if is_url(source):
        return ColBERT(str(source), cache=cache)
    path = Path(source).expanduser()
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
        return Retriever(list(_read(path, array("q"))), name=f"BM25 over {path.name}")
    folder = cache / "bm25" / f"{path.stem}-{_key(path, stamp)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock

        with FileLock(folder.with_name(f"{folder.name}.lock")):  # the others of a grid wait, and then find it made
            if not folder.is_dir():
                build_index(path, folder)
        index = bm25s.BM25.load(folder, mmap=True)
        return Retriever(Passages(path, np.load(folder / "starts.npy", mmap_mode="r")), index, f"BM25 over {path.name}")
    except (OSError, ValueError, KeyError) as error:
        raise BtlibError(
            f"no index of {path} in {folder} ({type(error).__name__}: {error}); delete that folder if it is there, or "
            "set BTLIB_CACHE to a folder with more room"
        ) from error


def build_index(path: Path, folder: Path) -> None:
    """Index a file of passages into `folder`, which appears whole or not at all; progress bars on a terminal."""
    progress = sys.stderr.isatty()
    starts = array("q")
    index = _index(_read(path, starts, progress), progress)
    with whole_folder(folder) as work:
        index.save(work, show_progress=progress)
        np.save(work / "starts.npy", np.frombuffer(starts, dtype=np.int64))
        write_json(work / "about.json", {"file": path.name, "passages": len(starts), "bm25s": bm25s.__version__})


def _key(path: Path, stamp: tuple[int, int]) -> str:
    """Return 16 hex digits: a file's time, size and both ends, since hashing gigabytes at every start would cost."""
    digest = hashlib.sha256(f"{FORMAT} {bm25s.__version__} {stamp}".encode())
    with open(path, "rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(-min(1 << 20, stamp[1]), 2)
        digest.update(file.read())
    return digest.hexdigest()[:16]


def title_of(passage: str) -> str:
    """Return the title of a "title | text" passage."""
    return passage.split(SEPARATOR, 1)[0]


def gold_found(passages: Iterable[str], gold_titles: Iterable[str]) -> list[bool]:
    """Tell for each gold title whether a passage with that title is among the passages."""
    found = {title_of(passage) for passage in passages}
    return [title in found for title in gold_titles]
