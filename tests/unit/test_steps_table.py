"""The table of steps: another function in the place of one runs, is noted in its runs, and may leave a whole LM."""

from __future__ import annotations

import json
import os
from functools import partial

import pytest
from dspy.teleprompt import LabeledFewShot

from btlib.errors import BtlibError
from btlib.runs import RunSpec, execute, make_spec, read_run
from btlib.runs.provenance import settings
from btlib.steps import STEPS, State, Step, StepRecord, finetune_weights, optimize_prompts, table, vanilla_state


def spec(strategy: str) -> RunSpec:
    return make_spec("gsm8k", "pocket", strategy, 0, "smoke")


def two_labelled(state, task, preset, folder):
    """A prompt step without a search: DSPy's two labelled demonstrations."""
    program = LabeledFewShot(k=2).compile(state.program, trainset=list(task.train), sample=False)
    return State(program, state.lm), StepRecord("p", 0, 0, 0, 0, 0, 0, 0)


def whole_lm(state, task, preset, folder):
    """A weight step that leaves a checkpoint and no adapter."""
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "model.safetensors").write_text(f"trained from {state.lm.model}")
    lm = state.lm.copy(model=state.lm.model + "+whole")
    return vanilla_state(task, lm), StepRecord("w", 1, 1, 0, 0, 0, 0, 0)


@pytest.fixture
def exchange(monkeypatch):
    def put(letter: str, run, settings: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(table, "STEPS", {**table.STEPS, letter: Step(run, "something else", settings)})

    return put


def demonstrations(run) -> list[dict]:
    prompts = json.loads((run.folder / "program.json").read_text())["predictors"]
    return [demo for predictor in prompts.values() for demo in predictor["demos"]]


def test_the_table_holds_the_papers_two_steps():
    assert {letter: step.run for letter, step in STEPS.items()} == {"p": optimize_prompts, "w": finetune_weights}
    with pytest.raises(TypeError):
        STEPS["p"] = None


def test_a_step_in_the_place_of_another_runs_in_any_strategy(world, tmp_path, exchange):
    exchange("p", two_labelled)
    phases = []
    run = execute(spec("p -> w"), tmp_path, phases.append)
    first = read_run(spec("p"), tmp_path)
    train = json.loads((first.folder / "split.json").read_text())["train"]
    assert [demo["id"] for demo in demonstrations(first)] == train[:2] and first.score == 50
    assert "something else" in phases and "tuning weights" in phases and "optimizing prompts" not in phases
    assert [step["kind"] for step in run.record["steps"]] == ["p", "w"] and run.record["steps"][1]["kept"] == 12


def test_runs_of_another_step_are_not_taken_for_those_of_btlibs_own(world, tmp_path, exchange, monkeypatch):
    own = settings(spec("p")), settings(spec("w"))
    exchange("p", two_labelled, ("max_labeled_demos",))
    run = execute(spec("p"), tmp_path)
    assert run.record["settings"]["step.p"] == "two_labelled"
    assert "max_labeled_demos" in run.record["settings"] and "num_candidate_programs" not in run.record["settings"]
    assert settings(spec("w")) == own[1] and "step.p" not in own[0]
    assert read_run(spec("p"), tmp_path).score == run.score
    monkeypatch.setattr(table, "STEPS", STEPS)
    with pytest.raises(BtlibError, match="step.p was two_labelled and is None"):
        read_run(spec("p"), tmp_path)


def test_an_optimizer_that_is_passed_in_is_a_part_of_the_steps_name(data, exchange):
    def mine(metric, task, preset): ...

    exchange("p", partial(optimize_prompts, optimizer=mine, ahead=False))
    name = settings(spec("p -> w"))["step.p"]
    assert name.startswith("optimize_prompts(optimizer=") and name.endswith("mine, ahead=False)")


def test_a_whole_checkpoint_stays_with_all_that_follows(world, tmp_path, exchange):
    exchange("w", whole_lm)
    exchange("p", two_labelled)
    last = execute(spec("w -> p -> p -> w"), tmp_path)
    folders = {name: spec(name).folder(tmp_path) / "checkpoint" for name in ("w", "w -> p", "w -> p -> p")}
    assert [name for name, _ in world.loads] == ["pocket", "pocket", *map(str, folders.values())]
    files = [folder / "model.safetensors" for folder in folders.values()]
    assert all(os.path.samefile(files[0], file) for file in files)  # no bytes are stored twice
    model = read_run(spec("w -> p -> p"), tmp_path).record["weights"]
    assert (last.folder / "checkpoint" / "model.safetensors").read_text() == f"trained from {model}"
    assert model.count("+") == 1 and not list(tmp_path.rglob("adapter"))
