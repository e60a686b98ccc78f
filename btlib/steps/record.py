"""What a step did and cost, as a run keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from btlib.errors import BtlibError

if TYPE_CHECKING:
    from btlib.steps.bootstrap import TraceSet


@dataclass(frozen=True)
class StepRecord:
    """What one step did and cost. `kept` of `total` bootstrapped traces were correct.

    For "p", these are BFRS's tries over all candidates, and `validation_scores` are the candidates' scores in
    percent, in the order tried: zero-shot, labelled, bootstrapped in order, then the random ones. `training_rows` and
    `training_tokens` are those of the data set, which each epoch goes through once. `seconds` has "search" for "p",
    "bootstrap" and "train" for "w". `occupancy`, `lm_seconds` and `unreadable` are as in `Evaluation`.
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
    unreadable: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as run.json stores it."""
        return {**asdict(self), "validation_scores": list(self.validation_scores)}


class EmptyTraceSet(BtlibError):
    """No trace was correct, so there is nothing to train on: the paper prints "–". Holds the traces and the record."""

    def __init__(self, traces: TraceSet, record: StepRecord):
        super().__init__(f"none of {traces.total} traces was correct, so there is nothing to fine-tune on (a '–' cell)")
        self.traces = traces
        self.record = record
