"""The published tables are transcribed right, and the paper's arithmetic comes out of them."""

from __future__ import annotations

import pytest

from btlib.errors import BtlibError
from btlib.results import paper
from btlib.results.gains import PROMPTS, WEIGHTS, headline_gain
from btlib.results.tables import ORDER


def test_the_tables_are_whole():
    runs = paper.published_runs()
    assert len(runs) == 3 * 3 * 8 * 3 and runs["score"].isna().sum() == 9
    cells = paper.table1()
    assert len(cells) == 72 and cells.isna().sum() == 3
    assert {s for m, t, s in cells.index[cells.isna()]} == {"w", "w -> w", "w -> p"}
    vanilla = runs[runs["strategy"] == ""].groupby(["task", "model"])["score"].nunique()
    assert set(vanilla) == {1}  # seeds only shuffle the training set


@pytest.mark.parametrize(
    ("model", "task", "strategy", "runs"),
    [
        ("llama-3-8b-instruct", "gsm8k", "w -> w", [52.2, 36.6, 43.4]),
        ("llama-2-7b-chat", "hotpotqa", "w -> p", [36.0, 33.4, 33.1]),
        ("mistral-7b-instruct-v0.2", "iris", "p -> w -> p", [40.0, 54.0, 78.0]),
    ],
)
def test_single_cells(model, task, strategy, runs):
    found = paper.published_runs().query("model == @model and task == @task and strategy == @strategy")
    assert list(found.sort_values("run")["score"]) == runs


def test_every_average_but_the_known_misprints_follows_from_its_runs():
    wrong = {(r.where, r.model[:7], r.task, r.strategy, r.printed) for r in paper.misprints().itertuples()}
    assert wrong == {
        ("Table 1", "llama-2", "hotpotqa", "w -> w", 13.0),
        ("Table 1", "llama-3", "gsm8k", "p -> w -> p", 77.0),
        ("Tables 2-4", "llama-2", "hotpotqa", "w -> w", 13.0),
        ("Tables 2-4", "llama-3", "gsm8k", "w -> w", 44.0),
        ("Tables 2-4", "llama-3", "gsm8k", "p -> w -> p", 77.0),
    }


def test_the_claims_come_out():
    value = {(r.task, r.over): r.recomputed for r in paper.claims().itertuples()}
    expected = {"hotpotqa": (5.00, 77.88), "gsm8k": (2.50, 10.33), "iris": (-5.95, 135.63)}
    for task, (over_prompts, over_weights) in expected.items():
        assert value[task, "best of Π, Π→Π"] == pytest.approx(over_prompts, abs=0.006)
        assert value[task, "best of Θ, Θ→Θ"] == pytest.approx(over_weights, abs=0.006)
    assert value["all", "plain Θ"] == pytest.approx(64.64, abs=0.006)
    assert value["all", "plain Π"] == pytest.approx(4.60, abs=0.006)


def test_the_headline_shrinks_over_the_per_task_baselines():
    assert headline_gain(paper.table1(), WEIGHTS) == pytest.approx(59.5, abs=0.05)
    assert headline_gain(paper.table1(), PROMPTS) == pytest.approx(0.4, abs=0.05)


def test_who_wins():
    wins = paper.winners()
    assert wins["both"].sum() == 7
    assert wins[wins["both"]]["strategy"].value_counts().to_dict() == {"Θ→Π": 4, "Π→Θ→Π": 2, "Π→Θ": 1}


def test_the_layout_is_the_printed_one():
    layout = paper.table1_layout()
    assert layout.shape == (8, 9) and layout.loc["Θ", ("llama-2-7b-chat", "iris")] == "–"
    assert layout.loc["Π→Θ→Π", ("mistral-7b-instruct-v0.2", "hotpotqa")] == "37.6"


def test_beside_marks_the_mean_of_two(tmp_path):
    columns = paper.pd.MultiIndex.from_tuples([("pocket", "iris")], names=["model", "task"])
    mine = paper.pd.DataFrame([[""]] * len(ORDER), index=paper.table1_layout().index, columns=columns)
    column = paper.beside(mine)[("paper, mean of 3 LMs", "iris")]
    assert column["Θ"] == "30.0*" and column["Π"] == "62.2"


def test_a_missing_or_wrong_table_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_DATA", str(tmp_path))
    with pytest.raises(BtlibError, match="published table"):
        paper.table1()
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "table1.csv").write_text("strategy,model,iris\nq,m,1\n")
    with pytest.raises(BtlibError, match="names no strategy: q"):
        paper.table1()
