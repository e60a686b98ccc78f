"""Tables as a notebook shows them: a title above, a note below it, numbers lined up on the right.

    titled(frame, "Vanilla scores", "40 dev examples a task; brackets: 95% intervals")

No colours but those of the page, so that a table reads well in light and in dark; nothing is fetched from a network.
Taught nowhere: tables are means, not subjects.
"""

from __future__ import annotations

import hashlib
import html

import pandas as pd
from pandas.io.formats.style import Styler

_LOOK = [
    {"selector": "", "props": "border-collapse: collapse; margin: 0.5em 0"},
    {"selector": "caption", "props": "caption-side: top; text-align: left; color: inherit; padding: 0.3em 0"},
    {"selector": "caption b", "props": "font-size: 110%"},
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
