"""Tables from runs, intervals, gains, costs and figures, on folders written here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from btlib.errors import BtlibError
from btlib.results import gains, plots, samples
from btlib.results.tables import (
    CELL,
    ORDER,
    as_series,
    cost_table,
    load_items,
    load_runs,
    score_table,
    strategies_in,
    summarize,
    tasks_in,
    title_of_task,
    wilson,
)

matplotlib.use("Agg")
RIGHT = {"": 3, "p": 10, "w": 8, "p -> p": 9, "w -> w": None, "p -> w": 14, "w -> p": 11, "p -> w -> p": 13}


def write_run(runs, strategy, right, n=20, task="iris", seed=0, preset="smoke"):
    folder = runs / preset / "pocket" / task / f"seed-{seed}" / (strategy.replace(" -> ", "-") or "vanilla")
    folder.mkdir(parents=True)
    step = {"kept": 5, "total": 10, "failed_parses": 1, "lm_calls": 40, "tokens_in": 100, "tokens_out": 10}
    step |= {
        "tokens_reused": 0,
        "training_rows": 5,
        "training_tokens": 50,
        "seconds": {"bootstrap": 20.0, "train": 10.0},
    }
    steps = [step] * len([s for s in strategy.split(" -> ") if s])
    score = None if right is None else 100 * right / n
    test = None if right is None else {"items": n, "lm_calls": n, "tokens_in": 7, "tokens_out": 3, "seconds": 2.0}
    spec = {"task": task, "model": "pocket", "strategy": strategy, "seed": seed, "preset": preset}
    run = {"spec": spec, "score": score, "status": "ok" if score is not None else "empty-traces", "steps": steps}
    (folder / "run.json").write_text(json.dumps(run | {"evaluation": test}))
    if right is not None:
        (folder / "predictions.jsonl").write_text("".join(json.dumps({"correct": i < right}) + "\n" for i in range(n)))
    return folder


@pytest.fixture
def runs(tmp_path):
    for strategy, right in RIGHT.items():
        write_run(tmp_path, strategy, right)
    return tmp_path


def test_runs_become_rows(runs):
    rows = load_runs(runs).set_index("strategy")
    assert len(rows) == 8 and rows.loc["p", "score"] == 50 and math.isnan(rows.loc["w -> w", "score"])
    assert rows.loc["p -> w -> p", "lm_calls"] == 120 and rows.loc["p -> w -> p", "step_seconds"] == 90
    assert rows.loc["", "lm_calls"] == 0 and rows.loc["", "test_lm_calls"] == 20
    assert set(rows["unreadable"]) == {""}
    path = Path(rows.loc["p", "folder"]) / "run.json"
    run = json.loads(path.read_text())
    run["evaluation"]["unreadable"] = {"no marker": 39, "template": 10, "near miss": 1}
    path.write_text(json.dumps(run))
    told = load_runs(runs).set_index("strategy").loc["p", "unreadable"]
    assert told == "50: 39 without a marker, 10 copied the template, 1 near miss"


def test_hidden_work_folders_are_no_runs(runs):
    hidden = runs / "smoke" / ".p.123.tmp"
    hidden.mkdir()
    (hidden / "run.json").write_text("{")
    assert len(load_runs(runs)) == 8


def test_an_empty_folder_is_an_empty_table_and_a_broken_run_one_line(tmp_path):
    assert load_runs(tmp_path).empty
    write_run(tmp_path, "p", 1).joinpath("run.json").write_text('{"spec": {}}')
    with pytest.raises(BtlibError, match="delete its folder"):
        load_runs(tmp_path)


def test_the_table_has_the_papers_layout(runs):
    table = score_table(summarize(load_runs(runs)))
    assert list(table.index)[0] == "Vanilla Zero-shot" and len(table) == 8
    column = table[("pocket", "iris")]
    assert column["Π→Θ"] == "70.0" and column["Θ→Θ"] == "–"
    assert score_table(summarize(load_runs(runs)), intervals=True).loc["Π", ("pocket", "iris")] == "50.0 [30, 70]"


def test_a_run_that_is_not_there_is_blank_and_not_a_dash(tmp_path):
    write_run(tmp_path, "p", 4)
    assert score_table(summarize(load_runs(tmp_path))).loc["Θ", ("pocket", "iris")] == ""


def test_two_presets_never_share_a_table(runs):
    write_run(runs, "p", 3, preset="laptop")
    with pytest.raises(BtlibError, match="laptop, smoke"):
        score_table(summarize(load_runs(runs)))


def test_wilson_agrees_with_the_textbook():
    low, high = wilson(0.5, 10)
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)
    assert wilson(0.0, 10)[0] == 0.0 and 0.27 < wilson(0.0, 10)[1] < 0.28
    assert math.isnan(wilson(0.5, 0)[0])


def test_several_seeds_are_resampled_over_seeds_and_items(tmp_path):
    for seed, right in enumerate((4, 10, 16)):
        write_run(tmp_path, "p", right, seed=seed)
    cell = summarize(load_runs(tmp_path), load_items(tmp_path)).iloc[0]
    assert cell["score"] == 50 and cell["seeds"] == 3
    # Seeds that differ by 30 points must widen the interval beyond what 60 independent items would give.
    narrow = np.subtract(*reversed(wilson(0.5, 60))) * 100
    assert cell["low"] < 50 < cell["high"] and cell["high"] - cell["low"] > 1.3 * narrow
    again = summarize(load_runs(tmp_path), load_items(tmp_path)).iloc[0]
    assert (cell["low"], cell["high"]) == (again["low"], again["high"])


@pytest.fixture
def two_of_three(tmp_path):
    """Vanilla and Π on three seeds, Θ without a correct trace on the third, Θ→Θ without one on all three."""
    for seed, w in enumerate((10, 14, None)):
        for strategy, right in {"": 4, "p": 8, "w": w, "w -> w": None}.items():
            write_run(tmp_path, strategy, right, seed=seed)
    return tmp_path


def test_a_mean_over_fewer_seeds_says_so(two_of_three):
    cells = summarize(load_runs(two_of_three), load_items(two_of_three)).set_index("strategy")
    found = cells[["score", "seeds", "empty", "status"]].T.to_dict("list")
    assert found[""] == [20, 3, 0, "ok"] and found["p"] == [40, 3, 0, "ok"]
    assert found["w"] == [60, 2, 1, "2 of 3"]
    assert found["w -> w"][1:] == [0, 3, "empty-traces"] and math.isnan(found["w -> w"][0])
    column = score_table(cells.reset_index())[("pocket", "iris")]
    assert (column["Θ"], column["Π"], column["Θ→Θ"]) == ("60.0 (2 of 3)", "40.0", "–")
    shown = score_table(cells.reset_index(), intervals=True).loc["Θ", ("pocket", "iris")]
    assert shown == f"60.0 [{cells.loc['w', 'low']:.0f}, {cells.loc['w', 'high']:.0f}] (2 of 3)"
    axes = plots.score_panels(cells.reset_index()).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["2 of 3", "–"]


def test_the_interval_of_a_mean_is_that_of_the_seeds_that_have_a_score(two_of_three):
    with_empty = summarize(load_runs(two_of_three), load_items(two_of_three)).set_index("strategy").loc["w"]
    (two_of_three / "smoke" / "pocket" / "iris" / "seed-2" / "w" / "run.json").unlink()
    without = summarize(load_runs(two_of_three), load_items(two_of_three)).set_index("strategy").loc["w"]
    assert without["status"] == "ok" and without["seeds"] == 2
    assert (with_empty["low"], with_empty["high"]) == (without["low"], without["high"])


def test_one_scored_seed_of_several_has_the_interval_of_one_run(tmp_path):
    for seed, right in enumerate((10, None)):
        write_run(tmp_path, "w", right, seed=seed)
    cell = summarize(load_runs(tmp_path), load_items(tmp_path)).iloc[0]
    assert (cell["low"], cell["high"]) == tuple(100 * x for x in wilson(0.5, 20)) and cell["status"] == "1 of 2"


def test_costs_and_score_are_those_of_the_same_runs(two_of_three):
    path = two_of_three / "smoke" / "pocket" / "iris" / "seed-2" / "w" / "run.json"
    run = json.loads(path.read_text())
    run["steps"][0]["seconds"] = {"bootstrap": 5000.0}  # and no training
    path.write_text(json.dumps(run))
    table = cost_table(load_runs(two_of_three)).set_index("strategy")
    assert table.loc["Θ", ["score", "seconds", "seeds", "empty"]].tolist() == [60, 30, 2, 1]
    assert table.loc["Θ", "points a minute"] == pytest.approx((60 - 20) / 0.5)
    assert table.loc["Θ→Θ", ["seconds", "seeds", "empty"]].tolist() == [60, 0, 3]  # nothing but "–": what that cost
    assert table.loc["Π", ["seeds", "empty"]].tolist() == [3, 0]


def test_other_strategies_and_tasks_have_rows_and_columns(tmp_path):
    for task in ("iris", "spelling", "gsm8k"):  # no file declares the second
        write_run(tmp_path, "", 3, task=task)
        write_run(tmp_path, "w -> p -> w", 12, task=task)
    rows = load_runs(tmp_path)
    assert tasks_in(rows) == ["gsm8k", "iris", "spelling"] and strategies_in(rows) == [*ORDER, "w -> p -> w"]
    table = score_table(summarize(rows))
    assert list(table.columns) == [("pocket", task) for task in tasks_in(rows)] and len(table) == 9
    assert set(table.loc["Θ→Π→Θ"]) == {"60.0"} and set(table.loc["Π"]) == {""}
    panels = plots.score_panels(summarize(rows)).axes
    assert [axes.get_title() for axes in panels] == ["gsm8k-mini", "Iris", "spelling"]
    assert len(panels[0].get_yticklabels()) == 9
    costs = plots.cost_panels(cost_table(rows)).axes
    assert [axes.get_title() for axes in costs] == ["gsm8k-mini", "Iris", "spelling"]
    assert all("Θ→Π→Θ" in [text.get_text() for text in axes.texts] for axes in costs)


def test_a_tasks_title_says_whose_data_they_are():
    own, papers = ("smoke", "laptop+epochs=5"), ("paper", "colab", "")
    assert {title_of_task("gsm8k", preset) for preset in own} == {"gsm8k-mini"}
    assert {title_of_task("gsm8k", preset) for preset in papers} == {"GSM8K"}
    assert title_of_task("iris", "smoke") == "Iris" and title_of_task("spelling", "smoke") == "spelling"


def test_gains_are_best_of_both_over_best_of_one_kind(runs):
    cells = as_series(summarize(load_runs(runs)))
    table = gains.gain_table(cells, load_items(runs)).set_index("over")
    prompts = table.loc["best of Π, Π→Π"]
    assert (prompts["baseline"], prompts["both"], prompts["points"]) == (50, 70, 20)
    assert prompts["percent"] == pytest.approx(40) and prompts["low"] < 20 < prompts["high"]
    assert table.loc["best of Θ, Θ→Θ", "baseline"] == 40  # Θ→Θ is "–" and drops out


def test_the_paired_interval_is_empty_of_width_when_strategies_agree_on_every_item(tmp_path):
    for strategy in ("p", "p -> w"):
        write_run(tmp_path, strategy, 10)
    cells = as_series(summarize(load_runs(tmp_path)))
    row = gains.gain_table(cells, load_items(tmp_path)).iloc[0]
    assert (row["points"], row["low"], row["high"]) == (0, 0, 0)


def test_a_zero_baseline_has_no_ratio():
    cells = pd.Series(
        {
            ("m", "iris", "w"): 0.0,
            ("m", "iris", "p -> w"): 10.0,
            ("m", "gsm8k", "w"): 5.0,
            ("m", "gsm8k", "p -> w"): 10.0,
        }
    )
    assert math.isnan(gains.ratio(cells, "m", "iris", ("w",)))
    assert gains.headline_gain(cells, ("w",)) == pytest.approx(100)
    assert math.isnan(gains.task_gain(cells, "iris", ("w",)))


def test_costs_are_the_whole_strategys_and_gain_is_per_minute(runs):
    table = cost_table(load_runs(runs)).set_index("strategy")
    assert table.loc["Π→Θ→Π", "seconds"] == 90 and table.loc["Π→Θ→Π", "lm_calls"] == 120
    assert table.loc["Π", "points a minute"] == pytest.approx((50 - 15) / 0.5)
    assert math.isnan(table.loc["Vanilla Zero-shot", "points a minute"])


def test_figures_show_every_strategy_with_units(runs):
    cells = summarize(load_runs(runs))
    figure = plots.score_panels(cells)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "test score (%)" and len(axes.get_yticklabels()) == len(ORDER)
    assert [t.get_text() for t in axes.texts] == ["–"]
    assert "s)" in plots.cost_against_score(cost_table(load_runs(runs))).get_xlabel()
    path = plots.path_of_a_strategy(["", "p", "p -> w"], [15, 50, 70], [(5, 36), (30, 70), (48, 85)])
    assert [t.get_text() for t in path.get_xticklabels()] == ["vanilla", "Π", "Π→Θ"]
    assert len({plots.kind(s) for s in ORDER}) == 4


def test_figures_show_every_lm(runs):
    one = summarize(load_runs(runs))
    cells = pd.concat([one, one.assign(model="large")])
    models, tasks = list(dict.fromkeys(cells["model"])), cells["task"].nunique()
    panels = plots.score_panels(cells).axes
    assert len(panels) == 2 * tasks and [models[i] in panels[i * tasks].get_title() for i in (0, 1)] == [True, True]
    figure = plots.score_against_size(cells, {models[0]: 1_000_000, "large": 8_700_000})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1.0", "8.7"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["vanilla", "Π", "Θ", "Π→Θ"]


def test_lms_come_in_the_order_of_their_size(runs):
    one = load_runs(runs)
    rows = pd.concat([one.assign(model=m) for m in ("my-endpoint", "llama-3-8b", "smollm2-135m", "qwen3-0.6b")])
    order = ["smollm2-135m", "qwen3-0.6b", "llama-3-8b", "my-endpoint"]
    assert list(summarize(rows)["model"].unique()) == list(cost_table(rows)["model"].unique()) == order
    assert [plots.sized(m) for m in order[1:]] == ["qwen3-0.6b (0.6G)", "llama-3-8b (8.0G)", "my-endpoint"]


def test_a_sample_gives_the_runs_back(runs, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("BTLIB_DATA", str(data))
    with pytest.raises(BtlibError, match="btlib grid --preset smoke"):
        samples.find_results(tmp_path / "none", "smoke")
    samples.save_sample(runs / "smoke", data / "results" / "smoke.csv")
    rows, items, where = samples.find_results(tmp_path / "none", "smoke")
    assert where.startswith("NOT your runs")
    mine, my_items, here = samples.find_results(runs, "smoke")
    assert "8 runs read from" in here
    pd.testing.assert_frame_equal(summarize(rows), summarize(mine))
    order = [*CELL, "seed", "item"]
    pd.testing.assert_frame_equal(
        items.sort_values(order, ignore_index=True), my_items.sort_values(order, ignore_index=True), check_dtype=False
    )
    pd.testing.assert_series_equal(cost_table(rows)["seconds"], cost_table(mine)["seconds"])


def test_an_updated_sample_keeps_what_the_folder_has_not(runs, tmp_path):
    path = tmp_path / "smoke.csv"
    samples.save_sample(runs / "smoke", path)
    write_run(tmp_path / "other", "p", 20)
    write_run(tmp_path / "other", "p", 12, task="gsm8k")
    samples.save_sample(tmp_path / "other" / "smoke", path, update=True)
    rows, items = samples.load_sample(path)
    scores = rows.set_index(["task", "strategy"])["score"]
    assert len(rows) == 9 and scores["iris", "p"] == 100 and scores["gsm8k", "p"] == 60 and scores["iris", "w"] == 40
    assert items.groupby(["task", "strategy"])["correct"].sum()["iris", "p"] == 20
    assert math.isnan(scores["iris", "w -> w"])
    samples.save_sample(tmp_path / "other" / "smoke", path)
    assert len(samples.load_sample(path)[0]) == 2
