"""A task is one file: declared there, it runs, and is seen in every table, figure, estimate and display."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import matplotlib
import pandas as pd
import pytest
from fakes import field
from rich.console import Console
from run_fixtures import World

import btlib.tasks
from btlib.__main__ import main
from btlib.errors import BtlibError
from btlib.grid.display import Display, dry_run
from btlib.grid.estimate import cost, estimate, weight
from btlib.grid.plan import Job, plan
from btlib.grid.report import results_text
from btlib.presets import PRESETS, Preset
from btlib.results import plots
from btlib.results.paper import beside
from btlib.results.samples import load_sample, save_sample
from btlib.results.tables import as_series, cost_table, load_items, load_runs, score_table, summarize, tasks_in
from btlib.runs import execute, make_spec
from btlib.runs.provenance import settings
from btlib.steps import finetune_weights, optimize_prompts, vanilla_state
from btlib.tasks import default_tasks, find_task, load_for, register, registry

matplotlib.use("Agg")
SMOKE = PRESETS["smoke"]
CHAIN = "p -> w -> p -> w"

FILE = """
import dspy

from btlib.presets import Split
from btlib.tasks._spec import CallSize, TaskSpec


class Twice(dspy.Module):
    def __init__(self):
        super().__init__()
        self.double = dspy.ChainOfThought("number -> twice")

    def forward(self, number):
        return self.double(number=number)


def metric(example, pred, trace=None):
    return 1.0 if example.twice == pred.twice else 0.3


def load(source, split, retriever):
    examples = [dspy.Example(number=str(n), twice=str(2 * n)).with_inputs("number") for n in range(24)]
    return {"train": examples, "dev": examples, "test": examples}, None


TASK = TaskSpec(
    name="twice",
    title="Twice as much",
    program=Twice,
    metric=metric,
    load=load,
    splits={"smoke": Split(train=24, dev=12, test=24, bootstrap=12, validation=12)},
    settings={"smoke": {"epochs": 1, "num_candidate_programs": 1}},
    calls=(CallSize(100, 40, 5, 20),),
)
"""


class Doubling(World):
    """The same scripted LM for the new task: right below 6, and 6 more for demonstrations and each training."""

    def answer(self, prompt):
        number = int(field(prompt, "number"))
        return number, "twice", {"reasoning": "Double it.", "twice": str(2 * number)}


@pytest.fixture(scope="module")
def one_file(tmp_path_factory):
    """A folder beside btlib/tasks with one file more."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "twice.py").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(btlib.tasks, "__path__", [*btlib.tasks.__path__, str(folder)])
        btlib.tasks._inside.cache_clear()
        yield
    btlib.tasks._inside.cache_clear()
    sys.modules.pop("btlib.tasks.twice", None)
    vars(btlib.tasks).pop("twice", None)


@pytest.fixture(scope="module")
def world():
    return Doubling()


@pytest.fixture(scope="module")
def runs(one_file, world, tmp_path_factory):
    """The chain's five runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("btlib.steps.state.load_lm", world.load_lm)
        execute(make_spec("twice", "pocket", CHAIN, 0, "smoke"), folder)
    return folder


def test_it_is_listed_after_the_papers_and_run_when_named(one_file):
    assert list(registry()) == ["hotpotqa", "gsm8k", "iris", "twice"] and "twice" not in default_tasks(SMOKE)
    assert [len(part) for part in (load_for("smoke", "twice").train, load_for("smoke", "twice").test)] == [24, 24]
    with pytest.raises(BtlibError, match="choose from hotpotqa, gsm8k, iris, twice"):
        find_task("twicee")
    with pytest.raises(BtlibError, match="task twice has no sizes for preset paper; it has smoke"):
        load_for("paper", "twice")


def test_a_chain_of_steps_runs_on_it(runs, world):
    rows = load_runs(runs).set_index("strategy")["score"].to_dict()
    assert rows == {"": 25, "p": 50, "p -> w": 50, "p -> w -> p": 75, "p -> w -> p -> w": 75}
    assert [job.kwargs["epochs"] for job in world.provider.jobs] == [1, 1]  # the task's own number


def test_a_tasks_own_numbers_hold_for_steps_that_are_taken_by_hand(one_file, tmp_path):
    task, lm = load_for("smoke", "twice"), Doubling().lm
    state, _ = finetune_weights(vanilla_state(task, lm), task, SMOKE, tmp_path)
    _, record = optimize_prompts(state, task, SMOKE)
    assert lm.provider.jobs[0].kwargs["epochs"] == 1 and len(record.validation_scores) == 3 + 1


def test_a_grade_of_less_than_1_is_wrong_and_the_gold_answer_goes_by_its_own_name(runs):
    folder = make_spec("twice", "pocket", "", 0, "smoke").folder(runs)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in rows] == [n < 6 for n in range(24)]
    assert rows[3] == {
        "id": "3",
        "inputs": {"number": "3"},
        "outputs": {"reasoning": "Double it.", "twice": "6"},
        "gold": {"twice": "6"},
        "correct": True,
    }


def test_it_has_its_column_in_every_table(runs, tmp_path):
    rows, items = load_runs(runs), load_items(runs)
    assert tasks_in(rows) == ["twice"] and len(items) == 5 * 24
    table = score_table(summarize(rows, items), intervals=True)
    assert list(table.columns) == [("pocket", "twice")] and table.index[-1] == "Π→Θ→Π→Θ" and len(table) == 9
    assert table.loc["Π→Θ→Π→Θ", ("pocket", "twice")].startswith("75.0 [")
    assert table.loc["Θ", ("pocket", "twice")] == ""
    assert beside(table).equals(table)  # the paper has no such column
    assert cost_table(rows).set_index("strategy").loc["Π→Θ→Π→Θ", "training_rows"] == 12 + 18
    assert as_series(summarize(rows))["pocket", "twice", "p"] == 50
    assert "Π→Θ→Π→Θ" in results_text(runs / "smoke") and "twice" in results_text(runs / "smoke")
    save_sample(runs, tmp_path / "smoke.csv")
    assert score_table(summarize(*load_sample(tmp_path / "smoke.csv")), intervals=True).equals(table)


def test_it_stands_beside_the_papers_tasks_and_theirs_stay(runs):
    rows = load_runs(runs)
    table = score_table(summarize(pd.concat([rows, rows.assign(task="iris")])))
    assert list(table.columns) == [("pocket", "iris"), ("pocket", "twice")]
    both = beside(table)
    assert list(both.columns) == [*table.columns, *(c for c in both.columns if c[1] == "iris" and c[0] != "pocket")]
    assert len(both.columns) == 3 and list(both.index) == list(table.index)


def test_it_is_drawn(runs):
    rows = load_runs(runs)
    figures = [plots.score_panels(summarize(rows)), plots.cost_panels(cost_table(rows))]
    figures.append(plots.score_against_size(summarize(rows), {"pocket": 3_000_000}))
    assert [figure.axes[0].get_title() for figure in figures] == ["Twice as much"] * 3
    labels = [text.get_text() for text in figures[0].axes[0].get_yticklabels()]
    assert labels[-1] == "Π→Θ→Π→Θ" and len(labels) == 9
    plots.plt.close("all")


def test_it_is_estimated_and_displayed(one_file):
    specs = plan(SMOKE, ["twice", "iris"], strategies=[tuple("pwpw")])
    last = specs[4]
    assert last.name == CHAIN and estimate(last) == 24 + 24
    assert cost(last).trained_tokens == 24 * 1 * (100 + 40 + 5 + 20)  # in the one epoch that the task says
    assert weight(last) == 100 + estimate(last) + 24 * 1
    text = dry_run(specs, set())
    assert text.startswith("10 runs") and text.count("twice") == 5 and text.count("Π→Θ→Π→Θ") == 2
    display = Display(specs, 1, Console(file=io.StringIO(), force_terminal=True, width=120))
    job = Job(last)
    job.state, job.score, job.status = "done", 12.5, "ok"
    display("done", job)
    drawn = Console(file=io.StringIO(), width=120)
    drawn.print(display.table())
    lines = drawn.file.getvalue().splitlines()
    assert any("twice" in line and "iris" in line for line in lines)
    assert any("Π→Θ→Π→Θ" in line and "12.5" in line for line in lines)


def test_the_command_line_knows_it(one_file, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("btlib.lm.checkpoint.find", lambda name: None)
    command = ["grid", "--preset", "smoke", "--tasks", "twice", "--dry-run", "--runs", str(tmp_path / "out")]
    assert main([*command, "--strategies", "w-p-w"]) == 0
    assert capsys.readouterr().out.startswith("4 runs, 0 complete")


def test_a_task_can_be_registered_for_a_session(one_file, monkeypatch):
    monkeypatch.setattr(btlib.tasks, "_OUTSIDE", {})
    spec = register(replace(find_task("twice"), name="again", title="Twice again", column=1, default=True))
    assert find_task("again") is spec and list(registry())[1] == "again"
    assert "again" in default_tasks(SMOKE) and "again" in [s.task for s in plan(SMOKE)]
    assert load_for("smoke", "again").name == "again"
    assert settings(make_spec("again", "pocket", "w", 0, "smoke"))["epochs"] == 1


def test_a_preset_says_what_a_task_is_run_with_when_no_task_is_named(one_file):
    mine = Preset(name="mine", base="smoke", tasks=("twice",))
    assert {spec.task for spec in plan(mine)} == {"twice"}
