"""The runs of a grid: which ones, in which order, how many at a time, and what became of each."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from btlib.lm.known import canonical, shape_of
from btlib.presets import Preset
from btlib.runs.spec import RunSpec
from btlib.steps.strategies import STRATEGIES, in_order
from btlib.support import machine
from btlib.tasks import default_tasks

GIB_PER_WORKER = 1.5  # torch, DSPy, the embedded LM and its cache


def plan(
    preset: Preset,
    tasks: Sequence[str] = (),
    models: Sequence[str] = (),
    strategies: Sequence[tuple[str, ...]] = STRATEGIES,
    seeds: Sequence[int] = (),
) -> list[RunSpec]:
    """List the runs of a grid in an order in which every run comes after its prefix; the preset fills in what is not
    given.

    Iris first, as its results come soonest. Prefixes that were not asked for are in the list too: nothing can start
    without them.
    """
    wanted = {steps[:i] for steps in strategies for i in range(len(steps) + 1)}
    order = in_order(wanted)
    return [
        RunSpec(task, model, steps, seed, preset)
        for task in tasks or default_tasks(preset)
        for model in dict.fromkeys(canonical(name) for name in models or preset.models)
        for seed in seeds or preset.seeds
        for steps in order
    ]


def default_workers(specs: Sequence[RunSpec]) -> int:
    """Return how many processes to run at once: one a core, or two where they share a GPU, as far as memory goes.

    On a GPU each holds the LM twice (it trains beside the weights that it generates with), and the keys and values of
    64 requests of 1,024 tokens at most.
    """
    card = machine.gpu()
    fit = int(machine.memory_gib() / GIB_PER_WORKER)
    if card:
        gib, size = card
        rows = {spec.model: min(64, spec.preset.num_threads) for spec in specs}
        shapes = [(shape_of(model), count) for model, count in rows.items()]
        need = max((s.inference_bytes(count * 1024) + 2 * s.weights for s, count in shapes if s), default=0)
        fit = min(fit, int(gib * 2**30 / (need * size / 2))) if need else fit
    return max(1, min(2 if card else machine.cores(), fit, len(specs)))


@dataclass
class Job:
    """One run on its way: waiting, running, then done, stored (complete before), failed or skipped."""

    spec: RunSpec
    state: str = "waiting"
    score: float | None = None
    status: str = ""
    error: str = ""
    notebook: Path | None = None
    seconds: float = 0.0
    process: subprocess.Popen | None = field(default=None, repr=False)
    scratch: Path | None = None
    begun: float = 0.0

    @property
    def phase(self) -> str:
        """What the run is doing now, as it says itself."""
        path = self.scratch / "progress" if self.scratch else None
        return path.read_text(encoding="utf-8") if path and path.exists() else "starting"


Watch = Callable[[str, Job | None], None]
RunGrid = Callable[[Sequence[RunSpec], Path, int, Watch], list[Job]]  # btlib.grid.run_grid
