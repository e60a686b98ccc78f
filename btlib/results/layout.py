"""Numbers laid out for readers: the wide tables of notebooks/06_results.ipynb and of the report, as text.

They come from `btlib.results.tables` and `btlib.results.gains`, where the numbers are; a notebook that goes on
computing takes those.
"""

from __future__ import annotations

import pandas as pd

from btlib.results.gains import BASELINES, BOTH, says, three_against_five
from btlib.results.plots import sized
from btlib.results.tables import label_of, score_table, strategies_in, tasks_in, title_of_task

VANILLA = "vanilla"
JOINED = ",\u00a0"  # an interval is not broken between its ends


def by_task(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with a task in the order of tables, the order within a task as it was."""
    return rows.sort_values("task", key=lambda column: column.map(tasks_in(rows).index), kind="stable")


def _names(rows: pd.DataFrame, preset: str) -> list[str]:
    return [f"{title_of_task(row.task, preset)}, {sized(row.model)}" for row in rows.itertuples()]


def scores_with_intervals(cells: pd.DataFrame) -> pd.DataFrame:
    """Return `btlib.results.summarize`'s rows as a table: strategies by LM and task, "91.1 [87, 95]" in each."""
    table = score_table(cells, intervals=True)
    preset = cells["preset"].iloc[0]
    table.columns = pd.MultiIndex.from_tuples([(sized(m), title_of_task(t, preset)) for m, t in table.columns])
    table = table.map(lambda text: text.replace(", ", JOINED))
    return table.rename(index={label_of(""): VANILLA}).rename_axis(None)


def best_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Return CSS for `scores_with_intervals(cells)`: the best mean of each column bold."""
    table = scores_with_intervals(cells)
    css = pd.DataFrame("", index=table.index, columns=table.columns)
    preset = cells["preset"].iloc[0]
    for (model, task), rows in cells.dropna(subset="score").groupby(["model", "task"]):
        for strategy in rows.loc[rows["score"].round(1) == rows["score"].max().round(1), "strategy"]:
            row = label_of(strategy) if strategy else VANILLA
            css.loc[row, (sized(model), title_of_task(task, preset))] = "font-weight: bold"
    return css


def leads(gains: pd.DataFrame, preset: str) -> pd.DataFrame:
    """Return `gain_table`'s rows, one a task and LM: who is best with both kinds of steps, and how far ahead of prompts
    alone and of weights alone, in points with the 95% interval.
    """
    groups = dict(zip(BASELINES, ("over prompts alone", "over weights alone"), strict=True))
    rows: dict[str, dict] = {}
    gains = by_task(gains)
    for name, row in zip(_names(gains, preset), gains.itertuples(), strict=True):
        cells = rows.setdefault(name, {("", "best of both"): _scored(row.best, row.both)})
        group = groups[row.over]
        cells[group, "best"] = _scored(row.other, row.baseline)
        cells[group, "lead in points"] = "–" if pd.isna(row.points) else _signed(row.points) + _range(row.low, row.high)
        cells[group, "so"] = says(row.low, row.high)
    table = pd.DataFrame(list(rows.values()), index=list(rows))
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def _scored(label: str | float | None, score: float) -> str:
    return "–" if pd.isna(label) else f"{label if '→' in label or len(label) == 1 else VANILLA} {score:.1f}"


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}"  # no -0.0


def _range(low: float, high: float) -> str:
    return "" if pd.isna(low) else f" [{_signed(low)}{JOINED}{_signed(high)}]"


def expectation(cells: pd.Series, preset: str = "") -> pd.DataFrame:
    """Return `three_against_five` for readers: a row a task and LM, the three leads over the best of the five."""
    found = by_task(three_against_five(cells))
    rows = []
    for row in found.to_dict("records"):
        lead = {name: "–" if pd.isna(row[name]) else _signed(row[name]) for name in map(label_of, BOTH)}
        head = {"best of the five": _scored(row["best of five"], row["its score"])}
        rows.append(head | lead | {"all three ahead": "yes" if row["all lead"] else "no"})
    return pd.DataFrame(rows, index=_names(found, preset))


def costs_by_strategy(costs: pd.DataFrame) -> pd.DataFrame:
    """Return `btlib.results.cost_table` with one row a strategy: for each LM the mean over its tasks of the points
    gained over vanilla, seconds of optimization, LM calls, and tokens trained on in an epoch.
    """
    base = costs[costs["strategy"] == label_of("")].set_index(["model", "task"])["score"]
    gained = [row.score - base.get((row.model, row.task), float("nan")) for row in costs.itertuples()]
    costs = costs.assign(points=gained)
    names = {
        "points": "points gained",
        "seconds": "seconds",
        "lm_calls": "LM calls",
        "training_tokens": "trained tokens",
    }
    blocks = {}
    for model, rows in costs.groupby("model", sort=False):
        found = rows.groupby("strategy", sort=False)[list(names)].mean().rename(columns=names)
        text = found.apply(lambda column: column.map(lambda x: "–" if pd.isna(x) else f"{x:,.0f}"))
        text["points gained"] = found["points gained"].map(lambda x: "–" if pd.isna(x) else f"{x:+.1f}")
        blocks[sized(model)] = text
    table = pd.concat(blocks, axis=1)
    order = [label for label in map(label_of, strategies_in(costs)) if label in table.index]
    return table.reindex(order).rename(index={label_of(""): VANILLA}).rename_axis(None)
