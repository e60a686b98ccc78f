"""One style for every figure: colours that colour-blind readers can tell apart, units on the axes, intervals where
there is chance.

Taught nowhere: figures are means, not subjects; notebooks/06_results.ipynb uses them most. Each function draws on
given axes and returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from btlib.lm.known import shape_of
from btlib.presets import PRESETS
from btlib.results.intervals import resampled
from btlib.results.tables import label_of, strategies_in, tasks_in, title_of_task
from btlib.tasks import registry

# Okabe and Ito's palette. A hue says which kinds of steps a strategy has: eight strategies need no eight colours.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#7F7F7F"
KINDS = {"vanilla": GREY, "prompts alone (Π)": BLUE, "weights alone (Θ)": ORANGE, "both": GREEN}
STYLE = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "savefig.bbox": "tight",
}


def use_style() -> None:
    """Set matplotlib to this style for the rest of the session."""
    plt.rcParams.update(STYLE)


def kind(strategy: str) -> str:
    """Return which kinds of steps a strategy has, a key of KINDS."""
    has_p, has_w = "p" in strategy, "w" in strategy
    return "both" if has_p and has_w else "prompts alone (Π)" if has_p else "weights alone (Θ)" if has_w else "vanilla"


def kind_of_label(label: str) -> str:
    """Return the same of a strategy's label."""
    return kind(label.replace("Π", "p").replace("Θ", "w") if "→" in label or len(label) == 1 else "")


def sized(model: str) -> str:
    """Return the LM's name with its number of weights where that is known: "pocket (2.9M)"."""
    shape = shape_of(model)
    if not shape:
        return model
    unit, letter = (1e9, "G") if shape.weights >= 1e8 else (1e6, "M")
    return f"{model} ({shape.weights / unit:.1f}{letter})"


def score_panels(cells: pd.DataFrame, published: pd.Series | None = None) -> plt.Figure:
    """Draw `btlib.results.summarize`'s rows: a panel a task and LM, a row a strategy, a dot with its 95% interval.

    `published` (a series like `btlib.results.paper.table1`) adds a small black tick for the mean over the paper's LMs,
    on the panels whose task is the paper's own: scores on generated data are not to be compared with it. A cell
    without a score reads "–".
    """
    tasks, shown, preset = tasks_in(cells), strategies_in(cells), cells["preset"].iloc[0]
    models, ticks = list(dict.fromkeys(cells["model"])), None
    size = (3.4 * len(tasks), 0.6 + 2.8 * len(models))
    figure, panels = plt.subplots(len(models), len(tasks), figsize=size, sharey=True, sharex=True, squeeze=False)
    for line, model in zip(panels, models, strict=True):
        for axes, task in zip(line, tasks, strict=True):
            mine = cells[(cells["task"] == task) & (cells["model"] == model)]
            rows = mine.drop_duplicates("strategy").set_index("strategy")
            for y, strategy in enumerate(shown):
                if strategy in rows.index:
                    draw_score(axes, y, rows.loc[strategy], KINDS[kind(strategy)])
                if published is not None and of_the_paper(task, preset):
                    scores = published[[t == task and s == strategy for _, t, s in published.index]].dropna()
                    if len(scores):
                        (ticks,) = axes.plot(scores.mean(), y, "|", color="black", markersize=10, markeredgewidth=1.5)
            name = title_of_task(task, preset) + ("" if len(models) == 1 else f", {sized(model)}")
            axes.set(title=name, xlim=(-2, 102), yticks=range(len(shown)))
            axes.set_yticklabels([label_of(s) if s else "vanilla" for s in shown])
    for axes in panels[-1]:
        axes.set_xlabel("test score (%)")
    panels[0][0].invert_yaxis()
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=c, label=name) for name, c in KINDS.items()]
    if ticks:
        ticks.set_label("paper, mean of its LMs")
        handles.append(ticks)
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), bbox_to_anchor=(0.5, 0.02), columnspacing=1)
    figure.tight_layout()
    return figure


def of_the_paper(task: str, preset: str) -> bool:
    """Tell whether a task's data are those of the paper: a task that it has, and not generated ones in their place."""
    spec, known = registry().get(task), PRESETS.get(preset.partition("+")[0])
    if spec is None or spec.column is None:
        return False
    return not (spec.title_mini and (known is None or known.source == "mini"))


def score_against_size(cells: pd.DataFrame, weights: Mapping[str, int]) -> plt.Figure:
    """Draw test score against the LM's number of weights (`weights[model]`): a panel a task, a line each for vanilla,
    Π, Θ and Π→Θ, with 95% intervals. Models without an entry are left out.
    """
    tasks, preset = tasks_in(cells), cells["preset"].iloc[0]
    figure, panels = plt.subplots(1, len(tasks), figsize=(3.4 * len(tasks), 3.2), sharey=True, squeeze=False)
    cells = cells[cells["model"].isin(weights)].assign(weights=cells["model"].map(weights)).sort_values("weights")
    for axes, task in zip(panels[0], tasks, strict=True):
        for place, strategy in enumerate(("", "p", "w", "p -> w")):
            rows = cells[(cells["task"] == task) & (cells["strategy"] == strategy)].dropna(subset="score")
            x = rows["weights"] / 1e6 * (1 + 0.02 * place)  # side by side, so that intervals stay apart
            error = [rows["score"] - rows["low"], rows["high"] - rows["score"]]
            label = label_of(strategy).replace("Vanilla Zero-shot", "vanilla")
            axes.errorbar(x, rows["score"], error, marker="o", markersize=4, color=KINDS[kind(strategy)], label=label)
        ticks = sorted({weights[m] / 1e6 for m in cells["model"]})
        axes.set(title=title_of_task(task, preset), xlabel="weights (millions)", xscale="log", ylim=(-2, 102))
        axes.set_xticks(ticks, [f"{t:.1f}" for t in ticks])
        axes.minorticks_off()
    panels[0][0].set_ylabel("test score (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=4, bbox_to_anchor=(0.5, 0.02))
    figure.tight_layout()
    return figure


def draw_score(axes: Axes, y: float, row: pd.Series, colour: str) -> None:
    """Draw one score with its interval as a row of a panel, or "–" where nothing could be trained; "2 of 3" beside it
    where a seed has none.
    """
    if pd.isna(row["score"]):
        axes.text(1, y, "–", va="center", color=colour)
        return
    axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(row["score"], y, "o", color=colour, markersize=6)
    if row.get("empty"):  # the mean of the seeds that have a score: "2 of 3"
        axes.annotate(row["status"], (row["high"], y), xytext=(4, 0), textcoords="offset points", va="center", size=8)


def path_of_a_strategy(
    names: Sequence[str], scores: Sequence[float], intervals: Sequence[tuple[float, float]], axes: Axes | None = None
) -> Axes:
    """Draw the score after each prefix of one strategy, in percent with 95% intervals, the steps along the x axis."""
    axes = axes or plt.subplots(figsize=(1.6 + 1.3 * len(names), 3.2))[1]
    axes.plot(range(len(names)), scores, color="#BBBBBB", zorder=1)
    for x, (name, score, (low, high)) in enumerate(zip(names, scores, intervals, strict=True)):
        colour = KINDS[kind(name)]
        axes.plot([x, x], [low, high], color=colour, linewidth=2)
        axes.plot(x, score, "o", color=colour, markersize=7)
        axes.annotate(f"{score:.0f}", (x, score), xytext=(8, 4), textcoords="offset points")
    axes.set(xlabel="steps so far", ylabel="test score (%)", ylim=(-2, 102), xlim=(-0.4, len(names) - 0.4))
    axes.set_xticks(range(len(names)), [label_of(n).replace("Vanilla Zero-shot", "vanilla") for n in names])
    return axes


def cost_panels(costs: pd.DataFrame) -> plt.Figure:
    """Draw `btlib.results.cost_table`'s rows: a panel a task and LM, each dot with the name of its strategy."""
    tasks, models, preset = tasks_in(costs), list(dict.fromkeys(costs["model"])), costs["preset"].iloc[0]
    size = (3.5 * len(tasks), 0.4 + 2.7 * len(models))
    figure, panels = plt.subplots(len(models), len(tasks), figsize=size, sharey=True, squeeze=False)
    for line, model in zip(panels, models, strict=True):
        for axes, task in zip(line, tasks, strict=True):
            cost_against_score(costs[(costs["task"] == task) & (costs["model"] == model)], axes)
            name = title_of_task(task, preset) + ("" if len(models) == 1 else f", {sized(model)}")
            axes.set(title=name, xlabel="optimization time (s)" if model == models[-1] else "")
            axes.set_ylabel("test score (%)" if task == tasks[0] else "")
    figure.tight_layout()
    return figure


def cost_against_score(costs: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Draw one task's and LM's rows of `btlib.results.cost_table`: seconds of optimization, on a logarithmic axis,
    against test score. Each dot is named; vanilla, which costs nothing, is the dashed line.
    """
    axes = axes or plt.subplots(figsize=(4.5, 3.4))[1]
    axes.set(xlabel="optimization time (s)", ylabel="test score (%)", ylim=(-2, 102), xscale="log")
    rows = costs.dropna(subset="score")
    for score in rows.loc[rows["seconds"] <= 0, "score"]:
        axes.axhline(score, color=GREY, linestyle="--", linewidth=1)
        axes.annotate("vanilla", (0.01, score), xycoords=("axes fraction", "data"), va="top", fontsize=8, color=GREY)
    rows = rows[rows["seconds"] > 0].sort_values("seconds")
    if rows.empty:
        return axes
    low, high = rows["seconds"].min() / 1.6, rows["seconds"].max() * 2.2  # room for the names
    axes.set_xlim(low, high)
    rows = rows.assign(x=np.log(rows["seconds"] / low) / np.log(high / low))  # 0 to 1 along the axis
    taken = [(x - 0.02, x + 0.02, y - 3.0, y + 3.0) for x, y in zip(rows["x"], rows["score"], strict=True)]
    for row in rows.to_dict("records"):
        axes.plot(row["seconds"], row["score"], "o", color=KINDS[kind_of_label(row["strategy"])], markersize=6)
        x, y = _free_place(row["x"], row["score"], row["strategy"], taken)
        axes.annotate(row["strategy"], (x, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000) if low <= t <= high]
    if ticks:
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
    return axes


def _free_place(x: float, y: float, name: str, taken: list[tuple[float, ...]]) -> tuple[float, float]:
    """Return where a dot's name begins without lying on another name or dot, and note that place as taken.

    x goes from 0 to 1, y from 0 to 100: beside the dot, else above, below, or before it, else further off.
    """
    wide, high = 0.027 * len(name), 3.5
    beside, centred, before = x + 0.03, x - wide / 2, x - 0.03 - wide
    places = [(beside, y), (centred, y + 8), (centred, y - 8), (before, y)]
    places += [(left, y + up) for up in (6, -6, 12, -12, 18, -18) for left in (beside, before)]
    for left, middle in places:
        box = (left, left + wide, middle - high, middle + high)
        if (
            left > 0
            and box[1] < 1
            and not any(box[0] < b and a < box[1] and box[2] < d and c < box[3] for a, b, c, d in taken)
        ):
            taken.append(box)
            return left, middle
    return beside, y


def one_score(verdicts: np.ndarray, names: Sequence[str], colour: str = GREEN, axes: Axes | None = None) -> Axes:
    """Draw where a score comes from: each seed's own with the interval of its test items, then the mean with items
    drawn anew, and with seeds and items drawn anew. `verdicts` are 1 and 0, (seeds, items); `names` those of the seeds.
    """
    axes = axes or plt.subplots(figsize=(6.5, 0.9 + 0.4 * (len(names) + 2)))[1]
    mean = verdicts.mean(axis=0, keepdims=True)
    rows = [(name, resampled(row[None])) for name, row in zip(names, verdicts, strict=True)]
    rows += [("mean, items drawn", resampled(mean)), ("mean, seeds and items drawn", resampled(verdicts))]
    for y, (_, draws) in enumerate(rows):
        score = 100 * (verdicts[y].mean() if y < len(names) else verdicts.mean())
        low, high = 100 * np.quantile(draws, (0.025, 0.975))
        shade = "#999999" if y < len(names) else colour
        axes.plot([low, high], [y, y], color=shade, linewidth=2, solid_capstyle="butt")
        axes.plot(score, y, "o", color=shade, markersize=6)
        axes.annotate(f"{score:.1f} [{low:.0f}, {high:.0f}]", (102, y), va="center", fontsize=9, annotation_clip=False)
    axes.set(xlabel="test score (%)", xlim=(-2, 100), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    return axes
