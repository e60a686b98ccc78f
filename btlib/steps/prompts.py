"""Π: search demonstrations for the program's prompts, BFRS (Algorithm 2 line 1), by DSPy's own optimizer unmodified.

Taught in notebook 03.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import dspy
from dspy.teleprompt import BootstrapFewShotWithRandomSearch
from dspy.teleprompt.teleprompt import Teleprompter

from btlib.errors import BtlibError
from btlib.presets import Preset, Split
from btlib.steps.bootstrap import Metric, verdict
from btlib.steps.evaluation import running_on
from btlib.steps.lookahead import can_look_ahead, look_ahead
from btlib.steps.record import StepRecord
from btlib.steps.state import State, copy_program, vanilla_state
from btlib.support.meter import Meter
from btlib.tasks import Task, preset_for, split_for

Optimizer = Callable[[Metric, Task, Preset], Teleprompter]


def bfrs(metric: Metric, task: Task, preset: Preset) -> BootstrapFewShotWithRandomSearch:
    """Return DSPy's random search over demonstrations with a preset's numbers."""
    split = _split(task, preset)
    return BootstrapFewShotWithRandomSearch(
        metric=metric,
        max_bootstrapped_demos=preset.max_bootstrapped_demos,
        max_labeled_demos=preset.max_labeled_demos,
        num_candidate_programs=preset.num_candidate_programs,
        num_threads=preset.num_threads,
        max_errors=split.bootstrap + split.validation,  # failures count as wrong; the default ends the search after 10
    )


def optimize_prompts(
    state: State,
    task: Task,
    preset: Preset,
    folder: Path | str | None = None,
    progress: bool = False,
    *,
    optimizer: Optimizer = bfrs,
    ahead: bool = True,
) -> tuple[State, StepRecord]:
    """Search better prompts for the vanilla program on the state's LM, and return the state that has them.

    The optimizer gets T, the first examples of the shuffled training set, to bootstrap on, and V, the next ones, to
    validate on. When the state's prompts are optimized already (Π→Π), its program is the teacher that bootstraps;
    otherwise DSPy's labelled few-shot program is. The best candidate on V comes back, on the same LM; with a tie, the
    one tried first.

    `optimizer(metric, task, preset)` makes the DSPy optimizer. Its `compile` gets the student, and of trainset, valset
    and teacher those that it takes.
    `ahead` asks what BFRS is about to ask in parallel first, through DSPy's cache (lookahead.py): the same result in
    less time. Nothing is written to `folder`. `progress` shows DSPy's output.
    """
    preset = preset_for(preset, task.name)
    split = _split(task, preset)
    # 1. T and V, the two parts of the training set (line 2).
    train = list(task.train[: split.bootstrap])
    validation = list(task.train[split.bootstrap : split.bootstrap + split.validation])
    tries: list[bool] = []
    judge = verdict(task.metric)

    def counted(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
        right = judge(example, pred, trace)
        if trace is not None:
            tries.append(right)
        return right

    # 2. The teacher: the program itself where its prompts are optimized (Π→Π).
    teacher = None
    if _is_optimized(state.program):
        teacher = copy_program(state.program, state.lm)
        teacher._compiled = True  # or DSPy resets it to labelled demonstrations
    meter = Meter(state.lm)
    with running_on(state.lm, meter, progress, preset.reading) as adapter:
        student = vanilla_state(task, state.lm).program
        # 3. Candidates are bootstrapped on T and scored on V (lines 3 to 7).
        search = optimizer(counted, task, preset)
        if ahead and isinstance(search, BootstrapFewShotWithRandomSearch) and can_look_ahead(state.lm):
            look_ahead(optimizer(judge, task, preset), student, teacher, train, validation)
        taken = inspect.signature(search.compile).parameters
        data = {"trainset": train, "valset": validation} | ({"teacher": teacher} if teacher else {})
        best = search.compile(student, **{name: part for name, part in data.items() if {name, "kwargs"} & set(taken)})
    candidates = getattr(best, "candidate_programs", [])
    scores = [c["score"] for c in sorted(candidates, key=lambda c: c.get("seed", 0))]
    record = StepRecord(
        "p",
        sum(tries),
        len(tries),
        adapter.failed_parses,
        **meter.counts(),
        seconds={"search": meter.seconds},
        validation_scores=tuple(scores),
        unreadable=adapter.unreadable,
    )
    # 4. The winner's prompts, on the same LM.
    return State(_with_prompts_of(best, task, state.lm), state.lm), record


def _split(task: Task, preset: Preset) -> Split:
    split = task.split or split_for(preset, task.name)
    if split.bootstrap + split.validation > len(task.train):
        raise BtlibError(
            f"task {task.name} has {len(task.train)} training examples, preset {preset.name} needs {split.bootstrap} "
            f"to bootstrap and {split.validation} to validate; load it with load_for({preset.base!r}, {task.name!r})"
        )
    return split


def _is_optimized(program: dspy.Module) -> bool:
    return bool(getattr(program, "_compiled", False)) or any(predictor.demos for predictor in program.predictors())


def _with_prompts_of(best: dspy.Module, task: Task, lm: dspy.LM) -> dspy.Module:
    """Move the prompts to a fresh program: the winner carries every other candidate along, and no LM."""
    program = task.program()
    for predictor, source in zip(program.predictors(), best.predictors(), strict=True):
        predictor.demos, predictor.signature = list(source.demos), source.signature
    program.set_lm(lm)
    program._compiled = True
    return program
