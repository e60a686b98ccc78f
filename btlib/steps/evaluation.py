"""The score of a state's program, and the LM that it runs on while it is asked. Taught in notebook 01."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.evaluate import Evaluate

from btlib.errors import BtlibError
from btlib.lm.adapter import ForgivingChatAdapter
from btlib.presets import Preset
from btlib.steps.bootstrap import Metric, verdict
from btlib.steps.state import State, copy_program
from btlib.support.meter import Meter, quiet
from btlib.tasks import gold_of


@contextmanager
def running_on(lm: dspy.LM, meter: Meter, progress: bool, reading: str = "strict") -> Iterator[ForgivingChatAdapter]:
    """Run a block on this LM and no other: an optimizer resets its copies to the LM of DSPy's settings. `reading` is
    the preset's.
    """
    adapter = ForgivingChatAdapter(reading=reading)
    # Histories would be deep-copied with every candidate program.
    with (
        quiet(not progress),
        dspy.context(
            lm=lm, adapter=adapter, usage_tracker=meter.tracker, disable_history=True, provide_traceback=False
        ),
    ):
        yield adapter


@dataclass(frozen=True)
class Evaluation:
    """A program's score on examples, in percent, with its predictions in the examples' order and what it cost.

    `errors` counts the examples on which the program failed; they count as wrong. `unreadable` tells the
    `failed_parses` apart by their reason (a key of `btlib.lm.reading.REASONS`). `occupancy` is how many requests
    the LM's engine worked on at a step, on average, and `lm_seconds` how long it was busy; 0 where no engine says so.
    """

    score: float
    predictions: tuple[dspy.Prediction, ...]
    lm_calls: int
    tokens_in: int
    tokens_out: int
    tokens_reused: int
    failed_parses: int
    errors: int
    seconds: float
    occupancy: float = 0.0
    lm_seconds: float = 0.0
    unreadable: Mapping[str, int] = field(default_factory=dict)


def evaluate(
    state: State, examples: Sequence[dspy.Example], metric: Metric, preset: Preset, progress: bool = False
) -> Evaluation:
    """Run the state's program on its LM over the examples, `preset.num_threads` at a time, and score it.

    An example on which the program fails counts as wrong; when all of them fail, that is an error.
    """
    if not examples:
        raise BtlibError("there are no examples to evaluate on")
    meter = Meter(state.lm)
    with running_on(state.lm, meter, progress, preset.reading) as adapter:
        result = Evaluate(
            devset=list(examples), metric=verdict(metric), num_threads=preset.num_threads, max_errors=len(examples)
        )(copy_program(state.program, state.lm))
    predictions = tuple(prediction for _, prediction, _ in result.results)
    return Evaluation(
        score=100 * sum(score for *_, score in result.results) / len(examples),
        predictions=predictions,
        **meter.counts(),
        failed_parses=adapter.failed_parses,
        unreadable=adapter.unreadable,
        errors=sum(not prediction.keys() for prediction in predictions),
        seconds=meter.seconds,
    )


def prediction_rows(examples: Sequence[dspy.Example], evaluation: Evaluation, metric: Metric) -> list[dict[str, Any]]:
    """Return one plain dict an example: its id, inputs, the program's outputs, the gold answer, and the verdict that
    the score counts.
    """
    judge = verdict(metric)
    return [
        {
            "id": str(example.get("id", index)),
            "inputs": dict(example.inputs().items()),
            "outputs": dict(prediction.items()),
            "gold": gold_of(example),
            "correct": judge(example, prediction),
        }
        for index, (example, prediction) in enumerate(zip(examples, evaluation.predictions, strict=True))
    ]
