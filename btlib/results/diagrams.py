"""Drawings of the method: what each strategy does to the prompts and the weights, and which traces it learns from.

Used in notebooks/05_bettertogether.ipynb. A drawing is worked out from the strategies themselves, so a new one needs
no new picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from btlib.results.plots import BLUE, ORANGE
from btlib.steps.strategies import STRATEGIES, Steps, label

PRIME = "′"
INK, PALE = "#222222", "#9A9A9A"
WIDE, HIGH, GAP = 1.0, 0.62, 2.1  # of a state, and between two of them, in the drawing's units


@dataclass(frozen=True)
class Stop:
    """A state on a strategy's way: the names of its prompts and weights, and how the step before came to it.

    `step` is "p", "w" or "" at the start, `uses` what the step ran on, the state before: "Θ′, Π".
    """

    prompts: str
    weights: str
    step: str = ""
    uses: str = ""


def journey(steps: Steps) -> list[Stop]:
    """Return the states that a strategy goes through, from the vanilla one on (Algorithm 1).

    A prime counts the steps of one kind: Π″ is what the second search found. After a weight step the prompts are the
    vanilla ones again, line 4 of Algorithm 1.
    """
    stops = [Stop("Π", "Θ")]
    for place, step in enumerate(steps):
        before, primes = stops[-1], PRIME * steps[: place + 1].count(step)
        uses = f"{before.weights}, {before.prompts}"
        new = Stop("Π" + primes, before.weights, step, uses) if step == "p" else Stop("Π", "Θ" + primes, step, uses)
        stops.append(new)
    return stops


def strategy_map(strategies: Sequence[Steps] = STRATEGIES) -> plt.Figure:
    """Draw a row a strategy: its states from left to right, prompts and weights in each, and above each arrow the
    state whose traces the step learned from. The state that is judged has a thick frame.
    """
    most = max((len(steps) for steps in strategies), default=0)
    width = (most + 1) * WIDE + most * GAP
    left, right, low = -1.7, max(width + 0.1, 9.6), -1.1 * len(strategies) - 0.2
    figure, axes = plt.subplots(figsize=(0.8 * (right - left), 0.8 * (HIGH + 0.2 - low)))
    for row, steps in enumerate(strategies):
        _draw_row(axes, -1.1 * row, steps)
    _legend(axes, low + 0.05)
    axes.set(xlim=(left, right), ylim=(low, HIGH + 0.2), aspect="equal")
    axes.axis("off")
    return figure


def _draw_row(axes: Axes, y: float, steps: Steps) -> None:
    axes.text(-0.25, y + HIGH / 2, label(steps).replace("Vanilla Zero-shot", "vanilla"), ha="right", va="center")
    stops = journey(steps)
    for place, stop in enumerate(stops):
        x = place * (WIDE + GAP)
        if stop.step:
            _arrow(axes, x, y, stop)
        _state(axes, x, y, stop, judged=place == len(stops) - 1)


def _state(axes: Axes, x: float, y: float, stop: Stop, judged: bool) -> None:
    """Draw a state as the paper writes it, weights left and prompts right, coloured where a step has changed them."""
    for name, colour, ink, left in ((stop.weights, ORANGE, INK, x), (stop.prompts, BLUE, "white", x + WIDE / 2)):
        changed = PRIME in name
        fill, ink = (colour, ink) if changed else ("white", INK)
        axes.add_patch(Rectangle((left, y), WIDE / 2, HIGH, facecolor=fill, edgecolor=PALE))
        axes.text(left + WIDE / 4, y + HIGH / 2, name, ha="center", va="center", color=ink)
    frame = {"edgecolor": INK, "linewidth": 2.2} if judged else {"edgecolor": PALE, "linewidth": 1.0}
    axes.add_patch(Rectangle((x, y), WIDE, HIGH, fill=False, zorder=3, **frame))


def _arrow(axes: Axes, x: float, y: float, stop: Stop) -> None:
    """Draw the step that led to a state at x: what it does above the arrow, whose traces it learns from below."""
    ends = (x - GAP + 0.06, y + HIGH / 2), (x - 0.06, y + HIGH / 2)
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=12, color=INK, linewidth=1.2))
    doing = "search" if stop.step == "p" else "train"
    axes.text(x - GAP / 2, y + HIGH / 2 + 0.07, doing, ha="center", va="bottom", fontsize=9, color=INK)
    axes.text(x - GAP / 2, y + HIGH / 2 - 0.1, f"traces of ({stop.uses})", ha="center", va="top", fontsize=8, color=INK)


def _legend(axes: Axes, y: float) -> None:
    vanilla, tuned, found = ("vanilla", "white", 1.5), ("weights tuned", ORANGE, 2.2), ("prompts found", BLUE, 2.3)
    x = 0.0
    for words, colour, step in (vanilla, tuned, found):
        axes.add_patch(Rectangle((x, y), 0.3, 0.25, facecolor=colour, edgecolor=PALE))
        axes.text(x + 0.4, y + 0.125, words, va="center", fontsize=9)
        x += step
    axes.add_patch(Rectangle((x, y), 0.3, 0.25, fill=False, edgecolor=INK, linewidth=2.2))
    axes.text(x + 0.4, y + 0.125, "judged on the test set", va="center", fontsize=9)
