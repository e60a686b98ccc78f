"""Tables of a grid that is not complete."""

import pandas as pd

from btlib.results import gains, layout


def test_leads_of_a_grid_without_a_weights_strategy_show_a_dash():
    scores = {"": 20.0, "p": 40.0, "p -> w": 60.0}
    cells = pd.Series({("pocket", "iris", strategy): score for strategy, score in scores.items()})
    cells.index.names = ["model", "task", "strategy"]
    shown = layout.leads(gains.gain_table(cells), "smoke").to_string()
    assert "–" in shown and "60.0" in shown and "nan" not in shown
