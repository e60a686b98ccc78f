"""What a task's file says of its task, and what a loaded task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy

from btlib.presets import Split
from btlib.search import Searcher

Examples = tuple[dspy.Example, ...]
Metric = Callable[..., bool | float]
Load = Callable[[str, Split | None, str], tuple[Mapping[str, list[dspy.Example]], Searcher | None]]


@dataclass(frozen=True)
class CallSize:
    """The tokens of one LM call, for estimates. `system` and `turn` are what DSPy's ChatAdapter writes around the
    values (counted with the cl100k tokenizer); `inputs` and `outputs` are the values, assumed and not measured.
    """

    system: int = 130
    turn: int = 55
    inputs: int = 60
    outputs: int = 120
    demo_frame: int = 25  # what the adapter writes around a demonstration's values

    @property
    def demo(self) -> int:
        """Tokens of one demonstration."""
        return self.demo_frame + self.inputs + self.outputs


@dataclass(frozen=True)
class TaskSpec:
    """A task, as its file in btlib/tasks declares it: `TASK = TaskSpec(...)`. Nothing else has to know of it.

    name      what it is called on the command line and in a run's folder
    title     what it is called in tables and figures
    program   makes a fresh student with the vanilla prompts; a task with search gets (searcher, passages_per_hop,
              num_hops)
    metric    metric(example, prediction, trace=None): right is True, or a number of at least 1
    load      load(source, split, retriever): the three parts, and what the program searches with (None: nothing)
    splits    how many examples, by the name of a preset
    settings  what a preset's numbers are for this task, by the name of the preset
    calls     the LM calls of one run of the program, for estimates
    title_mini the title where the data are the repository's own generated ones
    searches  whether the program searches, so that passages per hop and the retriever matter
    column    its place in tables; tasks without one come last
    default   whether `btlib grid` runs it when no task is named
    """

    name: str
    title: str
    program: Callable[..., dspy.Module]
    metric: Metric
    load: Load
    splits: Mapping[str, Split]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: tuple[CallSize, ...] = (CallSize(),)
    title_mini: str = ""
    searches: bool = False
    column: int | None = None
    default: bool = False


@dataclass(frozen=True)
class Task:
    """A loaded task: `program()` makes a fresh student with the vanilla prompts.

    Every example has an `id` and its inputs marked. `seed` is the one that shuffled `train`. `split` says how many
    examples BFRS bootstraps and validates on (None: the task was loaded whole). `retriever` is what the program
    searches with; None for a task without search.
    """

    name: str
    source: str
    program: Callable[[], dspy.Module]
    train: Examples
    dev: Examples
    test: Examples
    metric: Metric
    seed: int = 0
    retriever: Searcher | None = None
    split: Split | None = None


def gold_of(example: dspy.Example) -> Any:
    """Return an example's gold answer: its `answer`, or all of its labels where it has none."""
    labels = {name: value for name, value in example.labels().toDict().items() if name != "id"}
    return labels["answer"] if "answer" in labels else labels
