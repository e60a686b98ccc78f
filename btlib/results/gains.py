"""What both kinds of steps give over one kind alone: the formulas behind the paper's gains, and intervals beside them.

Taught in notebooks/06_results.ipynb. Scores come as a series indexed by (model, task, strategy), in percent, NaN for
"–".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from btlib.errors import unknown
from btlib.results.tables import label_of

PROMPTS, WEIGHTS, BOTH = ("p", "p -> p"), ("w", "w -> w"), ("p -> w", "w -> p", "p -> w -> p")
FIVE = ("", *PROMPTS, *WEIGHTS)  # what section 3 of the paper calls the first five; BOTH are "the final three"
BASELINES = {"best of Π, Π→Π": PROMPTS, "best of Θ, Θ→Θ": WEIGHTS}
DRAWS = ("items", "seeds and items")  # what a resample of `paired_interval` draws anew


def best_strategy(cells: pd.Series, model: str, task: str, strategies: Iterable[str]) -> str | None:
    """Return which of `strategies` has the best score, the first one with a tie; None when none of them has one."""
    found = {s: cells.get((model, task, s), math.nan) for s in strategies}
    scored = {s: x for s, x in found.items() if not math.isnan(x)}
    return max(scored, key=scored.__getitem__) if scored else None


def best_of(cells: pd.Series, model: str, task: str, strategies: Iterable[str]) -> float:
    """Return the best score among `strategies`; NaN when none of them has one."""
    best = best_strategy(cells, model, task, strategies)
    return math.nan if best is None else float(cells[(model, task, best)])


def geometric_gain(ratios: Iterable[float]) -> float:
    """Return the geometric mean of score ratios as a gain in percent; "–" cells and zero scores have no ratio and are
    left out.
    """
    logs = [math.log(r) for r in ratios if r and math.isfinite(r)]
    return 100 * (math.exp(sum(logs) / len(logs)) - 1) if logs else math.nan


def ratio(cells: pd.Series, model: str, task: str, baseline: Iterable[str]) -> float:
    """Return best of the three strategies with both kinds of steps over best of `baseline`, the ratio behind every gain
    in the paper.
    """
    base = best_of(cells, model, task, baseline)
    return best_of(cells, model, task, BOTH) / base if base else math.nan


def pairs(cells: pd.Series) -> list[tuple[str, str]]:
    """List the (model, task) pairs of a score series, in their order."""
    return list(dict.fromkeys((m, t) for m, t, _ in cells.index))


def task_gain(cells: pd.Series, task: str, baseline: Iterable[str]) -> float:
    """Return the gain in percent on one task, the geometric mean over its LMs (the paper's "5-78% for HotPotQA")."""
    return geometric_gain(ratio(cells, m, t, tuple(baseline)) for m, t in pairs(cells) if t == task)


def headline_gain(cells: pd.Series, baseline: Iterable[str]) -> float:
    """Return the gain in percent over all (LM, task) cells (the abstract's "65% and 5%", over plain Θ and plain Π)."""
    return geometric_gain(ratio(cells, m, t, tuple(baseline)) for m, t in pairs(cells))


def gain_table(
    cells: pd.Series, items: pd.DataFrame | None = None, samples: int = 1000, seed: int = 0, draw: str = "items"
) -> pd.DataFrame:
    """Return, per model, task and baseline, the lead of the best strategy with both kinds of steps in points and
    percent, and a 95% interval for the points, `low` to `high`.

    `best` and `other` are the labels of the two strategies, `both` and `baseline` their scores in percent. `draw` is
    that of `paired_interval`. Without `items` the interval is NaN.
    """
    rows = []
    for model, task in pairs(cells):
        for name, baseline in BASELINES.items():
            best, other = (best_strategy(cells, model, task, group) for group in (BOTH, baseline))
            both, base = best_of(cells, model, task, BOTH), best_of(cells, model, task, baseline)
            low, high = paired_interval(items, model, task, baseline, samples, seed, draw)
            labels = [None if s is None else label_of(s) for s in (best, other)]
            relative = 100 * (both / base - 1) if base else math.nan
            rows.append((model, task, name, *labels, both, base, both - base, low, high, relative))
    names = "model task over best other both baseline points low high percent".split()
    return pd.DataFrame(rows, columns=names)


def verdict_grid(items: pd.DataFrame, model: str, task: str, strategies: Sequence[str]) -> np.ndarray:
    """Return the verdicts as an array (strategies, seeds, items) of 1 and 0; NaN where a run is missing or "–".

    Strategies without any verdict are left out, so the first axis may be shorter than asked for, or empty.
    """
    mine = items[(items["model"] == model) & (items["task"] == task)]
    seeds, places = sorted(mine["seed"].unique()), sorted(mine["item"].unique())
    wide = mine.pivot_table(index=["strategy", "seed"], columns="item", values="correct", aggfunc="mean")
    found = [s for s in strategies if s in set(mine["strategy"])]
    whole = wide.reindex(index=pd.MultiIndex.from_product([found, seeds]), columns=places)
    return whole.to_numpy(float).reshape(len(found), len(seeds), len(places))


def paired_interval(
    items: pd.DataFrame | None,
    model: str,
    task: str,
    baseline: Sequence[str],
    samples: int = 1000,
    seed: int = 0,
    draw: str = "items",
) -> tuple[float, float]:
    """Return the 95% interval, in points, of the lead of the best of BOTH over the best of `baseline`.

    All strategies answered the same test items, so every resample takes the same items for all of them: the interval
    is paired. The best of each group is picked anew in every resample, as it is in the table, so the luck of picking
    the best of three is inside.

    draw="items": the seeds stay as they are, so it says nothing about another order of the training set.
    draw="seeds and items": the seeds are drawn anew as well, the same ones for all strategies, since those with the
    same seed learned from the same order. With one seed the two are the same.

    NaN when a side has no verdicts.
    """
    if draw not in DRAWS:
        raise unknown("kind of resample", draw, DRAWS)
    if items is None or items.empty:
        return math.nan, math.nan
    both, base = (verdict_grid(items, model, task, group) for group in (BOTH, baseline))
    if not both.size or not base.size:
        return math.nan, math.nan
    _, seeds, places = both.shape
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, places, (samples, places))
    rows = rng.integers(0, seeds, (samples, seeds)) if draw != "items" else np.tile(np.arange(seeds), (samples, 1))
    leads = [_best_mean(both, r, c) - _best_mean(base, r, c) for r, c in zip(rows, columns, strict=True)]
    low, high = np.nanquantile(leads, (0.025, 0.975))
    return 100 * float(low), 100 * float(high)


def _best_mean(grid: np.ndarray, seeds: np.ndarray, items: np.ndarray) -> float:
    """Return the best strategy's share of right answers on the drawn seeds and items; NaN where none has any."""
    drawn = grid[:, seeds][:, :, items]
    count = (~np.isnan(drawn)).sum(axis=(1, 2))
    means = np.nansum(drawn, axis=(1, 2))[count > 0] / count[count > 0]
    return float(means.max()) if len(means) else math.nan


def says(low: float, high: float) -> str:
    """Return what a lead's interval says: "both better", "one kind better", "undecided" (it holds 0), "" (none)."""
    if math.isnan(low) or math.isnan(high):
        return ""
    tiny = 1e-9  # differences of shares that are 0 but for rounding
    return "both better" if low > tiny else "one kind better" if high < -tiny else "undecided"


def three_against_five(cells: pd.Series) -> pd.DataFrame:
    """Return, per model and task, how far each strategy with both kinds of steps leads the best of the five others.

    Section 3 of the paper expects "the final three to consistently outperform the first five". Leads are in points,
    NaN for "–"; `all lead` tells whether every one of the three that has a score is ahead.
    """
    rows = []
    for model, task in pairs(cells):
        five = best_strategy(cells, model, task, FIVE)
        base = best_of(cells, model, task, FIVE)
        leads = [cells.get((model, task, s), math.nan) - base for s in BOTH]
        scored = [lead for lead in leads if not math.isnan(lead)]
        best = None if five is None else label_of(five)
        rows.append((model, task, best, base, *leads, bool(scored) and min(scored) > 0))
    names = ["model", "task", "best of five", "its score", *map(label_of, BOTH), "all lead"]
    return pd.DataFrame(rows, columns=names)


def answer(cells: pd.Series, table: pd.DataFrame) -> list[str]:
    """Answer "better together?" in three sentences, from scores and the rows of `gain_table`.

    One sentence for each baseline: a yes is a lead above chance in every pair of LM and task. The third is about the
    best mean and the paper's expectation. A pair without an interval is not counted.
    """
    lines = []
    for name, words, one in (
        ("best of Θ, Θ→Θ", "weights alone", "weight"),
        ("best of Π, Π→Π", "prompts alone", "prompt"),
    ):
        rows = table[(table["over"] == name) & table["low"].notna()]
        found = [says(row.low, row.high) for row in rows.itertuples()]
        ahead, behind, n = found.count("both better"), found.count("one kind better"), len(found)
        if not n:
            lines.append(f"Better than {words}? No pair of LM and task has runs of both sides yet.")
            continue
        word = "yes" if ahead == n else "in part" if ahead else "no" if behind else "not shown"
        lines.append(
            f"Better than {words}? {word.capitalize()}: the best strategy with both kinds of steps leads the best one "
            f"with {one} steps alone by more than chance in {ahead} of {_pairs(n)}, trails in {behind}, and "
            f"{n - ahead - behind} are undecided; the leads go from {rows['points'].min():+.1f} to "
            f"{rows['points'].max():+.1f} points."
        )
    contest = three_against_five(cells).dropna(subset="its score")
    wins = (contest[[label_of(s) for s in BOTH]].max(axis=1) > 0).sum()
    lines.append(
        f"A strategy with both kinds of steps has the best mean in {wins} of {_pairs(len(contest))}; all three of them "
        f"lead all five others, which the paper expects, in {contest['all lead'].sum()}."
    )
    return lines


def _pairs(n: int) -> str:
    return f"{n} pair{'s' * (n != 1)} of LM and task"
