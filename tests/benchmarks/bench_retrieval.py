"""BM25 at the size of the Wikipedia 2017 abstracts: what indexing, loading and searching cost.

    python tests/benchmarks/bench_retrieval.py                      # 5.2 million passages; ~4 GB of disk in --folder
    python tests/benchmarks/bench_retrieval.py --passages 50000     # to see that it works

The corpus is generated: 50 words a passage on average, drawn from two million words by a Zipf-Mandelbrot law whose most
frequent ones are the English stop words. A query is eight words of a passage. Building and searching run in processes
of their own, so that each one's peak memory is its own. The goal (the paper's size): at least 100 queries a second on
one core, built in at most 150 s, at most 2 GiB resident while searching.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

WIKIPEDIA = 5_200_000
VOCABULARY = 2_000_000
MEAN_WORDS = 50
REPEATS = 3


def peak_gib() -> float:
    """Return the most memory that this process has held, in GiB (memory-mapped pages that were touched count)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def generate(path: Path, passages: int) -> None:
    """Write `title<TAB>text` lines, ten thousand at a time."""
    import numpy as np

    from btlib.search.bm25 import STOP_WORDS

    rng = np.random.default_rng(0)
    words = [*sorted(STOP_WORDS), *(_spell(i) for i in range(VOCABULARY - len(STOP_WORDS)))]
    chances = np.cumsum(1 / (np.arange(VOCABULARY) + 2.7))
    chances /= chances[-1]
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, passages, 10_000):
            lengths = rng.poisson(MEAN_WORDS - 10, size=min(10_000, passages - start)) + 10
            drawn = iter(np.searchsorted(chances, rng.random(int(lengths.sum()))).tolist())
            for number, length in enumerate(lengths.tolist(), start=start):
                file.write(f"Article {number}\t{' '.join(words[next(drawn)] for _ in range(length))}\n")


def _spell(number: int) -> str:
    """Spell a number in letters, five at least."""
    letters = ""
    while number or len(letters) < 5:
        number, last = divmod(number, 26)
        letters += chr(97 + last)
    return letters


def build(path: Path, folder: Path) -> dict[str, float]:
    """Index the file, and tell what it took."""
    from btlib.search.bm25 import build_index

    start = time.perf_counter()
    build_index(path, folder)
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time(), "peak": peak_gib()}


def search(path: Path, folder: Path, queries: int) -> dict[str, float]:
    """Load the index as `load_retriever` does, and ask it questions one after another."""
    import numpy as np

    from btlib.search.bm25 import STOP_WORDS, Retriever, open_index

    start = time.perf_counter()
    retriever: Retriever = open_index(path, folder)
    load, held = time.perf_counter() - start, peak_gib()
    draw = random.Random(0)
    asked = []
    for number in draw.sample(range(len(retriever.passages)), queries):
        words = [w for w in retriever.passages[number].split(" | ")[1].split() if w not in STOP_WORDS]
        asked.append(" ".join(draw.sample(words, min(8, len(words)))))
    took, worst = [], []
    for _ in range(REPEATS):
        retriever._best.cache_clear()  # it remembers queries, and each is asked anew here
        for query in asked:
            start = time.perf_counter()
            retriever.search(query, 3)
            took.append(time.perf_counter() - start)
    for word in sorted(STOP_WORDS):  # alone they are looked for, and are in most passages
        start = time.perf_counter()
        retriever.search(word, 3)
        worst.append(time.perf_counter() - start)
    return {
        "load": load,
        "held": held,
        "peak": peak_gib(),
        "median": float(np.median(took)),
        "p95": float(np.quantile(took, 0.95)),
        "rate": float(1 / np.mean(took)),
        "stop_word": float(np.median(worst)),
    }


def table(passages: int, text: int, index: int, built: dict, found: dict) -> str:
    """Return the Markdown table."""
    rows = [
        ("passages, generated", f"{passages:,} ({text / 2**30:.2f} GiB)"),
        ("build, once", f"{built['seconds']:.0f} s, of which {built['cpu']:.0f} s on a core"),
        ("passages a second of that", f"{passages / built['cpu']:,.0f}"),
        ("peak memory of the build", f"{built['peak']:.1f} GiB"),
        ("index on disk", f"{index / 2**30:.2f} GiB"),
        ("load, memory-mapped", f"{found['load']:.1f} s, {found['held']:.1f} GiB held"),
        ("peak memory of searching", f"{found['peak']:.1f} GiB (pages of the mapped index among them)"),
        ("search, k = 3, one thread", f"{found['rate']:,.0f} queries a second"),
        ("time of a query", f"{1000 * found['median']:.2f} ms median, {1000 * found['p95']:.2f} ms 95th percentile"),
        ("a stop word alone", f"{1000 * found['stop_word']:.1f} ms median"),
    ]
    return "\n".join(["| BM25 | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    """Run the three stages, each in a process of its own, and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--passages", type=int, default=WIKIPEDIA)
    options.add_argument("--queries", type=int, default=100)
    options.add_argument("--folder", type=Path, help="where the corpus and its index go (default: a temporary folder)")
    options.add_argument("--stage", choices=("generate", "build", "search"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.stage:
        corpus, folder = given.folder / "corpus.tsv", given.folder / "index"
        stages = {
            "generate": lambda: generate(corpus, given.passages),
            "build": lambda: build(corpus, folder),
            "search": lambda: search(corpus, folder, given.queries),
        }
        print(json.dumps(stages[given.stage]()))
        return
    from btlib.support import machine

    with tempfile.TemporaryDirectory(prefix="btlib-bench-") as scratch:
        place = given.folder or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        results = {}
        for stage in ("generate", "build", "search"):
            command = [sys.executable, __file__, "--stage", stage, "--folder", str(place)]
            command += ["--passages", str(given.passages), "--queries", str(given.queries)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[stage] = json.loads(run.stdout.splitlines()[-1])
            print(stage, results[stage], file=sys.stderr)
        index = sum(path.stat().st_size for path in (place / "index").iterdir())
        print(f"{date.today()}, {machine.cpu_name()}, {machine.cores()} cores, {machine.memory_gib():.0f} GiB")
        print(f"tantivy {machine.versions()['tantivy']}, commit {machine.commit()}\n")
        text = (place / "corpus.tsv").stat().st_size
        print(table(given.passages, text, index, results["build"], results["search"]))


if __name__ == "__main__":
    main()
