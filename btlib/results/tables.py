"""Read a folder of runs into tables: scores with intervals, gains, and what each strategy cost.

Taught in notebooks/06_results.ipynb. Every function takes and gives plain pandas tables, so a notebook can go on from
any of them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from btlib.errors import BtlibError
from btlib.lm.known import shape_of
from btlib.lm.reading import told
from btlib.presets import PRESETS
from btlib.results.intervals import resampled, wilson
from btlib.steps.strategies import STRATEGIES, in_order, label, parse_strategy, strategy_name
from btlib.support.paths import at_home
from btlib.tasks import registry

ORDER = tuple(strategy_name(steps) for steps in STRATEGIES)


def label_of(strategy: str) -> str:
    """Return the label of a strategy's name: "Π→Θ" for "p -> w", "Vanilla Zero-shot" for ""."""
    return label(parse_strategy(strategy))


def strategies_in(rows: pd.DataFrame) -> list[str]:
    """Return the strategies that a table of these rows shows: the paper's eight, and what else there is."""
    found = {parse_strategy(strategy) for strategy in rows["strategy"].unique()}
    return [strategy_name(steps) for steps in in_order(found | set(STRATEGIES))]


def tasks_in(rows: pd.DataFrame) -> list[str]:
    """Return the tasks of these rows in the order of tables: the paper's columns first, tasks of no file last."""
    found = list(dict.fromkeys(rows["task"]))
    return [task for task in registry() if task in found] + [task for task in found if task not in registry()]


def title_of_task(task: str, preset: str = "") -> str:
    """Return what a task is called in tables and figures; where the preset's data are generated ones, by their name."""
    spec, known = registry().get(task), PRESETS.get(preset.partition("+")[0])
    if spec is None:
        return task
    return spec.title_mini if spec.title_mini and known and known.source == "mini" else spec.title


CELL = ["preset", "model", "task", "strategy"]


def run_files(folder: Path | str) -> list[Path]:
    """List the run.json of every complete run under `folder` (a runs folder, or one preset, model or task of it)."""
    folder = at_home(folder)
    parts = [p for p in folder.rglob("run.json") if not any(x.startswith(".") for x in p.parts[len(folder.parts) :])]
    return sorted(parts)


def load_runs(folder: Path | str) -> pd.DataFrame:
    """Read every complete run under `folder`: one row a run, an empty table when there is none.

    `score` is in percent and NaN where the paper prints "–". Optimization costs (`kept` to `step_seconds`) are summed
    over all steps of the strategy, those of its prefix included; `test_*` is the evaluation on the test set.
    """
    rows = [_row(path) for path in run_files(folder)]
    return pd.DataFrame(rows, columns=None if rows else CELL + ["seed", "label", "score", "status", "n"])


def _row(path: Path) -> dict:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        spec, steps, test = run["spec"], run["steps"], run["evaluation"] or {}
        row = {k: spec[k] for k in (*CELL, "seed")}
        row |= {"label": label_of(spec["strategy"]), "score": run["score"], "status": run["status"]}
        row["score"] = math.nan if row["score"] is None else float(row["score"])
    except (ValueError, KeyError, TypeError) as error:
        raise BtlibError(
            f"{path} is not a run.json ({type(error).__name__}: {error}); delete its folder and run it again"
        ) from None
    row["n"] = int(test.get("items", 0))
    for key in (
        "kept",
        "total",
        "failed_parses",
        "lm_calls",
        "tokens_in",
        "tokens_out",
        "tokens_reused",
        "training_rows",
        "training_tokens",
    ):
        row[key] = sum(step.get(key) or 0 for step in steps)
    row["step_seconds"] = sum(sum(step.get("seconds", {}).values()) for step in steps)
    for key in ("lm_calls", "tokens_in", "tokens_out", "failed_parses"):
        row[f"test_{key}"] = test.get(key, 0)
    row["unreadable"] = told(test.get("unreadable"))
    row |= {
        "test_seconds": _total(test.get("seconds", 0.0)),
        "date": run.get("date"),
        "machine": (run.get("machine") or {}).get("cpu"),
        "commit": run.get("commit"),
        "folder": str(path.parent),
    }
    return row


def _total(seconds: float | dict) -> float:
    return float(sum(seconds.values())) if isinstance(seconds, dict) else float(seconds)


def load_items(folder: Path | str) -> pd.DataFrame:
    """Read the verdict on every test item of every run under `folder`: CELL columns, seed, item (its place in the
    test set), correct.
    """
    rows = []
    for path in run_files(folder):
        spec = json.loads(path.read_text(encoding="utf-8"))["spec"]
        predictions = path.with_name("predictions.jsonl")
        lines = predictions.read_text(encoding="utf-8").splitlines() if predictions.exists() else []
        for i, line in enumerate(lines):
            rows.append(
                {**{k: spec[k] for k in (*CELL, "seed")}, "item": i, "correct": bool(json.loads(line)["correct"])}
            )
    return pd.DataFrame(rows, columns=[*CELL, "seed", "item", "correct"])


def by_size(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with small LMs first, LMs of unknown size last, and the order within an LM as it was."""
    shapes = {model: shape_of(model) for model in rows["model"].unique()}
    weights = {model: shape.weights if shape else math.inf for model, shape in shapes.items()}
    return rows.sort_values("model", key=lambda models: models.map(weights).astype(float), kind="stable")


def one_preset(runs: pd.DataFrame) -> str:
    """Return the preset of these runs; numbers of two presets never share a table."""
    presets = sorted(set(runs["preset"]))
    if len(presets) != 1:
        raise BtlibError(
            f"runs of {len(presets)} presets in one table ({', '.join(presets) or 'no runs'}); "
            "read one folder, runs/<preset>, at a time"
        )
    return presets[0]


def summarize(runs: pd.DataFrame, items: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row a cell (preset, model, task, strategy), small LMs first: mean score over seeds, its 95% interval
    `low`..`high`, seeds, empty, n, status.

    A "–" has no score that a mean could take in. So `score` and `seeds` are those of the seeds that have one, `empty`
    counts the others, and `status` says "2 of 3" where both kinds occur.

    One seed: Wilson's binomial interval over the test items. Several seeds, with `items`: the percentile interval of
    resampling seeds and items, since seeds share one test set. Neither says what another *training* set of the same
    task would have given.
    """
    rows = []
    for key, group in by_size(runs).groupby(CELL, sort=False):
        scored = group[group["score"].notna()]
        empty, score, n = len(group) - len(scored), scored["score"].mean(), int(group["n"].max())
        low, high = (100 * x for x in wilson(score / 100, n))
        if items is not None and len(scored) > 1:
            mine = items[(items[CELL] == pd.Series(dict(zip(CELL, key, strict=True)))).all(axis=1)]
            grid = mine.pivot(index="seed", columns="item", values="correct").to_numpy(float)
            low, high = 100 * np.quantile(resampled(grid), (0.025, 0.975))
        status = f"{len(scored)} of {len(group)}" if empty and len(scored) else group["status"].iloc[0]
        cell = dict(zip(CELL, key, strict=True))
        label = label_of(cell["strategy"])
        rows.append((*key, label, score, low, high, len(scored), empty, n, status))
    return pd.DataFrame(rows, columns=[*CELL, "label", "score", "low", "high", "seeds", "empty", "n", "status"])


def score_table(cells: pd.DataFrame, intervals: bool = False) -> pd.DataFrame:
    """Lay `summarize`'s rows out as the paper's Table 1: eight strategies by (model, task), in percent.

    A cell reads "–" where no trace was correct (as in the paper), "" where there is no run yet, and "60.0 (2 of 3)"
    where a seed has "–": the mean is that of the other two.
    """
    one_preset(cells)
    models, tasks, shown = list(dict.fromkeys(cells["model"])), tasks_in(cells), strategies_in(cells)
    table = pd.DataFrame(
        "",
        index=[label_of(s) for s in shown],
        columns=pd.MultiIndex.from_product([models, tasks], names=["model", "task"]),
    )
    for row in cells.itertuples():
        text = "–" if math.isnan(row.score) else f"{row.score:.1f}"
        if intervals and not math.isnan(row.score):
            text += f" [{row.low:.0f}, {row.high:.0f}]"
        if row.empty and row.seeds:
            text += f" ({row.status})"
        table.loc[label_of(row.strategy), (row.model, row.task)] = text
    return table.rename_axis("strategy")


def cost_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what each cell cost to optimize, mean over seeds: traces kept, LM calls, tokens, training rows, seconds,
    points per minute.

    Costs are those of the whole strategy, so Π→Θ→Π pays for its three steps although the grid shares them. Costs and
    score are those of the same runs: `seeds` that have a score, where there is one, and the `empty` ones with "–"
    beside. `points a minute` is the gain over vanilla, in percentage points, per minute of optimization.
    """
    costs = [
        "kept",
        "total",
        "failed_parses",
        "lm_calls",
        "tokens_in",
        "tokens_out",
        "training_rows",
        "training_tokens",
        "step_seconds",
    ]
    runs = by_size(runs).assign(seeds=runs["score"].notna())
    cells = runs.groupby(CELL, sort=False)
    counts = cells["seeds"].agg(seeds="sum", empty=lambda scored: (~scored).sum())
    counted = runs[runs["seeds"] | ~cells["seeds"].transform("any")]
    table = counted.groupby(CELL, sort=False)[["score", *costs]].mean().join(counts).reset_index()
    vanilla = table[table["strategy"] == ""].set_index(["preset", "model", "task"])["score"]
    base = [vanilla.get((r.preset, r.model, r.task), math.nan) for r in table.itertuples()]
    minutes = (table["step_seconds"] / 60).where(table["step_seconds"] > 0)
    table["points a minute"] = (table["score"] - base) / minutes
    table["strategy"] = table["strategy"].map(label_of)
    return table.rename(columns={"step_seconds": "seconds"})


def as_series(cells: pd.DataFrame) -> pd.Series:
    """Index `summarize`'s scores by (model, task, strategy), the form that the gain formulas take."""
    return cells.set_index(["model", "task", "strategy"])["score"]
