"""What another CPU changes: the same runs under other kernels, compared test item by test item.

    python tests/benchmarks/bench_machines.py make FOLDER [--preset smoke] [--kinds pinned compatible]
    python tests/benchmarks/bench_machines.py compare FOLDER_A FOLDER_B

`make` runs `btlib grid` once a kind, each with the environment variables in KINDS, into FOLDER/<kind>; `compare` also
takes runs folders of two machines. Beside identical files it counts answers and verdicts that differ, and points.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

KINDS = {
    "pinned": {},  # what `import btlib` sets: AVX2 kernels, MKL alike for any number of threads
    "two-threads": {"OMP_NUM_THREADS": "2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "AUTO"},
    "compatible": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


def make(folder: Path, preset: str, kinds: list[str], seeds: list[str]) -> None:
    """Run the grid once a kind."""
    for kind in kinds:
        command = [sys.executable, "-m", "btlib", "grid", "--preset", preset, "--runs", str(folder / kind), "--seeds"]
        subprocess.run([*command, *seeds], env=os.environ | KINDS[kind], check=True)
    for kind in kinds[1:]:
        print(f"\n{kinds[0]} against {kind}")
        compare(folder / kinds[0], folder / kind)


def rows(path: Path) -> list[dict]:
    """Read a run's predictions."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs(a: Path, b: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the predictions of runs that both folders have."""
    for path in sorted(a.rglob("predictions.jsonl")):
        other = b / path.relative_to(a)
        if other.exists():
            yield path, other


def compare(a: Path, b: Path) -> None:
    """Print a line for each run whose predictions differ, and the sums."""
    runs = same = answers = verdicts = items = 0
    moved = []
    for path, other in pairs(a, b):
        one, two = rows(path), rows(other)
        runs, items = runs + 1, items + len(one)
        if path.read_bytes() == other.read_bytes():
            same += 1
            continue
        differ = sum(x["outputs"] != y["outputs"] for x, y in zip(one, two, strict=True))
        flipped = sum(x["correct"] != y["correct"] for x, y in zip(one, two, strict=True))
        scores = [100 * sum(row["correct"] for row in each) / len(each) for each in (one, two)]
        answers, verdicts = answers + differ, verdicts + flipped
        moved.append(abs(scores[1] - scores[0]))
        name = path.parent.relative_to(a)
        print(f"{name}: {differ} answers, {flipped} verdicts of {len(one)}; {scores[0]:.1f} / {scores[1]:.1f}")
    print(
        f"{runs} runs, {same} with identical predictions; of {items} test answers {answers} differ, {verdicts} in "
        f"their verdict; scores moved by {max(moved, default=0):.1f} points at most"
    )


def main() -> None:
    """Read the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = options.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("folder", type=Path)
    maker.add_argument("--preset", default="smoke")
    maker.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    maker.add_argument("--seeds", nargs="+", default=["0"])
    comparer = commands.add_parser("compare")
    comparer.add_argument("a", type=Path)
    comparer.add_argument("b", type=Path)
    given = options.parse_args()
    if given.command == "make":
        make(given.folder, given.preset, given.kinds, given.seeds)
    else:
        compare(given.a, given.b)


if __name__ == "__main__":
    main()
