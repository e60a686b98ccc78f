"""What a notebook shows: tables with a title, diagrams of boxes and arrows, verdicts on exercises, what a run took.

    titled(frame, "Vanilla scores", "40 dev examples a task; brackets: 95% intervals")

Tables have no colours but those of the page, so that they read well in light and in dark; nothing is fetched from a
network. Taught nowhere: all this is means, not subject.
"""

from __future__ import annotations

import hashlib
import html
import time
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
from matplotlib.transforms import Bbox
from pandas.io.formats.style import Styler

_LOOK = [
    {"selector": "", "props": "border-collapse: collapse; margin: 0.5em 0"},
    {"selector": "caption", "props": "caption-side: top; text-align: left; color: inherit; padding: 0.3em 0"},
    {"selector": "caption b", "props": "font-size: 110%; white-space: nowrap"},
    {"selector": "th, td", "props": "text-align: left; vertical-align: top; padding: 0.25em 0.8em"},
    {"selector": "td", "props": "white-space: pre-wrap"},
    {"selector": "thead th", "props": "border-bottom: 1px solid currentColor; vertical-align: bottom"},
]
_RIGHT = [{"selector": "", "props": "text-align: right"}]


class Shown(Styler):
    """A pandas Styler that also reads well as plain text, where no HTML is shown and where outputs are compared."""

    text = ""

    def __repr__(self) -> str:
        return self.text


def titled(frame: pd.DataFrame, title: str, note: str = "", digits: int = 1) -> Shown:
    """Return the table with a title above it, ready to be a cell's last line; what Styler can do, it can do too.

    `note` stands under the title: what the numbers are, their units, how many examples. Floats get `digits` decimals,
    a missing value reads "–". The index is left out where it only counts the rows. Column names must differ.
    """
    counted = isinstance(frame.index, pd.RangeIndex)
    # The same table gets the same HTML in every run: pandas would name it by chance.
    name = hashlib.sha256(f"{title} {list(frame.columns)}".encode()).hexdigest()[:8]
    shown = Shown(frame, precision=digits, uuid=name, cell_ids=False)
    shown.format(precision=digits, na_rep="–", escape="html")
    for axis in (0, 1):
        shown.format_index(axis=axis, escape="html")
    caption = f"<b>{html.escape(title)}</b>" + (f"<br>{html.escape(note)}" if note else "")
    shown.set_caption(caption).set_table_styles(_LOOK)
    numbers = {column: _RIGHT for column in frame.columns if pd.api.types.is_numeric_dtype(frame[column])}
    shown.set_table_styles(numbers, overwrite=False)
    if counted:
        shown.hide(axis=0)
    rows = frame.to_string(index=not counted, float_format=f"{{:.{digits}f}}".format, na_rep="–")
    shown.text = "\n".join(part for part in (title, note, rows) if part)
    return shown


def diagram(
    boxes: Mapping[str, tuple[float, float, str, str]],
    arrows: Iterable[tuple[str, str, str]],
    size: tuple[float, float] = (9, 2.5),
) -> plt.Figure:
    """Draw boxes and the arrows between them.

    `boxes` has (x, y, text, colour) by name, in any units; `arrows` are (from, to, label), a label may be "". `size`
    is in inches.
    """
    figure, axes = plt.subplots(figsize=size)
    axes.axis("off")
    places = [place[:2] for place in boxes.values()]
    for pick, limits in ((0, axes.set_xlim), (1, axes.set_ylim)):
        low, high = min(p[pick] for p in places), max(p[pick] for p in places)
        limits(low - 0.08 * (high - low or 1), high + 0.08 * (high - low or 1))
    drawn = {}
    for name, (x, y, text, colour) in boxes.items():
        look = {"boxstyle": "round,pad=0.5", "facecolor": f"{colour}22", "edgecolor": colour}
        drawn[name] = axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=look)
    figure.canvas.draw()  # only now is known how large the boxes are
    areas = {name: text.get_bbox_patch().get_window_extent() for name, text in drawn.items()}
    for start, end, label in arrows:
        ends = [_edge(areas[start], areas[end]), _edge(areas[end], areas[start])]
        start, end = axes.transData.inverted().transform(ends)
        look = {"arrowstyle": "-|>", "color": "#444444", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=look)
        if label:
            back = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(*(start + end) / 2, label, ha="center", va="center", fontsize=8, bbox=back)
    return figure


def _edge(area: Bbox, other: Bbox) -> np.ndarray:
    """Return the point, in pixels, where a line from the middle of one box to that of another leaves the first."""
    middle = np.array([area.x0 + area.x1, area.y0 + area.y1]) / 2
    way = np.array([other.x0 + other.x1, other.y0 + other.y1]) / 2 - middle
    reach = np.array([area.width, area.height]) / 2
    return middle + way * min(r / abs(w) for r, w in zip(reach, way, strict=True) if w)


def check(exercise: str, mine: Any, right: Any, within: float = 0) -> None:
    """Print whether the reader's answer to an exercise is right; `None` stands for no answer yet.

    `within` is how far a number may be off.
    """
    if mine is None:
        text = "no answer yet; put yours in the place of None and run this cell again"
    elif isinstance(mine, (int, float)) and isinstance(right, (int, float)):
        text = "right" if abs(mine - right) <= within else "not yet: too " + ("high" if mine > right else "low")
    else:
        text = "right" if mine == right else "not yet"
    print(f"{exercise}: {text}.")


def spent() -> None:
    """Print what this process has taken since it was started: seconds, seconds of one core, memory in GiB."""
    process = psutil.Process()
    seconds, memory = time.time() - process.create_time(), process.memory_info().rss / 2**30
    print(f"This run: {seconds:.0f} s, {time.process_time():.0f} s of one core, {memory:.1f} GiB.")
