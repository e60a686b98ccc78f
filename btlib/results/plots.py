"""One style for every figure: colours that colour-blind readers can tell apart, units on the axes, intervals where
there is chance.

Taught nowhere: figures are means, not subjects; notebooks/06_results.ipynb uses them most. Each function draws on
given axes and returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from btlib.lm.known import shape_of
from btlib.results.tables import label_of, strategies_in, tasks_in, title_of_task

# Okabe and Ito's palette. A hue says which kinds of steps a strategy has: eight strategies need no eight colours.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#7F7F7F"
KINDS = {"vanilla": GREY, "prompts only (Π)": BLUE, "weights only (Θ)": ORANGE, "both": GREEN}
MARKERS = "os^DvP*X"  # a task each
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
    return "both" if has_p and has_w else "prompts only (Π)" if has_p else "weights only (Θ)" if has_w else "vanilla"


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

    `published` (a series like `btlib.results.paper.table1`) adds a small black tick for the mean over the paper's LMs.
    A cell without a score reads "–".
    """
    tasks, shown, preset = tasks_in(cells), strategies_in(cells), cells["preset"].iloc[0]
    models = list(dict.fromkeys(cells["model"]))
    size = (3.4 * len(tasks), 0.6 + 2.8 * len(models))
    figure, panels = plt.subplots(len(models), len(tasks), figsize=size, sharey=True, sharex=True, squeeze=False)
    for line, model in zip(panels, models, strict=True):
        for axes, task in zip(line, tasks, strict=True):
            mine = cells[(cells["task"] == task) & (cells["model"] == model)]
            rows = mine.drop_duplicates("strategy").set_index("strategy")
            for y, strategy in enumerate(shown):
                if strategy in rows.index:
                    draw_score(axes, y, rows.loc[strategy], KINDS[kind(strategy)])
                if published is not None:
                    scores = published[[t == task and s == strategy for _, t, s in published.index]].dropna()
                    label = "paper, mean of 3 LMs" if not y else None
                    if len(scores):
                        axes.plot(scores.mean(), y, "|", color="black", markersize=9, label=label)
            name = title_of_task(task, preset) + ("" if len(models) == 1 else f", {sized(model)}")
            axes.set(title=name, xlim=(-2, 102), yticks=range(len(shown)))
            axes.set_yticklabels([label_of(s) for s in shown])
    for axes in panels[-1]:
        axes.set_xlabel("test score (%)")
    panels[0][0].invert_yaxis()
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=c, label=name) for name, c in KINDS.items()]
    handles += [h for h in panels[0][0].get_legend_handles_labels()[0][:1]]
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), bbox_to_anchor=(0.5, 0.02), columnspacing=1)
    figure.tight_layout()
    return figure


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
    """Draw one score with its interval as a row of a panel, or "–" where nothing could be trained."""
    if pd.isna(row["score"]):
        axes.text(1, y, "–", va="center", color=colour)
        return
    axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(row["score"], y, "o", color=colour, markersize=6)


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


def cost_against_score(costs: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Draw `btlib.results.cost_table`'s rows: seconds of optimization against test score, a marker a task, a hue a
    kind of strategy.
    """
    axes = axes or plt.subplots(figsize=(5.5, 3.6))[1]
    tasks, preset = tasks_in(costs), costs["preset"].iloc[0]
    markers = {task: MARKERS[place % len(MARKERS)] for place, task in enumerate(tasks)}
    for task, rows in costs.groupby("task", sort=False):
        for row in rows.dropna(subset="score").to_dict("records"):
            axes.plot(
                row["seconds"], row["score"], markers[task], color=KINDS[kind_of_label(row["strategy"])], alpha=0.9
            )
    handles = [
        plt.Line2D([], [], marker=markers[t], linestyle="", color="black", label=title_of_task(t, preset))
        for t in tasks
    ]
    handles += [plt.Line2D([], [], marker="o", linestyle="", color=c, label=name) for name, c in KINDS.items()]
    axes.legend(handles=handles, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set(xlabel="optimization time (s)", ylabel="test score (%)", ylim=(-2, 102))
    return axes
