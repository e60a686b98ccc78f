"""What names a run, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from btlib.errors import BtlibError
from btlib.lm.known import canonical
from btlib.presets import DEFAULT_PRESET, PRESETS, Preset, load_preset
from btlib.steps.strategies import Steps, parse_strategy, strategy_name, strategy_slug
from btlib.support.paths import at_home


@dataclass(frozen=True)
class RunSpec:
    """What names a run: task, model, strategy (a tuple of "p" and "w"), seed, preset. `make_spec` checks names."""

    task: str
    model: str
    strategy: Steps
    seed: int = 0
    preset: Preset = PRESETS[DEFAULT_PRESET]

    @property
    def name(self) -> str:
        """The strategy as text: "p -> w", "" for vanilla."""
        return strategy_name(self.strategy)

    @property
    def prefix(self) -> RunSpec | None:
        """The run that this one starts from; None for vanilla."""
        return replace(self, strategy=self.strategy[:-1]) if self.strategy else None

    def folder(self, runs_dir: Path | str) -> Path:
        """Return the run's folder under `runs_dir`; a model that is a path goes by its last part."""
        local = self.model.startswith((".", "~", "/")) or Path(self.model).is_dir()
        model = Path(self.model).name if local else self.model.replace("/", "--")
        place = at_home(runs_dir) / self.preset.name / model / self.task
        return place / f"seed-{self.seed}" / strategy_slug(self.strategy)

    def to_dict(self) -> dict[str, object]:
        """Return the spec as run.json stores it: the strategy as text, the preset by its name."""
        names = {"task": self.task, "model": self.model, "strategy": self.name, "seed": self.seed}
        return names | {"preset": self.preset.name}


def make_spec(
    task: str,
    model: str,
    strategy: str,
    seed: int = 0,
    preset: Preset | str = DEFAULT_PRESET,
    changes: Mapping[str, Any] | None = None,
    **places: str,
) -> RunSpec:
    """Make a RunSpec from plain text: "p -> w", "p-w" and "vanilla" are all read, an unknown name is a BtlibError.

    A short name of an LM becomes its full one, so that both name one run. `changes` and `places` (source, retriever,
    api_base) are those of `load_preset`.
    """
    from btlib.tasks import split_for

    preset = load_preset(preset, changes, **places)
    split_for(preset, task)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BtlibError(f"bad seed {seed!r}; seeds are whole numbers from 0 on, such as 0")
    return RunSpec(task, canonical(model), parse_strategy(strategy), seed, preset)
