"""The two steps of the paper, State -> State, on DSPy's own unmodified optimizers.

A state is a program with its prompts Π and an LM with its weights Θ. `optimize_prompts` is BFRS (Algorithm 2 line 1,
notebook 03), `finetune_weights` is BFT with LoRA (line 14, notebook 04). Both leave the state they are given alone.

The seed: it shuffled the task's training set and does nothing more (section 4). DSPy's own draws are fixed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFewShotWithRandomSearch, BootstrapFinetune

from btlib.bootstrap import TraceSet, bootstrap_traces, copy_program, sound
from btlib.errors import BtlibError
from btlib.evaluation import Evaluation, State, evaluate, running_on, vanilla_state
from btlib.lookahead import can_look_ahead, look_ahead
from btlib.meter import Meter
from btlib.presets import Preset, Split
from btlib.tasks import Task

__all__ = [
    "EmptyTraceSet",
    "Evaluation",
    "State",
    "StepRecord",
    "evaluate",
    "finetune_weights",
    "optimize_prompts",
    "vanilla_state",
]


@dataclass(frozen=True)
class StepRecord:
    """What one step did and cost. `kept` of `total` bootstrapped traces were correct.

    For "p", these are BFRS's attempts over all candidates, and `validation_scores` are the candidates' scores in
    percent, in the order tried: zero-shot, labelled, bootstrapped in order, then the random ones. `seconds` has
    "search" for "p", "bootstrap" and "train" for "w". `occupancy` and `lm_seconds` are as in `Evaluation`.
    """

    kind: str
    kept: int
    total: int
    failed_parses: int
    lm_calls: int
    tokens_in: int
    tokens_out: int
    tokens_reused: int
    training_rows: int = 0
    training_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    validation_scores: tuple[float, ...] = ()
    occupancy: float = 0.0
    lm_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the record as run.json stores it."""
        return {**asdict(self), "validation_scores": list(self.validation_scores)}


class EmptyTraceSet(BtlibError):
    """No trace was correct, so there is nothing to train on: the paper prints "–". Holds the traces and the record."""

    def __init__(self, traces: TraceSet, record: StepRecord):
        super().__init__(f"none of {traces.total} traces was correct, so there is nothing to fine-tune on (a '–' cell)")
        self.traces = traces
        self.record = record


def _check(task: Task, preset: Preset, seed: int) -> Split:
    if seed != task.seed:
        raise BtlibError(
            f"task {task.name} was shuffled with seed {task.seed}, the step is asked for seed {seed}; "
            f"load it with seed={seed}"
        )
    split = preset.split(task.name)
    if split.bootstrap + split.validation > len(task.train):
        raise BtlibError(
            f"task {task.name} has {len(task.train)} training examples, preset {preset.name} needs {split.bootstrap} "
            f"to bootstrap and {split.validation} to validate; load it with split=preset.split({task.name!r})"
        )
    return split


def _is_optimized(program: dspy.Module) -> bool:
    return bool(getattr(program, "_compiled", False)) or any(predictor.demos for predictor in program.predictors())


def optimize_prompts(
    state: State, task: Task, preset: Preset, seed: int, progress: bool = False, ahead: bool = True
) -> tuple[State, StepRecord]:
    """Search demonstrations with BFRS: T, the first examples of the shuffled training set, V the next ones.

    The candidates are made for the vanilla prompts on the state's LM. When the state's prompts are optimized already
    (Π→Π), its program is the teacher that bootstraps; otherwise DSPy's labelled few-shot program is. The best
    candidate on V comes back, on the same LM; with a tie, the one tried first. `progress` shows DSPy's output.
    `ahead` runs the candidates in parallel through DSPy's cache first (lookahead.py): the same result in less time.
    """
    split = _check(task, preset, seed)
    train = list(task.train[: split.bootstrap])
    validation = list(task.train[split.bootstrap : split.bootstrap + split.validation])
    attempts: list[bool] = []
    judge = sound(task.metric)

    def counted(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
        verdict = judge(example, pred, trace)
        if trace is not None:
            attempts.append(verdict)
        return verdict

    teacher = None
    if _is_optimized(state.program):
        teacher = copy_program(state.program, state.lm)
        teacher._compiled = True  # or DSPy resets it to labelled demonstrations
    meter = Meter(state.lm)
    with running_on(state.lm, meter, progress) as adapter:
        bfrs = partial(
            BootstrapFewShotWithRandomSearch,
            max_bootstrapped_demos=preset.max_bootstrapped_demos,
            max_labeled_demos=preset.max_labeled_demos,
            num_candidate_programs=preset.candidates(task.name),
            num_threads=preset.num_threads,
            max_errors=len(train) + len(validation),  # failures count as wrong; the default ends the search after 10
        )
        student = vanilla_state(task, state.lm).program
        data = {"teacher": teacher, "trainset": train, "valset": validation}
        if ahead and can_look_ahead(state.lm):
            look_ahead(bfrs(metric=judge), student, **data)
        best = bfrs(metric=counted).compile(student, **data)
    scores = [c["score"] for c in sorted(best.candidate_programs, key=lambda c: c["seed"])]
    record = StepRecord(
        "p",
        sum(attempts),
        len(attempts),
        adapter.failed_parses,
        **meter.counts(),
        seconds={"search": meter.seconds},
        validation_scores=tuple(scores),
    )
    return State(_with_prompts_of(best, task, state.lm), state.lm), record


def _with_prompts_of(best: dspy.Module, task: Task, lm: dspy.LM) -> dspy.Module:
    """Move the prompts to a fresh program: the winner carries every other candidate along, and no LM."""
    program = task.program()
    for predictor, source in zip(program.predictors(), best.predictors(), strict=True):
        predictor.demos, predictor.signature = list(source.demos), source.signature
    program.set_lm(lm)
    program._compiled = True
    return program


def finetune_weights(
    state: State,
    task: Task,
    preset: Preset,
    seed: int,
    output_dir: Path | str,
    progress: bool = False,
    *,
    traces_file: Path | str | None = None,
) -> tuple[State, StepRecord]:
    """Tune the LM on the program's own correct traces over the whole training set; the prompts go back to vanilla.

    The state's program, with its prompts as they are, makes the traces. One chat example a module call, without
    demonstrations, all modules in one data set. The tuned LM then runs the *vanilla* prompts (Algorithm 1 line 4). On
    an LM that is tuned already, training goes on from its weights. Without a correct trace nothing is trained:
    EmptyTraceSet.

    The adapter is written to `output_dir`; all traces, the wrong ones too, to `traces_file` (JSON Lines) if one is
    given, before training. Rows that do not fit the LM's context are left out by the trainer, and not counted in
    `training_rows`.
    """
    _check(task, preset, seed)
    lm = state.lm if state.lm.cache else state.lm.copy(cache=True)
    meter = Meter(lm)
    with running_on(lm, meter, progress) as adapter:
        traces = bootstrap_traces(
            copy_program(state.program, lm), task.train, task.metric, preset.num_threads, progress
        )
        counts = {"kept": traces.kept, "total": traces.total, "failed_parses": adapter.failed_parses, **meter.counts()}
        seconds = {"bootstrap": meter.seconds}
        if traces_file is not None:
            Path(traces_file).parent.mkdir(parents=True, exist_ok=True)
            traces.to_jsonl(Path(traces_file))
        if not traces.kept:
            raise EmptyTraceSet(traces, StepRecord("w", **counts, seconds=seconds))
        tuned = _train(State(state.program, lm), task, preset, traces, Path(output_dir))
    seconds["train"] = round(meter.seconds - seconds["bootstrap"], 3)
    report = getattr(lm.provider, "reports", {}).get(tuned.model)  # another provider than ours may have none
    rows = report.rows if report else sum(len(trace.calls) for trace in traces.traces if trace.score)
    tokens = report.tokens if report else 0
    record = StepRecord("w", **counts, training_rows=rows, training_tokens=tokens, seconds=seconds)
    return vanilla_state(task, tuned if state.lm.cache else tuned.copy(cache=False)), record


def _train(state: State, task: Task, preset: Preset, traces: TraceSet, output_dir: Path) -> dspy.LM:
    """Hand DSPy's BootstrapFinetune the examples whose traces were kept; it finds their answers in DSPy's cache.

    It would stop at the first failed call, and its metric never sees a trace; so the traces are made and judged
    before, and here only those runs pass that are the same again.
    """
    kept = {id(example): trace for example, trace in zip(task.train, traces.traces, strict=True) if trace.score}

    again: dict[int, bool] = {}

    def same_again(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
        again[id(example)] = dict(pred) == kept[id(example)].outputs
        return again[id(example)]

    optimizer = BootstrapFinetune(
        metric=same_again,
        multitask=True,
        exclude_demos=True,
        num_threads=preset.num_threads,
        train_kwargs={
            "rank": preset.lora_rank,
            "alpha": preset.lora_alpha,
            "dropout": preset.lora_dropout,
            "targets": preset.lora_targets,
            "epochs": preset.epochs,
            "learning_rate": preset.learning_rate,
            "batch_size": preset.batch_size,
            "micro_batch_size": preset.micro_batch_size,
            "dtype": preset.dtype,
            "gradient_checkpointing": preset.gradient_checkpointing,
            "seed": preset.training_seed,
            "output_dir": str(output_dir),
        },
    )
    student = vanilla_state(task, state.lm).program
    teacher = copy_program(state.program, state.lm)
    examples = [example for example in task.train if id(example) in kept]
    try:
        return optimizer.compile(student, trainset=examples, teacher=teacher).predictors()[0].lm
    finally:
        if not all(again.values()):
            raise BtlibError("the LM answered differently when asked again; turn DSPy's response cache on")
