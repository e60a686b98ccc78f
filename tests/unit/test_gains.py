"""Leads and their intervals, the answer in sentences, and the drawings of strategies and scores."""

from __future__ import annotations

import math
from itertools import product

import matplotlib
import numpy as np
import pandas as pd
import pytest

from btlib.errors import BtlibError
from btlib.results import gains, paper, plots
from btlib.results.diagrams import journey, strategy_map
from btlib.steps import STRATEGIES

matplotlib.use("Agg")


def items_of(shares: dict[tuple[str, int], float], n: int = 40) -> pd.DataFrame:
    """Verdicts of LM m on Iris: for each (strategy, seed) the first items right, to this share."""
    rows = [("m", "iris", s, k, i, i < round(share * n)) for (s, k), share in shares.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["model", "task", "strategy", "seed", "item", "correct"])


def cells_of(**scores: float) -> pd.Series:
    return pd.Series({("m", "iris", name.replace("_", " -> ").replace("vanilla", "")): x for name, x in scores.items()})


def test_drawing_seeds_widens_a_lead_that_hangs_on_one_seed():
    shares = {("p", 0): 0.5, ("p", 1): 0.5, ("p", 2): 0.5, ("p -> w", 0): 0.9, ("p -> w", 1): 0.5, ("p -> w", 2): 0.5}
    intervals = [gains.paired_interval(items_of(shares), "m", "iris", ("p",), draw=draw) for draw in gains.DRAWS]
    fixed, drawn = intervals
    assert drawn[1] - drawn[0] > 1.5 * (fixed[1] - fixed[0])
    # In 8 of 27 draws the seed that leads is not among them.
    assert drawn[0] == pytest.approx(0, abs=1e-9) and fixed[0] > 1


def test_with_one_seed_both_ways_of_drawing_are_the_same():
    items = items_of({("p", 0): 0.5, ("p -> w", 0): 0.7})
    one, other = (gains.paired_interval(items, "m", "iris", ("p",), draw=draw) for draw in gains.DRAWS)
    assert one == other and one[0] < 20 < one[1]


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(BtlibError, match="unknown kind of resample 'strategies'; choose from items, seeds and items"):
        gains.paired_interval(items_of({("p", 0): 0.5}), "m", "iris", ("p",), draw="strategies")


def test_a_side_without_runs_has_no_interval_and_a_missing_seed_does_not_spoil_one():
    items = items_of({("p", 0): 0.5, ("p", 1): 0.5, ("p -> w", 0): 0.7})
    assert np.isnan(gains.paired_interval(items, "m", "iris", ("w",))).all()
    low, high = gains.paired_interval(items, "m", "iris", ("p",), draw="seeds and items")
    assert low < 20 < high
    grid = gains.verdict_grid(items, "m", "iris", ["p", "w", "p -> w"])
    assert grid.shape == (2, 2, 40) and np.isnan(grid[1, 1]).all() and not np.isnan(grid[0]).any()


def test_a_lead_of_rounding_noise_is_undecided():
    assert [gains.says(*x) for x in ((1e-14, 3), (-3, -1e-14), (0.1, 3), (-3, -0.1))] == [
        "undecided",
        "undecided",
        "both better",
        "one kind better",
    ]
    assert gains.says(math.nan, 1) == ""


def test_the_papers_expectation_holds_in_one_of_its_own_pairs():
    found = gains.three_against_five(paper.table1()).set_index(["model", "task"])
    assert list(found.index[found["all lead"]]) == [("llama-2-7b-chat", "gsm8k")]
    row = found.loc["llama-2-7b-chat", "iris"]
    assert row["best of five"] == "Π→Π" and math.isnan(row["Θ→Π"]) and row["Π→Θ"] == pytest.approx(-34.7)


def test_the_answer_counts_pairs_and_says_in_part_where_not_all_lead():
    cells = cells_of(vanilla=10, p=50, w=40, p_w=70, w_p=60, p_w_p=55)
    table = gains.gain_table(cells)
    weights, prompts, third = gains.answer(cells, table.assign(low=[-1.0, 5.0], high=[30.0, 50.0]))
    assert weights.startswith("Better than weights alone? Yes") and "1 of 1 pair " in weights and "+30.0" in weights
    assert prompts.startswith("Better than prompts alone? Not shown") and "1 are undecided" in prompts
    assert "best mean in 1 of 1 pair" in third and third.endswith("in 1.")
    two = pd.concat([table, table.assign(model="l")]).assign(low=[5, 5, -9, -9], high=[9, 9, -1, 1])
    weights, prompts, _ = gains.answer(cells, two)
    assert "In part" in weights and "In part" in prompts and "trails in 1" in prompts
    assert "No pair" in gains.answer(cells, table)[0]  # no interval anywhere


def test_a_journey_is_algorithm_1():
    stops = journey(("p", "w", "p"))
    assert [(s.weights, s.prompts) for s in stops] == [("Θ", "Π"), ("Θ", "Π′"), ("Θ′", "Π"), ("Θ′", "Π′′")]
    assert [s.uses for s in stops] == ["", "Θ, Π", "Θ, Π′", "Θ′, Π"]


def test_the_map_draws_any_strategies_and_names_whose_traces_teach():
    figure = strategy_map([*STRATEGIES, ("w", "p", "w", "w")])
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"vanilla", "Π→Θ→Π", "Θ→Π→Θ→Θ", "traces of (Θ, Π′)"} <= set(words)
    assert words.count("train") == 6 + 3 and words.count("search") == 7 + 1


def cost_rows(*dots: tuple[str, float, float], model: str = "m") -> pd.DataFrame:
    rows = [("laptop", model, "iris", name, seconds, score) for name, seconds, score in dots]
    return pd.DataFrame(rows, columns=["preset", "model", "task", "strategy", "seconds", "score"])


def test_every_dot_of_the_costs_has_its_name_and_no_two_names_overlap():
    dots = [("Vanilla Zero-shot", 0, 40), ("Π", 20, 70), ("Θ", 21, 71), ("Π→Θ", 22, 70), ("Θ→Π", 30, 71)]
    axes = plots.cost_against_score(cost_rows(*dots, ("Θ→Θ", 25, math.nan)))
    assert sorted(t.get_text() for t in axes.texts) == sorted(["vanilla", "Π", "Θ", "Π→Θ", "Θ→Π"])
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [1 for a, b in product(boxes, boxes) if a is not b and a.overlaps(b)]


def test_costs_have_a_panel_a_task_and_lm():
    rows = pd.concat([cost_rows(("Π", 2, 50), model=model) for model in ("m", "l")])
    assert [axes.get_title() for axes in plots.cost_panels(rows).axes] == ["Iris, m", "Iris, l"]


def test_the_papers_ticks_are_on_tasks_with_the_papers_data_only():
    assert [plots.of_the_paper(task, "laptop+epochs=5") for task in ("iris", "hotpotqa", "cats")] == [
        True,
        False,
        False,
    ]
    assert plots.of_the_paper("hotpotqa", "paper") and plots.of_the_paper("gsm8k", "colab")


def test_one_score_is_drawn_with_its_seeds_and_two_ways_of_drawing():
    verdicts = np.array([[1.0] * 20, [0.0] * 20])
    axes = plots.one_score(verdicts, ["seed 0", "seed 1"])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["100.0 [100, 100]", "0.0 [0, 0]", "50.0 [50, 50]", "50.0 [0, 100]"]
