"""Search with a ColBERTv2 server, as the paper does (section 4).

The format is that of the public server over the Wikipedia 2017 abstracts: `GET <url>?query=...&k=...` answers
{"topk": [{"text": "title | passage", "pid", "rank", "score", "prob"}, ...]}, best first. That server is often down, so
answers are kept on disk, and what a run cannot get stops the run. A query is cut to what a server takes: ColBERTv2
itself reads 32 tokens of it. Taught in notebook 01.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from btlib.errors import BtlibError
from btlib.support.paths import cache_dir
from btlib.support.proxy import client, through

PATH = "/api/search"  # where ColBERT's own server answers; for a URL that names no path
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses of an answer that may be another one in a moment
WORDS, BYTES = 64, 2000  # a query's longest: in words, and in bytes as it stands in a URL
# Names of values that nobody else may see; not passages=, author= or tokenizer=, which tell one index from another.
_SECRET = re.compile("key|token(?!iz)|secret|pass(?!age)|pwd|auth(?!ors?$)|sig|credential", re.IGNORECASE)


def is_url(source: object) -> bool:
    """Tell a server's URL from a file's path."""
    return str(source).startswith(("http://", "https://"))


def public(url: str) -> str:
    """Return a URL without what may be secret, for records and messages: name and password, and the values in its
    query whose names speak of keys.
    """
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    shown = [(name, "..." if _SECRET.search(name) else value) for name, value in query]
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(shown), fragment=""))


class ColBERT:
    """The client of a ColBERTv2 server; made by `load_retriever(url)`.

    `timeout` is in seconds, for a connection and for an answer; a request is tried `attempts` times, the pauses in
    between doubling from `pause` seconds up to 20 and drawn at random. Answers are kept in `cache` (default:
    cache_dir()) as JSON, so a query goes out once. `failed` is the last error that no attempt mended, or ""; after
    one, a request is tried once only, as the run is lost already. `shortened` counts the queries that were cut.
    """

    def __init__(
        self, url: str, *, cache: Path | None = None, timeout: float = 10.0, attempts: int = 6, pause: float = 1.0
    ):
        parts = urlsplit(url)
        if not parts.hostname:
            raise BtlibError(f"bad URL of a ColBERTv2 server {url!r}; give http://HOST:PORT{PATH} or its like")
        self.url = url if parts.path.strip("/") else urlunsplit(parts._replace(path=PATH))
        self.name = f"ColBERTv2 at {public(self.url)}"
        self.failed, self.shortened, self._lock = "", 0, threading.Lock()
        self._folder = (cache or cache_dir()) / "colbert" / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._client = client(url, timeout=timeout)
        self._attempts, self._pause = attempts, pause

    def __deepcopy__(self, memo: dict[int, Any]) -> ColBERT:
        """Return itself: an optimizer copies programs by the dozen, and the connections are shared."""
        return self

    def search(self, query: str, k: int = 3) -> list[str]:
        """Return up to k passages "title | text", best first. A server that does not answer is a BtlibError."""
        if not query.strip() or k < 1:
            return []
        asked, query = query, shortened(query)
        if query != asked:
            with self._lock:
                self.shortened += 1
        path = self._folder / f"{hashlib.sha256(json.dumps([query, k]).encode()).hexdigest()[:32]}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))["passages"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # never asked, or the file is damaged: ask
        try:
            passages = self._ask(query, k)
        except BtlibError as error:
            self.failed = str(error)
            raise
        self._keep(path, {"query": query, "k": k, "passages": passages})
        return passages

    def check(self) -> None:
        """Search once, so that a URL that cannot work is known before anything runs."""
        self.search("Who wrote Hamlet?", 1)

    def _ask(self, query: str, k: int) -> list[str]:
        again = Retrying(
            stop=stop_after_attempt(1 if self.failed else self._attempts),
            wait=wait_random_exponential(multiplier=self._pause, max=20),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return again(self._get, query, k)
        except httpx.HTTPError as error:
            kind = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
            if isinstance(error, httpx.HTTPStatusError):  # whose own text holds the URL, with the query and any key
                kind = f"{error.response.status_code} {error.response.reason_phrase}"
            raise BtlibError(
                f"{self.name} does not answer ({kind}; tried {again.statistics['attempt_number']} times"
                f"{through(self.url)}); check the URL, or search a file of passages instead (--retriever FILE)"
            ) from error
        except _OtherAnswer as error:
            raise BtlibError(
                f"{self.name} answered {error}, which is not a ColBERTv2 server's "
                f'{{"topk": [{{"text": ...}}]}} (tried {again.statistics["attempt_number"]} times{through(self.url)}); '
                "check the URL"
            ) from error

    def _get(self, query: str, k: int) -> list[str]:
        answer = self._client.get(httpx.URL(self.url).copy_merge_params({"query": query, "k": k}))
        answer.raise_for_status()
        try:
            passages = [hit["text"] for hit in answer.json()["topk"][:k]]
            if not all(isinstance(text, str) for text in passages):
                raise TypeError("a text is no string")
            return passages
        except (ValueError, KeyError, TypeError) as error:
            raise _OtherAnswer(repr(answer.text[:80])) from error

    def _keep(self, path: Path, value: dict) -> None:
        """Write an answer to the cache, whole or not at all. A full disk costs the cache, not the run."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)


class _OtherAnswer(Exception):
    """An answer in another format: busy servers and those in front of them say so with status 200, too."""


def shortened(query: str) -> str:
    """Return a query that a URL can hold: its first 64 words, and fewer where they are long."""
    words = query.split()
    if len(words) > WORDS:
        query = " ".join(words[:WORDS])
    size = 0
    for place, letter in enumerate(query):
        size += len(quote(letter, errors="replace"))
        if size > BYTES:
            return query[:place].rstrip()
    return query


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, _OtherAnswer):
        return True
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in TRY_AGAIN
    return isinstance(error, httpx.TransportError)
