"""Run a program over examples and keep the traces that the metric likes (Algorithm 2: BootstrapTraces, FilterTraces).

A trace is the list of a program run's LM calls. Only the final answer is judged; what the modules did on the way is
taken as right when the answer is. `gold_by_hop` looks whether that holds for HotPotQA. Taught in notebook 02.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt.bootstrap_trace import FailedPrediction, bootstrap_trace_data

from btlib.errors import BtlibError
from btlib.search import gold_found
from btlib.steps.state import copy_program
from btlib.support.files import read_jsonl, write_lines
from btlib.support.meter import quiet
from btlib.support.values import from_json, types_of

Metric = Callable[..., bool]


@dataclass(frozen=True)
class Call:
    """One LM call: the module's name in the program, its inputs and its outputs."""

    module: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True)
class Trace:
    """One run of the program on one example.

    `score` is the metric's verdict, and False for a failed parse: an answer without one of its fields, in any call.
    `error` is the message when the program itself failed.
    """

    example_id: str
    calls: tuple[Call, ...]
    outputs: Mapping[str, Any]
    score: bool
    failed_parse: bool = False
    error: str = ""


@dataclass(frozen=True)
class TraceSet:
    """The traces of all examples, in their order, the correct ones and the others."""

    traces: tuple[Trace, ...]

    @property
    def kept(self) -> int:
        """How many traces are correct."""
        return sum(trace.score for trace in self.traces)

    @property
    def total(self) -> int:
        """How many examples were tried."""
        return len(self.traces)

    @property
    def failed_parses(self) -> int:
        """How many traces had a call without one of its output fields."""
        return sum(trace.failed_parse for trace in self.traces)

    def to_jsonl(self, path: Path) -> None:
        """Write one trace a line; the file appears whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        write_lines(temporary, [{**vars(trace), "calls": [vars(c) for c in trace.calls]} for trace in self.traces])
        os.replace(temporary, path)

    @classmethod
    def from_jsonl(cls, path: Path, program: dspy.Module | None = None) -> TraceSet:
        """Read what `to_jsonl` wrote; a broken file is a BtlibError that names the line and the field.

        `program` is the one whose traces they are: pydantic models and Enums in them need its fields' types.
        """
        types = types_of(program) if program else ()
        fields = {"example_id": str, "calls": list, "outputs": dict, "score": bool, "failed_parse": bool}
        traces = []
        for number, row in enumerate(read_jsonl(Path(path), fields), start=1):
            try:
                row = from_json(row, types)
                calls = tuple(Call(**call) for call in row["calls"])
                traces.append(Trace(**{**row, "calls": calls}))
            except (TypeError, ValueError, KeyError) as error:
                raise BtlibError(f"{path}, row {number}: field 'calls' does not fit a trace ({error})") from error
        return cls(tuple(traces))


def empty_field(outputs: Mapping[str, Any]) -> bool:
    """Tell whether an output field is missing its value: what ForgivingChatAdapter leaves of a failed parse."""
    return any(value is None or (isinstance(value, str) and not value.strip()) for value in outputs.values())


def verdict(metric: Metric) -> Metric:
    """Turn a metric into a verdict: right is a value of at least 1 (the paper's λ) and a trace without empty fields.

    An optimizer takes a 0.3, or a -1 for a failed parse, for success; and a right answer can follow a query that
    was never written. Only bootstrapping passes a trace, so on a bool an evaluation's scores are the metric's own.
    """

    @wraps(metric)
    def judge(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
        if trace is not None and any(empty_field(dict(outputs)) for _, _, outputs in trace):
            return False
        return float(metric(example, pred, trace)) >= 1

    return judge


def bootstrap_traces(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: Metric,
    num_threads: int = 32,
    progress: bool = False,
) -> TraceSet:
    """Run the program over the examples, `num_threads` at a time, and judge each run.

    Uses the LM and adapter of the current DSPy settings where the program's modules have no LM of their own. The
    program itself is left alone. An example on which the program fails counts as not kept; when it fails on every
    one, that is an error. `progress` shows DSPy's output.
    """
    if not examples:
        raise BtlibError("there are no examples to bootstrap from")
    runner = copy_program(program)  # DSPy replaces `forward` of the program that it traces
    names = {id(predictor): name for name, predictor in runner.named_predictors()}
    with quiet(not progress):
        data = bootstrap_trace_data(
            runner,
            list(examples),
            metric=None,
            num_threads=num_threads,
            raise_on_error=False,
            capture_failed_parses=True,
        )
    found = {item["example_ind"]: item for item in data}
    if not found:
        raise BtlibError(f"the program failed on all {len(examples)} examples; run it on one of them to see why")
    judge = verdict(metric)
    return TraceSet(tuple(_trace(i, example, found.get(i), names, judge) for i, example in enumerate(examples)))


def _trace(index: int, example: dspy.Example, item: dict | None, names: dict[int, str], judge: Metric) -> Trace:
    name = str(example.get("id", index))
    if item is None:
        return Trace(name, (), {}, score=False, error="the program failed on this example")
    steps = [step for step in item["trace"] if not isinstance(step[2], FailedPrediction)]
    calls = tuple(Call(names[id(module)], dict(inputs), dict(outputs)) for module, inputs, outputs in steps)
    if isinstance(item["prediction"], FailedPrediction):  # an adapter that raises, not ours
        return Trace(name, calls, {}, score=False, failed_parse=True)
    failed = any(empty_field(call.outputs) for call in calls)
    score = judge(example, item["prediction"], steps)
    return Trace(name, calls, dict(item["prediction"]), score=score, failed_parse=failed)


def gold_by_hop(trace: Trace, gold_titles: Iterable[str]) -> list[list[bool]]:
    """Tell for each hop of a HotPotQA trace which gold passages the program has found by then.

    A hop's passages are the context that the next module reads.
    """
    gold = list(gold_titles)
    return [gold_found(call.inputs.get("context", ()), gold) for call in trace.calls[1:]]


def intermediate_quality(traces: TraceSet, examples: Sequence[dspy.Example]) -> dict[str, dict[str, int]]:
    """Count, for correct and for wrong answers apart, the HotPotQA traces whose queries found every gold passage."""
    table = {"correct": {"traces": 0, "all_gold_found": 0}, "wrong": {"traces": 0, "all_gold_found": 0}}
    for trace, example in zip(traces.traces, examples, strict=True):
        row = table["correct" if trace.score else "wrong"]
        hops = gold_by_hop(trace, example.gold_titles)
        row["traces"] += 1
        row["all_gold_found"] += bool(hops) and all(hops[-1])
    return table
