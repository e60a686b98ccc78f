"""The tasks: a program (appendix A), the splits (appendix C) and a metric for each, one file a task.

    task = load_for("laptop", "gsm8k", seed=0)
    task.program(), task.train, task.metric

A file in this folder that declares `TASK = TaskSpec(...)` is a task; nothing else lists it. Taught in notebook 01.
"""

from __future__ import annotations

import math
import pkgutil
import random
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import dspy

from btlib.errors import BtlibError, unknown
from btlib.presets import PRESETS, Preset, Split, load_preset
from btlib.tasks._spec import CallSize, Examples, Metric, Task, TaskSpec, gold_of

__all__ = [
    "CallSize",
    "Examples",
    "Metric",
    "Task",
    "TaskSpec",
    "default_tasks",
    "find_task",
    "gold_of",
    "load_for",
    "load_task",
    "preset_for",
    "register",
    "registry",
    "split_for",
]

_OUTSIDE: dict[str, TaskSpec] = {}


@cache
def _inside() -> dict[str, TaskSpec]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    found = [import_module(f"{__name__}.{name}").TASK for name in names]
    return {spec.name: spec for spec in found}


def registry() -> dict[str, TaskSpec]:
    """Return every task by its name, in the order of tables: the paper's columns first."""
    found = _inside() | _OUTSIDE
    place = {name: (math.inf if spec.column is None else spec.column) for name, spec in found.items()}
    return dict(sorted(found.items(), key=lambda item: (place[item[0]], item[0])))


def register(spec: TaskSpec) -> TaskSpec:
    """Add a task that has no file in this folder, for this process, and return it."""
    _OUTSIDE[spec.name] = spec
    return spec


def find_task(name: str) -> TaskSpec:
    """Return a task's spec; an unknown name is an error that lists the valid ones."""
    found = registry()
    if name not in found:
        raise unknown("task", name, found)
    return found[name]


def default_tasks(preset: Preset) -> tuple[str, ...]:
    """Return the tasks that a grid runs when none is named: the preset's, or the paper's; cheapest first, as their
    results come soonest.
    """
    names = preset.tasks or [name for name, spec in registry().items() if spec.default]
    return tuple(sorted(names, key=lambda name: sum(c.inputs + c.outputs for c in find_task(name).calls)))


def split_for(preset: Preset | str, name: str) -> Split:
    """Return how many examples a task has in a preset; a preset that the task has no sizes for is an error."""
    preset, spec = load_preset(preset), find_task(name)
    found = preset.splits.get(name) or spec.splits.get(preset.base)
    if found is None:
        raise BtlibError(f"task {name} has no sizes for preset {preset.base}; it has {', '.join(spec.splits)}")
    return found


def preset_for(preset: Preset | str, name: str) -> Preset:
    """Return the preset with the numbers that it has for this task; what was changed by hand stays changed."""
    preset = load_preset(preset)
    own, base = find_task(name).settings.get(preset.base, {}), PRESETS.get(preset.base, preset)
    untouched = {key for key in own if key not in preset.changes and getattr(preset, key) == getattr(base, key)}
    return replace(preset, **{key: own[key] for key in untouched})


def load_for(preset: Preset | str, name: str, seed: int = 0) -> Task:
    """Load a task as a preset has it: its data, its sizes, what it searches; `seed` shuffles the training set."""
    preset = load_preset(preset)
    return load_task(
        name,
        preset.source,
        split_for(preset, name),
        seed,
        passages_per_hop=preset.passages_per_hop,
        num_hops=preset.num_hops,
        retriever=preset.retriever,
    )


def load_task(
    name: str,
    source: str | Path = "mini",
    split: Split | None = None,
    seed: int = 0,
    *,
    passages_per_hop: int = 3,
    num_hops: int = 2,
    retriever: str | Path = "",
) -> Task:
    """Load a task's data and program.

    `source` is "mini" (the repository's own data; Iris is the real one), "hub" (GSM8K and HotPotQA through
    `datasets`), or a folder: with files of the mini tasks' format, with the publishers' own (see each task's `load`),
    or with one folder a task. `retriever` is the URL of a ColBERTv2 server or a file of passages for a task with
    search, instead of the source's own.

    `split` cuts each part to size, from its start; without one, all examples are kept. `seed` shuffles the training
    set and does nothing else: the paper's seeds are "used to shuffle our training sets before optimization" (section
    4). The same examples are in it under every seed, so BFRS's two parts and the demonstrations differ from seed to
    seed, dev and test never do.
    """
    spec = find_task(name)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BtlibError(f"seed must be an integer of at least 0, got {seed!r}")
    parts, searcher = spec.load(str(source), split, str(retriever))
    if split is not None:
        parts = {part: _cut(name, source, part, parts[part], getattr(split, part)) for part in parts}
    program = spec.program if searcher is None else partial(spec.program, searcher, passages_per_hop, num_hops)
    train, dev, test = shuffled(parts["train"], seed), tuple(parts["dev"]), tuple(parts["test"])
    return Task(name, str(source), program, train, dev, test, spec.metric, seed, searcher, split)


def shuffled(examples: list[dspy.Example] | Examples, seed: int) -> Examples:
    """Return the examples in the order of a seed."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    return tuple(order)


def _cut(name: str, source: str | Path, part: str, examples: list[dspy.Example], size: int) -> list[dspy.Example]:
    if len(examples) < size:
        raise BtlibError(
            f"task {name} ({source}) has {len(examples)} {part} examples, the split asks for {size}; "
            "choose a smaller preset or another source"
        )
    return examples[:size]
