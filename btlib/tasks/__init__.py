"""The paper's three tasks: a program (appendix A), the splits (appendix C) and a metric for each.

    task = load_task("gsm8k", seed=0, split=load_preset("laptop").split("gsm8k"))
    task.program(), task.train, task.metric

Taught in notebook 01.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dspy

from btlib.errors import BtlibError, unknown
from btlib.presets import TASKS, Split
from btlib.search import Searcher
from btlib.tasks import gsm8k, hotpotqa, iris

Examples = tuple[dspy.Example, ...]
Metric = Callable[..., bool]

_MODULES = {"iris": iris, "gsm8k": gsm8k, "hotpotqa": hotpotqa}


@dataclass(frozen=True)
class Task:
    """A task: `program()` makes a fresh student with the vanilla prompts; `metric(example, pred)` is a bool.

    Every example has an `id`, its inputs marked, and an `answer`. `seed` is the one that shuffled `train`. `retriever`
    is what the program searches with; None for a task without search.
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


def load_task(
    name: str,
    source: str | Path = "mini",
    split: Split | None = None,
    seed: int = 0,
    passages_per_hop: int = 3,
    retriever: str | Path = "",
) -> Task:
    """Load a task's data and program.

    `source` is "mini" (the repository's own data; Iris is the real one), "hub" (GSM8K and HotPotQA through
    `datasets`), or a folder: with files of the mini tasks' format, with the publishers' own (see each task's `load`),
    or with one folder a task. `retriever` is the URL of a ColBERTv2 server or a file of passages for HotPotQA to
    search instead of the source's own.

    `split` cuts each part to size, from its start; without one, all examples are kept. `seed` shuffles the training
    set and does nothing else: the paper's seeds are "used to shuffle our training sets before optimization" (section
    4). The same examples are in it under every seed, so BFRS's two parts and the demonstrations differ from seed to
    seed, dev and test never do.
    """
    if name not in _MODULES:
        raise unknown("task", name, TASKS)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BtlibError(f"seed must be an integer of at least 0, got {seed!r}")
    module = _MODULES[name]
    if retriever and module is hotpotqa:
        parts, searcher = hotpotqa.load(str(source), split, retriever)
    else:
        parts, searcher = module.load(str(source), split)
    if split is not None:
        parts = {part: _cut(name, source, part, parts[part], getattr(split, part)) for part in parts}
    train = list(parts["train"])
    random.Random(seed).shuffle(train)
    program = module.program if searcher is None else partial(module.program, searcher, passages_per_hop)
    dev, test = tuple(parts["dev"]), tuple(parts["test"])
    return Task(name, str(source), program, tuple(train), dev, test, module.metric, seed, searcher)


def _cut(name: str, source: str | Path, part: str, examples: list[dspy.Example], size: int) -> list[dspy.Example]:
    if len(examples) < size:
        raise BtlibError(
            f"task {name} ({source}) has {len(examples)} {part} examples, the split asks for {size}; "
            "choose a smaller preset or another source"
        )
    return examples[:size]
