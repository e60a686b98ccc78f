"""Runs: prefixes are computed once, folders appear whole, and settings never mix."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace

import dspy
import pytest
from run_fixtures import store

from btlib.errors import BtlibError
from btlib.presets import PRESETS, load_preset
from btlib.runs import RunSpec, execute, make_spec, read_run
from btlib.runs.provenance import settings
from btlib.support.files import whole_folder
from btlib.tasks import default_tasks, preset_for


def spec(strategy: str, seed: int = 0, **changes: object) -> RunSpec:
    return make_spec("gsm8k", "pocket", strategy, seed, "smoke", changes)


def stored(runs) -> set[str]:
    return {path.parent.name for path in runs.rglob("run.json")}


def test_a_run_leaves_every_prefix_and_what_the_issue_asks_for(world, tmp_path):
    run = execute(spec("p -> w -> p"), tmp_path / "runs")
    assert stored(tmp_path / "runs") == {"vanilla", "p", "p-w", "p-w-p"}
    record = json.loads((run.folder / "run.json").read_text())
    assert record["spec"] == {
        "task": "gsm8k",
        "model": "pocket",
        "strategy": "p -> w -> p",
        "seed": 0,
        "preset": "smoke",
    }
    assert [step["kind"] for step in record["steps"]] == ["p", "w", "p"]
    # The script adds right below 6, with an adapter or demonstrations below 12, with both below 18, of 0 to 23.
    scores = [read_run(spec(s), tmp_path / "runs").score for s in ("", "p", "p -> w", "p -> w -> p")]
    assert scores == [25, 50, 50, 75] and run.score == 75
    tune = record["steps"][1]
    assert (tune["kept"], tune["total"], tune["training_rows"]) == (12, 24, 12)
    assert tune["training_tokens"] == 1200 and set(tune["seconds"]) == {"bootstrap", "train"}
    assert record["versions"]["dspy"] and record["machine"]["cores"] >= 1 and record["evaluation"]["lm_calls"] == 24
    traces = (spec("p -> w").folder(tmp_path / "runs") / "traces.jsonl").read_text().splitlines()
    assert sum(json.loads(trace)["score"] for trace in traces) == 12 and len(traces) == 24
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["correct"] for line in lines] == [i < 18 for i in range(24)]


def test_a_complete_run_is_read_and_not_run_again(world, tmp_path):
    first = execute(spec("p"), tmp_path)
    calls = world.asked.total()
    again = execute(spec("p"), tmp_path)
    assert again == first and world.asked.total() == calls


def test_weights_and_prompts_travel_as_the_paper_says(world, tmp_path):
    execute(spec("p -> w"), tmp_path)
    states = {name: json.loads((spec(name).folder(tmp_path) / "program.json").read_text()) for name in ("p", "p -> w")}
    demos = {name: [p["demos"] for p in state["predictors"].values()] for name, state in states.items()}
    assert any(demos["p"][0]) and not any(demos["p -> w"][0])  # Algorithm 1 line 4: the vanilla prompts come back
    world.asked.clear()
    execute(spec("p -> w -> p"), tmp_path)
    assert world.loads[-1] == ("pocket", spec("p -> w").folder(tmp_path) / "adapter")
    assert all("+" in model for model in world.asked), "the last search must ask the tuned weights only"


def test_a_prompt_step_on_tuned_weights_keeps_the_adapter_without_a_second_copy(world, tmp_path):
    run = execute(spec("w -> p"), tmp_path)
    mine, prefix = (spec(s).folder(tmp_path) / "adapter" / "adapter_model.safetensors" for s in ("w -> p", "w"))
    assert mine.read_bytes() == prefix.read_bytes() and os.path.samefile(mine, prefix)
    assert not (spec("p").folder(tmp_path) / "adapter").exists() and run.record["weights"].count("+") == 1


def test_the_second_prompt_step_starts_from_the_first_ones_prompts(world, tmp_path):
    execute(spec("p"), tmp_path)
    folder = spec("p").folder(tmp_path)
    state = json.loads((folder / "program.json").read_text())
    predictor = next(iter(state["predictors"].values()))
    predictor["demos"] = [{"question": "What is MARK plus 1?", "reasoning": "r", "answer": "2", "augmented": True}]
    (folder / "program.json").write_text(json.dumps(state))
    world.engine.prompts.clear()
    execute(spec("p -> p"), tmp_path)
    assert any("MARK" in turn for _, turns in world.engine.prompts for turn in turns)


def test_no_correct_trace_is_an_empty_cell_and_so_is_all_that_starts_with_it(world, tmp_path):
    world.skill = -100
    run = execute(spec("w -> p"), tmp_path)
    before = read_run(spec("w"), tmp_path)
    assert (before.status, before.score) == ("empty-traces", None)
    assert (run.status, run.score) == ("prefix-empty", None)
    assert before.record["steps"][0]["kept"] == 0 and before.record["steps"][0]["total"] == 24
    assert not world.provider.jobs and not (before.folder / "adapter").exists()
    assert execute(spec("p"), tmp_path).status == "ok"  # prompts can be searched all the same


@pytest.mark.parametrize("change", ["settings", "data"])
def test_other_settings_are_an_error_that_names_them(world, data, tmp_path, monkeypatch, change):
    run = execute(spec(""), tmp_path)
    if change == "settings":
        path = run.folder / "run.json"
        path.write_text(path.read_text().replace('"temperature": 0.1', '"temperature": 0.7'))
        named = "temperature was 0.7 and is 0.1"
    else:
        monkeypatch.setenv("BTLIB_DATA", str(shutil.copytree(data, tmp_path / "data")))
        with (tmp_path / "data" / "gsm8k-mini" / "test.jsonl").open("a") as file:
            file.write('{"id": "new", "question": "What is 1 plus 1?", "answer": "2", "steps": []}\n')
        named = "data was"
    with pytest.raises(BtlibError, match=named):
        execute(spec("p"), tmp_path)
    assert stored(tmp_path) == {"vanilla"}


def test_settings_hold_the_candidates_of_the_runs_own_task(data):
    laptop = load_preset("laptop")
    found = {}
    for task in default_tasks(laptop):
        found[task] = settings(make_spec(task, "pocket", "p", 0, "laptop"))["num_candidate_programs"]
        assert found[task] == preset_for(laptop, task).num_candidate_programs
    assert found["iris"] != found["gsm8k"]


LORA = {"lora_rank": 4, "learning_rate": 1e-4, "training_seed": 7}
BFRS = {"num_candidate_programs": 3, "max_labeled_demos": 1}


@pytest.mark.parametrize(
    ("strategy", "harmless", "named"),
    [
        ("", LORA | BFRS | {"shuffle_between_steps": True, "num_hops": 1}, {"temperature": 0.7}),
        ("p", LORA | {"shuffle_between_steps": True}, {"num_candidate_programs": 3}),
        ("w", BFRS | {"shuffle_between_steps": True}, {"lora_rank": 4}),
        ("p -> w", {"num_hops": 1, "num_threads": 3}, {"shuffle_between_steps": True}),
        ("w -> p", {"num_hops": 1}, {"learning_rate": 1e-4}),
    ],
)
def test_a_run_stays_valid_when_a_number_changes_that_cannot_change_it(data, tmp_path, strategy, harmless, named):
    run_of = spec(strategy)
    store(run_of, tmp_path)
    assert read_run(replace(run_of, preset=replace(run_of.preset, **harmless)), tmp_path).score == 50
    ((name, value),) = named.items()
    with pytest.raises(BtlibError, match=f"{name} was {getattr(run_of.preset, name)} and is {value}"):
        read_run(replace(run_of, preset=replace(run_of.preset, **named)), tmp_path)


def test_only_a_task_that_searches_depends_on_hops_and_retriever(data):
    numbers = {"num_hops", "passages_per_hop"}
    assert numbers <= set(settings(make_spec("hotpotqa", "pocket", "", 0, "smoke"))) and numbers.isdisjoint(
        settings(spec(""))
    )


def test_a_run_that_has_stored_more_than_it_depends_on_is_valid(data, tmp_path):
    store(spec(""), tmp_path, lora_rank=99)
    assert read_run(spec(""), tmp_path).score == 50


def test_a_run_that_was_stored_before_a_setting_existed_was_made_with_its_default(data, tmp_path):
    path = store(spec(""), tmp_path) / "run.json"
    record = json.loads(path.read_text())
    assert record["settings"].pop("reading") == "strict"
    path.write_text(json.dumps(record))
    assert read_run(spec(""), tmp_path).score == 50
    lenient = replace(spec("").preset, reading="lenient")
    with pytest.raises(BtlibError, match="reading was strict and is lenient"):
        read_run(replace(spec(""), preset=lenient), tmp_path)


def test_a_changed_preset_has_a_folder_of_its_own(world, tmp_path):
    execute(spec(""), tmp_path)
    changed = execute(spec("", epochs=3, lora_rank="4"), tmp_path)
    assert changed.folder.relative_to(tmp_path).parts[0] == "smoke+epochs=3,lora_rank=4"
    assert changed.record["spec"]["preset"] == "smoke+epochs=3,lora_rank=4"
    assert len(list(tmp_path.rglob("run.json"))) == 2
    # Where data and answers come from is a place, and leaves the name as it is.
    assert make_spec("gsm8k", "pocket", "", preset="smoke", source="hub").preset.name == "smoke"


def orders(run_of: RunSpec, runs) -> dict[str, list[str]]:
    """The order of the training set in every run of a chain."""
    return {p.parent.name: json.loads(p.read_text())["train"] for p in runs.rglob("split.json")}


def test_all_steps_share_one_order_of_the_training_set(world, tmp_path):
    execute(spec("w -> w"), tmp_path)
    found = orders(spec(""), tmp_path)
    assert found["vanilla"] == found["w"] == found["w-w"]


def test_a_shuffle_between_steps_is_the_steps_own_and_always_the_same(world, tmp_path):
    for runs in (tmp_path / "once", tmp_path / "again"):
        last = execute(spec("w -> w -> w", shuffle_between_steps=True), runs)
    once, again = (orders(last.spec, tmp_path / name) for name in ("once", "again"))
    assert once == again
    shuffled = execute(spec("w"), tmp_path / "plain").folder
    assert once["vanilla"] == once["w"] == json.loads((shuffled / "split.json").read_text())["train"]
    different = {tuple(once[name]) for name in ("w", "w-w", "w-w-w")}
    assert len(different) == 3 and len({frozenset(order) for order in different}) == 1
    traces = (last.folder / "traces.jsonl").read_text().splitlines()  # what the step went through
    assert [json.loads(line)["example_id"] for line in traces] == once["w-w-w"]


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_dspys_cache_is_the_callers_again(world, tmp_path, monkeypatch, ends):
    if ends == "in an error":
        monkeypatch.setattr("btlib.steps.evaluation.evaluate", lambda *_: int("no"))
    for mine in (dspy.cache, None):  # None: DSPy has not made one yet
        monkeypatch.setattr(dspy, "cache", mine) if mine else monkeypatch.delattr(dspy, "cache")
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        with pytest.raises(ValueError) if ends == "in an error" else nullcontext():
            execute(spec(""), tmp_path / "runs")
        assert vars(dspy).get("cache") is mine


def test_what_a_kill_left_is_replaced(world, tmp_path):
    folder = spec("").folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "program.json").write_text("{")
    assert execute(spec(""), tmp_path).score == 25
    assert json.loads((folder / "program.json").read_text())["predictors"]


NOBODY = 2**22 + 1  # no process has this number


@pytest.mark.parametrize(
    ("host", "process", "stays"),
    [("here", NOBODY, False), ("elsewhere", NOBODY, True), ("here", os.getppid(), True), ("here.b", NOBODY, True)],
)
def test_only_dead_work_of_this_machine_is_cleared_away(tmp_path, monkeypatch, host, process, stays):
    monkeypatch.setattr("platform.node", lambda: host)
    with whole_folder(tmp_path / "run") as mine:
        left = tmp_path / mine.name.replace(str(os.getpid()), str(process))
        left.mkdir()
    monkeypatch.setattr("platform.node", lambda: "here")
    with whole_folder(tmp_path / "run"):
        pass
    assert left.exists() == stays


def test_a_failing_step_leaves_nothing(world, tmp_path, monkeypatch):
    monkeypatch.setattr(world.provider, "finetune", lambda *a, **k: 1 / 0)
    with pytest.raises(Exception, match="division"):
        execute(spec("w"), tmp_path)
    assert stored(tmp_path) == {"vanilla"}
    assert not [p for p in spec("w").folder(tmp_path).parent.iterdir() if p.name != "vanilla"]


def test_a_folder_appears_only_when_the_block_ends_well(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "a" / "b") as work:
        (work / "x").write_text("1")
        raise RuntimeError
    assert list((tmp_path / "a").iterdir()) == []
    with whole_folder(tmp_path / "a" / "b") as work:
        (work / "x").write_text("2")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x").read_text() == "2"


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"task": "iri"}, "hotpotqa, gsm8k, iris"),
        ({"strategy": "p -> x"}, "p -> w"),
        ({"preset": "huge"}, "smoke, laptop"),
        ({"seed": -1}, "bad seed -1"),
        ({"seed": True}, "bad seed True"),
        ({"seed": "0"}, "bad seed '0'"),
    ],
)
def test_bad_names_are_refused_with_the_valid_ones(bad, named):
    good = {"task": "iris", "model": "pocket", "strategy": "p", "seed": 0, "preset": "smoke"}
    with pytest.raises(BtlibError, match=named):
        make_spec(**(good | bad))


def test_a_damaged_run_json_is_one_line_that_says_what_to_delete(world, tmp_path):
    run = execute(spec(""), tmp_path)
    (run.folder / "run.json").write_text("{")
    with pytest.raises(BtlibError, match="damaged.*delete its folder"):
        execute(spec(""), tmp_path)


def test_the_folder_of_a_model_that_is_a_path_goes_by_its_last_part(tmp_path):
    smoke = PRESETS["smoke"]
    folder = RunSpec("iris", "/some/where/tiny", ("p", "w"), 3, smoke).folder("runs")
    assert folder.as_posix() == "runs/smoke/tiny/iris/seed-3/p-w"
    folder = RunSpec("iris", "org/name", (), 0, smoke).folder("runs")
    assert folder.as_posix() == "runs/smoke/org--name/iris/seed-0/vanilla"
