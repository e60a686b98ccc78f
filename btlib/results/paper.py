"""The published numbers (Tables 1 to 4 of arXiv 2407.10930) and the arithmetic that reproduces, or fails to
reproduce, its claims.

Taught in notebooks/06_results.ipynb. The tables lie in data/paper as printed, misprints included.
"""

from __future__ import annotations

import pandas as pd

from btlib.errors import BtlibError
from btlib.results.gains import PROMPTS, WEIGHTS, headline_gain, task_gain
from btlib.results.tables import ORDER, label_of
from btlib.support.paths import data_dir

TASK_ORDER = ("hotpotqa", "gsm8k", "iris")  # the columns of Table 1
TABLES = {"hotpotqa": "table2_hotpotqa.csv", "gsm8k": "table3_gsm8k.csv", "iris": "table4_iris.csv"}
CLAIMS = (  # the paper's sentence, what it divides by, and the number printed
    ("hotpotqa", "best of Π, Π→Π", PROMPTS, 5.0),
    ("hotpotqa", "best of Θ, Θ→Θ", WEIGHTS, 78.0),
    ("gsm8k", "best of Π, Π→Π", PROMPTS, 2.5),
    ("gsm8k", "best of Θ, Θ→Θ", WEIGHTS, 10.0),
    ("iris", "best of Π, Π→Π", PROMPTS, -5.9),
    ("iris", "best of Θ, Θ→Θ", WEIGHTS, 136.0),
    ("all", "plain Θ", ("w",), 65.0),
    ("all", "plain Π", ("p",), 5.0),
)


def _read(name: str) -> pd.DataFrame:
    path = data_dir() / "paper" / name
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise BtlibError(f"cannot read the published table {path} ({error}); restore it from the repository") from None
    names = {"vanilla": ""} | {s.replace(" -> ", "-"): s for s in ORDER if s}
    wrong = sorted(set(table["strategy"]) - set(names)) if "strategy" in table else ["no column 'strategy'"]
    if wrong:
        raise BtlibError(f"{path} names no strategy: {', '.join(map(str, wrong))}; restore it from the repository")
    table["strategy"] = table["strategy"].map(names)
    return table


def published_runs() -> pd.DataFrame:
    """Return Tables 2 to 4, one row a run: task, model, strategy, run (1 to 3), score in percent (NaN where "–" is
    printed).
    """
    long = []
    for task, name in TABLES.items():
        table = _read(name).melt(["strategy", "model"], ["run1", "run2", "run3"], "run", "score")
        long.append(table.assign(task=task, run=table["run"].str[3:].astype(int)))
    return pd.concat(long, ignore_index=True)[["task", "model", "strategy", "run", "score"]]


def table1() -> pd.Series:
    """Return Table 1 as printed: percent, indexed by (model, task, strategy); the form that gains.py takes."""
    long = _read("table1.csv").melt(["strategy", "model"], list(TASK_ORDER), "task", "score")
    return long.set_index(["model", "task", "strategy"])["score"]


def averages() -> pd.Series:
    """Return the means of the published runs, in percent, indexed like `table1`."""
    return published_runs().groupby(["model", "task", "strategy"], sort=False)["score"].mean()


def table1_layout() -> pd.DataFrame:
    """Return Table 1 in its printed layout: eight strategies by (LM, task), as text."""
    cells = table1()
    models = list(dict.fromkeys(m for m, _, _ in cells.index))
    columns = pd.MultiIndex.from_product([models, TASK_ORDER], names=["model", "task"])
    text = {c: [("–" if pd.isna(x) else f"{x:.1f}") for x in (cells[(*c, s)] for s in ORDER)] for c in columns}
    return pd.DataFrame(text, index=[label_of(s) for s in ORDER], columns=columns).rename_axis("strategy")


def misprints(tolerance: float = 0.0501) -> pd.DataFrame:
    """List the printed averages that their three runs do not give, of Table 1 and of the tables' own last columns.

    The runs are rounded themselves, so a difference of under 0.1 is a slip of rounding and changes nothing in the
    paper.
    """
    means, rows = averages(), []
    own = pd.concat([_read(name).assign(task=task) for task, name in TABLES.items()])
    printed = {"Table 1": table1(), "Tables 2-4": own.set_index(["model", "task", "strategy"])["average"]}
    for where, cells in printed.items():
        for key, value in cells.items():
            if pd.notna(value) and abs(value - means[key]) > tolerance:
                rows.append((where, *key, value, round(means[key], 3)))
    return pd.DataFrame(rows, columns=["where", "model", "task", "strategy", "printed", "mean of runs"])


def claims(cells: pd.Series | None = None) -> pd.DataFrame:
    """Recompute every gain that the paper prints, from Table 1 or from other scores in the same form.

    Columns: task, over (the baseline), printed, recomputed (both in percent). The last two rows are the abstract's
    headline: note that it divides by plain Θ and plain Π, not by the better of one and two such steps as the per-task
    gains do.
    """
    cells = table1() if cells is None else cells
    rows = []
    for task, over, baseline, printed in CLAIMS:
        value = headline_gain(cells, baseline) if task == "all" else task_gain(cells, task, baseline)
        rows.append((task, over, printed, value))
    return pd.DataFrame(rows, columns=["task", "over", "printed", "recomputed"])


def winners(cells: pd.Series | None = None) -> pd.DataFrame:
    """Return the strategy that wins each (model, task), in percent; `both`: it has both kinds of steps."""
    cells = table1() if cells is None else cells
    best = cells.groupby(level=["model", "task"], sort=False).idxmax()
    rows = [(m, t, label_of(s), cells[(m, t, s)], "p" in s and "w" in s) for m, t, s in best]
    return pd.DataFrame(rows, columns=["model", "task", "strategy", "score", "both"])


def beside(table: pd.DataFrame) -> pd.DataFrame:
    """Put the published scores, the mean over the paper's three LMs, beside `btlib.results.score_table`'s columns.

    A cell with "–" for one LM is the mean of the others, marked with *.
    """
    cells, tasks = table1(), list(dict.fromkeys(t for _, t in table.columns))
    wide = table.copy()
    for task in (task for task in tasks if task in TASK_ORDER):
        column = []
        for strategy in ORDER:
            found = cells[cells.index.get_level_values("strategy") == strategy].xs(task, level="task")
            column.append(f"{found.mean():.1f}" + ("*" if found.isna().any() else ""))
        shown = pd.Series(column, index=[label_of(s) for s in ORDER]).reindex(table.index, fill_value="")
        wide[("paper, mean of 3 LMs", task)] = shown
    return wide
