"""Runs: prefixes are computed once, folders appear whole, and settings never mix."""

from __future__ import annotations

import json
import os

import pytest
from run_fixtures import World, data_folder

import btlib.lm
from btlib.errors import BtlibError
from btlib.support.files import whole_folder
from btlib.presets import load_preset
from btlib.runs.run import RunSpec, execute, make_spec, read_run, settings


@pytest.fixture
def world(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BTLIB_DATA", str(data_folder(tmp_path / "data")))
    made = World()
    monkeypatch.setattr(btlib.lm, "load_lm", made.load_lm)
    return made


def spec(strategy: str, seed: int = 0) -> RunSpec:
    return make_spec("gsm8k", "pocket", strategy, seed, "smoke")


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
    assert world.loads[-1] == spec("p -> w").folder(tmp_path) / "adapter"
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
def test_other_settings_are_an_error_that_names_them(world, tmp_path, change):
    run = execute(spec(""), tmp_path)
    if change == "settings":
        path = run.folder / "run.json"
        path.write_text(path.read_text().replace('"temperature": 0.1', '"temperature": 0.7'))
        named = "temperature was 0.7 and is 0.1"
    else:
        with (tmp_path / "data" / "gsm8k-mini" / "test.jsonl").open("a") as file:
            file.write('{"id": "new", "question": "What is 1 plus 1?", "answer": "2", "steps": []}\n')
        named = "data was"
    with pytest.raises(BtlibError, match=named):
        execute(spec("p"), tmp_path)
    assert stored(tmp_path) == {"vanilla"}


def test_settings_hold_the_candidates_of_the_runs_own_task(world):
    laptop = load_preset("laptop")
    for task in laptop.tasks:
        found = settings(make_spec(task, "pocket", "", 0, "laptop"))
        assert found["num_candidate_programs"] == laptop.candidates(task)


def test_what_a_kill_left_is_replaced(world, tmp_path):
    folder = spec("").folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "program.json").write_text("{")
    dead = folder.parent / f".{folder.name}.{2**22 + 1}.tmp"  # no process has this number
    dead.mkdir()
    assert execute(spec(""), tmp_path).score == 25
    assert json.loads((folder / "program.json").read_text())["predictors"] and not dead.exists()


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
        ({"task": "iri"}, "iris, gsm8k, hotpotqa"),
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
    assert RunSpec("iris", "/some/where/tiny", ("p", "w"), 3, "smoke").folder("runs").as_posix() == (
        "runs/smoke/tiny/iris/seed-3/p-w"
    )
    assert (
        RunSpec("iris", "org/name", (), 0, "smoke").folder("runs").as_posix()
        == "runs/smoke/org--name/iris/seed-0/vanilla"
    )
