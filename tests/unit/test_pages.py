"""Pages whose tables are filled from results: what is written, what is left alone, and that the committed ones fit."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from btlib.errors import BtlibError
from btlib.results.pages import block, filled, pages

N = 100  # test items
ONE_KIND = {"": 10, "p": 40, "w": 30, "p -> p": 41, "w -> w": None}


def results(both: dict[str, int], models=("pocket",), tasks=("iris",)):
    """Two seeds of a preset; the first items are the right ones, so a strategy that has more right has those too."""
    runs, items = [], []
    for model in models:
        for task in tasks:
            for strategy, right in (ONE_KIND | both).items():
                cell = {"preset": "laptop", "model": model, "task": task, "strategy": strategy}
                for seed in (0, 1):
                    score = math.nan if right is None else 100 * right / N
                    status = "empty-traces" if right is None else "ok"
                    made = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc"}
                    runs.append(cell | {"seed": seed, "score": score, "status": status, "n": N} | made)
                    items += [cell | {"seed": seed, "item": i, "correct": i < (right or 0)} for i in range(N)]
    return pd.DataFrame(runs), pd.DataFrame(items)


def test_a_block_is_filled_and_the_rest_of_the_page_stays():
    def read(preset):
        return results({"p -> w": 90})

    before = "# Title\n<!-- table: laptop pocket -->\nold\n<!-- end -->\nprose <!-- A NOTE -->\n"
    after = filled(before, read)
    assert after.startswith("# Title\n<!-- table: laptop pocket -->\n| strategy | Iris |\n")
    assert after.endswith("<!-- end -->\nprose <!-- A NOTE -->\n") and "old" not in after
    assert filled(after, read) == after


def test_the_best_score_of_a_column_is_bold_a_tie_twice_and_a_dash_stays_a_dash():
    table = block("table", "laptop pocket", lambda preset: results({"p -> w": 90, "w -> p": 80, "p -> w -> p": 90}))
    assert table.count("**90.0**") == 2 and table.count("**") == 4
    assert "| vanilla | 10.0 [" in table and "| Θ→Θ | – |" in table
    assert "100 of Iris" in table and "mean over 2 seeds" in table and "on 2026-01-02 at commit abc" in table


@pytest.mark.parametrize(
    ("right", "said", "points"),
    [(90, "both better", "+49.0"), (42, "undecided", "+1.0"), (12, "one kind better", "-29.0")],
)
def test_a_lead_is_told_by_its_interval(right, said, points):
    line = block("leads", "laptop pocket", lambda preset: results({"p -> w": right}))
    assert line.startswith(f"* **Iris**: {said}. Π→Θ has {right}.0%; Π→Π, the best of the five others, has 41.0%.")
    assert f"The lead is {points} points (" in line


def test_names_after_the_preset_choose_lms_and_tasks():
    def read(preset):
        return results({"p -> w": 90}, models=("pocket", "pocket-s"), tasks=("iris", "gsm8k"))

    assert "| strategy | pocket-s (1.1M) | pocket (2.9M) |" in block("table", "laptop iris", read)
    assert "| strategy | gsm8k-mini |" in block("table", "laptop pocket gsm8k", read)
    assert block("leads", "laptop", read).count("\n") == 3
    assert "in 4 of 4 pairs" in block("wins", "laptop", read)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: laptop -->\nno end", "1 blocks begin and 0 of them end"),
        ("<!-- tabel: laptop -->\n<!-- end -->", "unknown kind of block 'tabel'; choose from table, leads, wins"),
        ("<!-- table: laptop pocket-x -->\n<!-- end -->", "unknown LM or task 'pocket-x'; choose from pocket, iris"),
    ],
)
def test_a_block_that_cannot_be_filled_is_one_line(text, message):
    with pytest.raises(BtlibError, match=message):
        filled(text, lambda preset: results({"p -> w": 90}))


def test_a_preset_without_stored_results_is_named():
    with pytest.raises(BtlibError, match="unknown preset with stored results 'smoke'; choose from laptop"):
        block("table", "smoke")


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.stem)
def test_the_committed_tables_are_what_the_stored_results_say(path):
    text = path.read_text(encoding="utf-8")
    assert filled(text) == text, "run `python -m btlib.results.pages`"
