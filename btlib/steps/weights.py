"""Θ: tune the LM's weights on the program's own correct traces, BFT with LoRA (Algorithm 2 line 14).

Taught in notebook 04.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dspy
from dspy.teleprompt import BootstrapFinetune

from btlib.errors import BtlibError
from btlib.presets import Preset
from btlib.steps.bootstrap import TraceSet, bootstrap_traces
from btlib.steps.evaluation import running_on
from btlib.steps.record import EmptyTraceSet, StepRecord
from btlib.steps.state import ADAPTER, State, copy_program, vanilla_state
from btlib.support.meter import Meter
from btlib.support.values import to_json
from btlib.tasks import Task, preset_for

Train = Callable[[State, Task, Preset, TraceSet, Path], dspy.LM]


def finetune_weights(
    state: State,
    task: Task,
    preset: Preset,
    folder: Path | str,
    progress: bool = False,
    *,
    train: Train | None = None,
) -> tuple[State, StepRecord]:
    """Tune the LM on the program's own correct traces over the whole training set; the prompts go back to vanilla.

    The state's program, with its prompts as they are, makes the traces. One chat example a module call, without
    demonstrations, all modules in one data set. The tuned LM then runs the *vanilla* prompts (Algorithm 1 line 4). On
    an LM that is tuned already, training goes on from its weights. Without a correct trace nothing is trained:
    EmptyTraceSet.

    All traces, the wrong ones too, are written to `folder`/traces.jsonl before training, and the adapter to
    `folder`/adapter. Rows that do not fit the LM's context are left out by the trainer, and not counted in
    `training_rows`. `train` puts another way of training in the place of `train_lora`: it gets the state that made the
    traces, task, preset, traces and `folder`, and returns the tuned LM. `progress` shows DSPy's output.
    """
    folder, preset = Path(folder), preset_for(preset, task.name)
    lm = state.lm if state.lm.cache else state.lm.copy(cache=True)
    meter = Meter(lm)
    with running_on(lm, meter, progress, preset.reading) as adapter:
        # 1. Bootstrap: run the program on every training example and judge each run (lines 9 and 10).
        traces = bootstrap_traces(
            copy_program(state.program, lm), task.train, task.metric, preset.num_threads, progress
        )
        counts = {"kept": traces.kept, "total": traces.total, "failed_parses": adapter.failed_parses, **meter.counts()}
        counts["unreadable"] = adapter.unreadable
        seconds = {"bootstrap": meter.seconds}
        folder.mkdir(parents=True, exist_ok=True)
        traces.to_jsonl(folder / "traces.jsonl")
        # 2. Filter: only correct traces teach; without one there is nothing to do (line 11).
        if not traces.kept:
            raise EmptyTraceSet(traces, StepRecord("w", **counts, seconds=seconds))
        # 3. Train on what was kept (lines 12 and 13).
        tuned = (train or train_lora)(State(state.program, lm), task, preset, traces, folder)
    seconds["train"] = round(meter.seconds - seconds["bootstrap"], 3)
    report = getattr(tuned, "training_report", None)  # an LM that is not btlib's tells nothing
    rows = report.rows if report else sum(len(trace.calls) for trace in traces.traces if trace.score)
    tokens = report.tokens if report else 0
    record = StepRecord("w", **counts, training_rows=rows, training_tokens=tokens, seconds=seconds)
    # 4. The tuned LM runs the vanilla prompts.
    return vanilla_state(task, tuned if state.lm.cache else tuned.copy(cache=False)), record


def train_lora(state: State, task: Task, preset: Preset, traces: TraceSet, folder: Path) -> dspy.LM:
    """Train a LoRA adapter on the correct traces by DSPy's own BootstrapFinetune, and return the LM that has it.

    BootstrapFinetune stops at the first call that fails, and its metric never sees a trace. So the traces are made and
    judged before; it gets the examples whose traces are correct, runs the program on them once more, finds every
    answer in DSPy's cache, and takes the run when it is the same again.
    """
    kept = {id(example): trace for example, trace in zip(task.train, traces.traces, strict=True) if trace.score}

    again: dict[int, bool] = {}

    def same_again(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
        again[id(example)] = to_json(dict(pred)) == to_json(kept[id(example)].outputs)  # NaN is not NaN's equal
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
            "output_dir": str(folder / ADAPTER),
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
