"""The paper's eight strategies: a strategy is a tuple of steps, and running it is a fold over them.

    run(vanilla state, ("p", "w", "p"))  =  p(w(p(vanilla state)))

"p" optimizes the prompts (Π), "w" the weights (Θ). Section 3 lists the combinations. Taught in notebook 05.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from btlib.errors import unknown

if TYPE_CHECKING:
    import dspy

    from btlib.optimize import State, StepRecord
    from btlib.presets import Preset
    from btlib.tasks import Task

Steps = tuple[str, ...]

# In the order of the paper's tables; a strategy comes after all of its prefixes.
STRATEGIES: tuple[Steps, ...] = (
    (),
    ("p",),
    ("w",),
    ("p", "p"),
    ("w", "w"),
    ("p", "w"),
    ("w", "p"),
    ("p", "w", "p"),
)
VANILLA = "vanilla"
_SYMBOLS = {"p": "Π", "w": "Θ"}


def strategy_name(steps: Steps) -> str:
    """Return the name in tables and run.json: "p -> w -> p", and "" for the vanilla program."""
    return " -> ".join(steps)


def strategy_slug(steps: Steps) -> str:
    """Return the name of a run's folder: "p-w-p", and "vanilla"."""
    return "-".join(steps) or VANILLA


def label(steps: Steps) -> str:
    """Return the paper's symbols: "Π→Θ→Π", and "Vanilla Zero-shot"."""
    return "→".join(_SYMBOLS[step] for step in steps) or "Vanilla Zero-shot"


def parse_strategy(text: str) -> Steps:
    """Read a name, a slug or a label in any spacing: "p -> w", "p-w", "Π→Θ", "vanilla" and "" are all understood.

    What is not one of the eight strategies is a BtlibError that lists them.
    """
    plain = "".join(str(text).split()).lower().replace("π", "p").replace("θ", "w")
    parts = plain.replace("->", "-").replace("→", "-").split("-")
    steps = () if plain in ("", VANILLA, "vanillazeroshot", "vanillazero-shot") else tuple(parts)
    if steps not in STRATEGIES:
        names = [strategy_name(known) or VANILLA for known in STRATEGIES]
        raise unknown("strategy", text, names, "steps are p (prompts) and w (weights)")
    return steps


@dataclass(frozen=True)
class Prefix:
    """What stands after some of a strategy's steps; `record` is the last step's, None before the first."""

    steps: Steps
    state: State
    record: StepRecord | None


def run_strategy(
    task: Task, lm: dspy.LM, steps: Steps | str, preset: Preset, seed: int, output_dir: Path | str
) -> Iterator[Prefix]:
    """Fold the steps over the vanilla state, and yield every prefix's result as it comes, the vanilla one first.

    All in one process and nothing stored but adapters and traces (`output_dir/<prefix>/`); btlib.runs takes the same
    steps from disk, each once for all strategies that share it. The last prefix is the strategy's result, whatever an
    earlier one scores. A w-step without a correct trace raises EmptyTraceSet: that cell is "–", and the prefixes
    before it have been yielded. `task` must be loaded with the same `seed`.
    """
    from btlib.optimize import finetune_weights, optimize_prompts, vanilla_state

    steps = parse_strategy(steps) if isinstance(steps, str) else parse_strategy(strategy_name(tuple(steps)))
    state = vanilla_state(task, lm)
    yield Prefix((), state, None)
    for done, step in enumerate(steps, start=1):
        prefix = steps[:done]
        if step == "p":
            state, record = optimize_prompts(state, task, preset, seed)
        else:
            adapter = Path(output_dir) / strategy_slug(prefix) / "adapter"
            traces = adapter.with_name("traces.jsonl")
            state, record = finetune_weights(state, task, preset, seed, adapter, traces_file=traces)
        yield Prefix(prefix, state, record)
