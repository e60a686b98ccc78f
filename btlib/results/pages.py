"""The README's tables, and those of notebooks/pages, written from the results that come with the repository.

    python -m btlib.results.pages            # fill the marked blocks
    python -m btlib.results.pages --check    # exit status 1 where a block is not what the results say

A block begins with one of these lines, and ends with <!-- end -->; a page may hold any number of them.

    <!-- table: laptop pocket -->                   scores with 95% intervals: PRESET, then LMs and tasks (default: all)
    <!-- leads: laptop pocket pocket-l iris -->     a sentence for each LM and task, on both steps against one kind
    <!-- wins: laptop -->                           in how many pairs of LM and task a strategy with both steps is best

What the sentences mean is taught in notebooks/06_results.ipynb.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pandas as pd

from btlib.errors import BtlibError, unknown
from btlib.results.gains import BOTH, FIVE, best_of, best_strategy, paired_interval, pairs, says
from btlib.results.plots import sized
from btlib.results.samples import load_sample
from btlib.results.tables import CELL, as_series, label_of, score_table, summarize, tasks_in, title_of_task
from btlib.steps.strategies import VANILLA
from btlib.support.paths import data_dir, notebooks_dir

Results = tuple[pd.DataFrame, pd.DataFrame]  # the runs, and the verdicts on test items
_BLOCK = re.compile(r"<!-- (\w+): ([^\n]*?) -->\n.*?<!-- end -->", re.DOTALL)


def name_of(strategy: str) -> str:
    """Return a strategy as prose calls it: "Π→Θ", "vanilla"."""
    return label_of(strategy) if strategy else VANILLA


def score_block(runs: pd.DataFrame, items: pd.DataFrame) -> str:
    """Return scores with intervals as a Markdown table, the best of each column bold, and a line on what they are."""
    cells = summarize(runs, items)
    preset = cells["preset"].iloc[0]
    texts = score_table(cells, intervals=True)
    best = cells.groupby(["model", "task"])["score"].max().round(1)
    one_model, one_task = cells["model"].nunique() == 1, cells["task"].nunique() == 1
    head, columns = [], []
    for model, task in texts.columns:
        title = title_of_task(task, preset)
        head.append(title if one_model else sized(model) if one_task else f"{title}, {model}")
        winner = f"{best[(model, task)]:.1f}"
        # The score itself in bold, not its interval.
        columns.append([re.sub(rf"^{re.escape(winner)}\b", f"**{winner}**", text) for text in texts[(model, task)]])
    names = [VANILLA if name == label_of("") else name for name in texts.index]
    lines = ["| strategy | " + " | ".join(head) + " |", "|---" * (1 + len(head)) + "|"]
    rows = zip(names, zip(*columns, strict=True), strict=True)
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in rows]
    return "\n".join([*lines, "", made_line(cells, runs)])


def made_line(cells: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Say in one line what the scores are percent of, over how many seeds, and when and with what they were made."""
    preset = cells["preset"].iloc[0]
    counts = cells.drop_duplicates("task").set_index("task")["n"]
    tests = ", ".join(f"{counts[task]} of {title_of_task(task, preset)}" for task in tasks_in(cells))
    made = runs.groupby(CELL)["seed"].nunique()  # a cell's own count leaves out seeds without a score
    fewest, most = made.min(), made.max()
    seeds = f"{fewest} to {most} seeds" if fewest < most else f"{most} seeds" if most > 1 else "one seed"
    columns = [runs["date"].str[:10], runs["commit"], *([runs["machine"]] if "machine" in runs else [])]
    days, commits, *machines = (", ".join(dict.fromkeys(column.dropna())) for column in columns)
    where = f" on {machines[0]}" if machines and machines[0] else ""
    return (
        f"Percent of the test set ({tests}) with 95% intervals, mean over {seeds}; preset `{preset}`, "
        f"made on {days} at commit {commits}{where}."
    )


def lead_block(runs: pd.DataFrame, items: pd.DataFrame) -> str:
    """Return a sentence for each LM and task: does the best strategy with both kinds of steps lead the best other one?

    The interval is that of `paired_interval`, with seeds and test items drawn anew.
    """
    cells, lines = summarize(runs), []
    scores, several = as_series(cells), cells["model"].nunique() > 1
    for task in tasks_in(cells):
        for model in dict.fromkeys(cells["model"]):
            head = f"* **{title_of_task(task, cells['preset'].iloc[0])}{f', {model}' if several else ''}**: "
            best, other = (best_strategy(scores, model, task, group) for group in (BOTH, FIVE))
            if best is None or other is None:
                lines.append(head + "no score on one of the two sides.")
                continue
            low, high = paired_interval(items, model, task, FIVE, draw="seeds and items")
            has, had = scores[(model, task, best)], scores[(model, task, other)]
            lines.append(
                f"{head}{says(low, high)}. {name_of(best)} has {has:.1f}%; {name_of(other)}, the best of the five "
                f"others, has {had:.1f}%. The lead is {has - had:+.1f} points ({low:+.0f} to {high:+.0f})."
            )
    return "\n".join(lines)


def win_block(runs: pd.DataFrame, items: pd.DataFrame) -> str:
    """Return in how many pairs of LM and task a strategy with both kinds of steps has the best mean."""
    scores = as_series(summarize(runs))
    found = [(best_of(scores, *pair, BOTH), best_of(scores, *pair, FIVE)) for pair in pairs(scores)]
    wins = sum(round(both, 1) > round(five, 1) for both, five in found)
    return f"A strategy with both kinds of steps has the best mean in {wins} of {len(found)} pairs of LM and task."


BLOCKS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], str]] = {
    "table": score_block,
    "leads": lead_block,
    "wins": win_block,
}


@lru_cache
def sample(preset: str) -> Results:
    """Return the runs and items of data/results/<preset>.csv."""
    path = data_dir() / "results" / f"{preset}.csv"
    if not path.exists():
        raise unknown("preset with stored results", preset, sorted(p.stem for p in path.parent.glob("*.csv")))
    return load_sample(path)


def block(kind: str, wanted: str, read: Callable[[str], Results] = sample) -> str:
    """Return what belongs between a block's two marks; an unknown kind, preset, LM or task is a BtlibError."""
    if kind not in BLOCKS:
        raise unknown("kind of block", kind, BLOCKS)
    preset, *names = wanted.split()
    runs, items = read(preset)
    for column, others in (("model", "task"), ("task", "model")):
        chosen = [name for name in names if name in set(runs[column])]
        strange = [name for name in names if name not in set(runs[column]) | set(runs[others])]
        if strange:
            raise unknown("LM or task", strange[0], [*runs["model"].unique(), *runs["task"].unique()])
        if chosen:
            runs, items = (table[table[column].isin(chosen)] for table in (runs, items))
    return BLOCKS[kind](runs, items)


def filled(text: str, read: Callable[[str], Results] = sample) -> str:
    """Return a page with every block filled anew; what stands between the blocks stays as it is."""

    def fill(found: re.Match) -> str:
        return f"<!-- {found[1]}: {found[2]} -->\n{block(found[1], found[2], read)}\n<!-- end -->"

    begun, whole = len(re.findall(r"<!-- \w+: ", text)), len(_BLOCK.findall(text))
    if begun != whole:
        raise BtlibError(f"{begun} blocks begin and {whole} of them end; end each with a line <!-- end -->")
    return _BLOCK.sub(fill, text)


def pages() -> list[Path]:
    """List the pages that may hold blocks: the README and notebooks/pages."""
    return [notebooks_dir().parent / "README.md", *sorted((notebooks_dir() / "pages").glob("*.md"))]


def main() -> int:
    """Fill the tables of the README and of notebooks/pages from data/results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a block is stale")
    check = parser.parse_args().check
    stale = False
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            stale = True
            print(f"{path.name}: {'stale' if check else 'written'}")
            if not check:
                path.write_text(after, encoding="utf-8")
    return int(stale and check)


if __name__ == "__main__":
    sys.exit(main())
