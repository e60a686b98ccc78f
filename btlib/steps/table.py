"""The steps by their letters. A step is a function State -> State, and another one may be put in its place.

    STEPS["p"].run(state, task, preset, folder)  ->  (the new state, what it did and cost)

    from btlib.steps import table
    table.STEPS = {**table.STEPS, "p": table.Step(partial(optimize_prompts, optimizer=mine), "mine", ())}

Runs say by which function a step was made that is not btlib's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from btlib.presets import Preset
from btlib.steps.prompts import optimize_prompts
from btlib.steps.record import StepRecord
from btlib.steps.state import State
from btlib.steps.weights import finetune_weights
from btlib.tasks import Task

Run = Callable[[State, Task, Preset, Path], tuple[State, StepRecord]]


@dataclass(frozen=True)
class Step:
    """A kind of optimization step.

    `run` takes a state on; what it leaves on disk goes into the folder that it is given. `doing` says what it does to
    whoever waits. `settings` are the fields of a preset that can change its result.
    """

    run: Run
    doing: str
    settings: tuple[str, ...]


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "p": Step(
            optimize_prompts,
            "optimizing prompts",
            ("max_bootstrapped_demos", "max_labeled_demos", "num_candidate_programs"),
        ),
        "w": Step(
            finetune_weights,
            "tuning weights",
            (
                "lora_rank",
                "lora_alpha",
                "lora_dropout",
                "lora_targets",
                "epochs",
                "learning_rate",
                "batch_size",
                "micro_batch_size",
                "gradient_checkpointing",
                "training_seed",
            ),
        ),
    }
)
_OWN = STEPS


def exchanged_for(letter: str) -> str:
    """Return the name of the function that was put in the place of btlib's own step; "" where none was."""
    run = STEPS[letter].run
    return "" if run is _OWN[letter].run else _name(run)


def _name(part: object) -> str:
    if isinstance(part, partial):
        given = [*map(_name, part.args), *(f"{key}={_name(value)}" for key, value in part.keywords.items())]
        return f"{_name(part.func)}({', '.join(given)})"
    return getattr(part, "__qualname__", None) or repr(part)
