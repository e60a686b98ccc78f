"""What both steps together give over one kind of step alone: the formulas behind the paper's gains, and an honest
interval beside them.

Taught in notebooks/06_results.ipynb. Scores come as a series indexed by (model, task, strategy), in percent, NaN for
"–".
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

PROMPTS, WEIGHTS, TANDEM = ("p", "p -> p"), ("w", "w -> w"), ("p -> w", "w -> p", "p -> w -> p")


def best_of(cells: pd.Series, model: str, task: str, strategies: Iterable[str]) -> float:
    """Return the best score among `strategies`; NaN when none of them has one."""
    found = [cells.get((model, task, s), math.nan) for s in strategies]
    return max((x for x in found if not math.isnan(x)), default=math.nan)


def geometric_gain(ratios: Iterable[float]) -> float:
    """Return the geometric mean of score ratios as a gain in percent; "–" cells and zero scores have no ratio and are
    left out.
    """
    logs = [math.log(r) for r in ratios if r and math.isfinite(r)]
    return 100 * (math.exp(sum(logs) / len(logs)) - 1) if logs else math.nan


def ratio(cells: pd.Series, model: str, task: str, baseline: Iterable[str]) -> float:
    """Return best of the three tandem strategies over best of `baseline`, the ratio behind every gain in the paper."""
    base = best_of(cells, model, task, baseline)
    return best_of(cells, model, task, TANDEM) / base if base else math.nan


def pairs(cells: pd.Series) -> list[tuple[str, str]]:
    """List the (model, task) pairs of a score series, in their order."""
    return list(dict.fromkeys((m, t) for m, t, _ in cells.index))


def task_gain(cells: pd.Series, task: str, baseline: Iterable[str]) -> float:
    """Return the gain in percent on one task, the geometric mean over its LMs (the paper's "5-78% for HotPotQA")."""
    return geometric_gain(ratio(cells, m, t, tuple(baseline)) for m, t in pairs(cells) if t == task)


def headline_gain(cells: pd.Series, baseline: Iterable[str]) -> float:
    """Return the gain in percent over all (LM, task) cells (the abstract's "65% and 5%", over plain Θ and plain Π)."""
    return geometric_gain(ratio(cells, m, t, tuple(baseline)) for m, t in pairs(cells))


def gain_table(cells: pd.Series, items: pd.DataFrame | None = None, samples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return, per model, task and baseline, the best tandem strategy's lead in points and percent, with a 95%
    interval for the points.

    The interval is a paired bootstrap over the test items that all strategies share; the best of each group is picked
    anew in every resample, as it was in the table, so the luck of picking the best of three is inside the interval.
    Without `items` it is NaN.
    """
    rows = []
    for model, task in pairs(cells):
        for name, baseline in (("best of Π, Π→Π", PROMPTS), ("best of Θ, Θ→Θ", WEIGHTS)):
            tandem, base = best_of(cells, model, task, TANDEM), best_of(cells, model, task, baseline)
            low, high = paired_interval(items, model, task, baseline, samples, seed)
            relative = 100 * (tandem / base - 1) if base else math.nan
            rows.append((model, task, name, base, tandem, tandem - base, low, high, relative))
    return pd.DataFrame(
        rows, columns=["model", "task", "over", "baseline", "tandem", "points", "low", "high", "percent"]
    )


def paired_interval(
    items: pd.DataFrame | None, model: str, task: str, baseline: tuple[str, ...], samples: int, seed: int
) -> tuple[float, float]:
    """Return the 95% interval, in points, of best tandem minus best baseline; NaN when a side has no verdicts."""
    if items is None or items.empty:
        return math.nan, math.nan
    mine = items[(items["model"] == model) & (items["task"] == task)]
    # one row a strategy, one column a test item, the mean over seeds in it
    grid = mine.groupby(["strategy", "item"])["correct"].mean().unstack()
    tandem, base = grid[grid.index.isin(TANDEM)].to_numpy(float), grid[grid.index.isin(baseline)].to_numpy(float)
    if not len(tandem) or not len(base):
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(0, grid.shape[1], (samples, grid.shape[1]))
    leads = [100 * (tandem[:, d].mean(axis=1).max() - base[:, d].mean(axis=1).max()) for d in draws]
    low, high = np.quantile(leads, (0.025, 0.975))
    return float(low), float(high)
