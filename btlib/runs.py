"""One run: its name, its folder, and how it comes about from the run of its prefix.

A strategy is a tuple of steps, and every prefix of it is a run of its own. So a run takes one optimization step only:
it starts from the state that its prefix left, takes the last step, is judged on the test set, and leaves its own
state behind. Taught in notebooks/05_bettertogether.ipynb.

    runs/<preset>/<model>/<task>/seed-<k>/<strategy>/
        run.json           spec, score, record of every step, evaluation, settings, versions, machine, and the servers
                           and files that it used; written last: a folder without it is no run
        split.json         the ids of the examples in train (in this seed's order), dev and test
        predictions.jsonl  one line a test item: id, inputs, outputs, gold, correct
        program.json       the prompts Π: demonstrations and instructions of every predictor
        adapter/           the weights Θ, as a LoRA adapter; no such folder for the base weights
        traces.jsonl       what a w-step had to learn from, the wrong traces too
        notebook.ipynb     the executed notebook, when the grid made the run
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from btlib import machine
from btlib.errors import BtlibError
from btlib.files import whole_folder, write_json, write_lines
from btlib.lm.known import canonical
from btlib.presets import load_preset
from btlib.sources import check_servers, describe, split_ids
from btlib.states import fingerprints, load_state, retriever_fingerprint, save_state
from btlib.strategies import parse_strategy, strategy_name, strategy_slug

if TYPE_CHECKING:
    from btlib.evaluation import State
    from btlib.tasks import Task

Progress = Callable[[str], None]
NO_RESULT = {
    "num_threads",
    "name",
    "splits",
    "tasks",
    "models",
    "seeds",
    "retriever",  # told by its URL or content instead, as the data are
}  # fields of a preset that cannot change a run's result


@dataclass(frozen=True)
class RunSpec:
    """What names a run: task, model, strategy (a tuple of "p" and "w"), seed, preset. `make_spec` checks names."""

    task: str
    model: str
    strategy: tuple[str, ...]
    seed: int = 0
    preset: str = "laptop"

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
        return Path(runs_dir) / self.preset / model / self.task / f"seed-{self.seed}" / strategy_slug(self.strategy)

    def to_dict(self) -> dict[str, object]:
        """Return the spec as run.json stores it, the strategy as text."""
        return asdict(self) | {"strategy": self.name}


def make_spec(task: str, model: str, strategy: str, seed: int = 0, preset: str = "laptop") -> RunSpec:
    """Make a RunSpec from plain text: "p -> w", "p-w" and "vanilla" are all read, an unknown name is a BtlibError.

    A short name of an LM becomes its full one, so that both name one run.
    """
    load_preset(preset).split(task)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BtlibError(f"bad seed {seed!r}; seeds are whole numbers from 0 on, such as 0")
    return RunSpec(task, canonical(model), parse_strategy(strategy), seed, preset)


@dataclass(frozen=True)
class Run:
    """A complete run: its spec, its folder, and run.json as a dict."""

    spec: RunSpec
    folder: Path
    record: dict

    @property
    def score(self) -> float | None:
        """Percent of the test set that is right; None where nothing could be trained ("–" in the paper)."""
        return self.record["score"]

    @property
    def status(self) -> str:
        """ "ok", "empty-traces" (this w-step had no correct trace) or "prefix-empty" (an earlier one had none)."""
        return self.record["status"]


def settings(spec: RunSpec) -> dict[str, object]:
    """Return every setting that can change a run's result: the preset's numbers, hashes of data and weights."""
    preset = load_preset(spec.preset)
    numbers = {k: v for k, v in vars(preset).items() if k not in NO_RESULT}
    numbers["num_candidate_programs"] = preset.candidates(spec.task)
    if preset.source not in ("mini", "hub"):
        numbers["source"] = "folder"  # wherever it lies: its files' hash is below
    if spec.task == "hotpotqa":
        numbers |= retriever_fingerprint(preset.retriever)
    split = vars(preset.split(spec.task))
    found = numbers | {f"split.{k}": v for k, v in split.items()} | fingerprints(spec.task, spec.model, preset.source)
    return json.loads(json.dumps(found))  # as run.json gives it back: lists for tuples


def read_run(spec: RunSpec, runs_dir: Path | str) -> Run | None:
    """Return the stored run, None when it is not complete; other settings than today's are an error that names them."""
    folder = spec.folder(runs_dir)
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        then, spec_then = record["settings"], record["spec"]
    except (ValueError, KeyError, TypeError) as error:
        raise BtlibError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete its folder {folder} and run it again"
        ) from None
    then, now = then | {"model": spec_then["model"]}, settings(spec) | {"model": spec.model}
    differ = [
        f"{k} was {then.get(k)} and is {now.get(k)}"
        for k in sorted(then.keys() | now.keys())
        if then.get(k) != now.get(k)
    ]
    if differ:
        raise BtlibError(
            f"{folder} was made with other settings: {'; '.join(differ)}; "
            "choose another runs folder, or delete this one"
        )
    return Run(spec, folder, record)


def execute(spec: RunSpec, runs_dir: Path | str, progress: Progress | None = None) -> Run:
    """Return the run: read it when it is complete, else compute it, and first every prefix that is missing.

    Takes one step from the prefix's stored state, evaluates on the test set, and writes the folder under another name
    before moving it into place: a kill leaves nothing that looks like a run. `progress` is called with a line of text
    at each phase.
    """
    stored = read_run(spec, runs_dir)
    if stored:
        return stored
    say = progress or _progress_file()
    before = execute(spec.prefix, runs_dir, progress) if spec.prefix else None
    with whole_folder(spec.folder(runs_dir)) as work:
        record = _compute(spec, before, work, say)
        write_json(work / "run.json", record)
    return Run(spec, spec.folder(runs_dir), record)


def _compute(spec: RunSpec, before: Run | None, work: Path, say: Progress) -> dict:
    from btlib.evaluation import evaluate, prediction_rows
    from btlib.optimize import EmptyTraceSet
    from btlib.tasks import load_task

    begun = time.perf_counter()
    head = {
        "spec": spec.to_dict(),
        "score": None,
        "status": "ok",
        "steps": list(before.record["steps"]) if before else [],
        "evaluation": None,
    }
    foot = {
        "settings": settings(spec),
        "versions": machine.versions(),
        "machine": machine.machine(),
        "commit": machine.commit(),
    }
    if before and before.status != "ok":
        return head | {"status": "prefix-empty", "seconds": {"total": 0.0}, "date": machine.now()} | foot
    _fresh_cache()
    preset = load_preset(spec.preset)
    say("loading")
    task = load_task(
        spec.task, preset.source, preset.split(spec.task), spec.seed, preset.passages_per_hop, preset.retriever
    )
    write_json(work / "split.json", split_ids(task))
    state = load_state(before.folder if before else None, task, spec.model, preset)
    foot["sources"] = describe(task, state.lm)
    seconds = {"load": time.perf_counter() - begun}
    try:
        if spec.strategy:
            say({"p": "optimizing prompts", "w": "tuning weights"}[spec.strategy[-1]])
            start = time.perf_counter()
            state, step = _step(spec, state, task, work)
            head["steps"].append(step.to_dict())
            seconds["step"] = time.perf_counter() - start
        say("testing")
        start = time.perf_counter()
        result = evaluate(state, task.test, task.metric, preset)
        seconds["evaluation"] = time.perf_counter() - start
        save_state(work, state)
        write_lines(work / "predictions.jsonl", prediction_rows(task.test, result, task.metric))
        head |= {
            "score": result.score,
            "evaluation": {"items": len(task.test), **_plain(result)},
            "weights": state.lm.model,
        }
    except EmptyTraceSet as empty:
        head["steps"].append(empty.record.to_dict())
        head["status"] = "empty-traces"
    check_servers(task, state.lm)
    seconds["total"] = time.perf_counter() - begun
    return head | {"seconds": {k: round(v, 3) for k, v in seconds.items()}, "date": machine.now()} | foot


def _step(spec: RunSpec, state: State, task: Task, work: Path) -> tuple:
    from btlib.optimize import finetune_weights, optimize_prompts

    preset = load_preset(spec.preset)
    if spec.strategy[-1] == "p":
        return optimize_prompts(state, task, preset, spec.seed)
    return finetune_weights(state, task, preset, spec.seed, work / "adapter", traces_file=work / "traces.jsonl")


def _plain(result: object) -> dict:
    return {k: v for k, v in vars(result).items() if k not in ("predictions", "score")}


def _fresh_cache() -> None:
    """Give DSPy an empty response cache in memory.

    Not on disk: its SQLite files do not stand several processes, and what outlives a kill is whole runs. Empty: what
    a run is said to have cost must not depend on what this process did before.
    """
    import dspy

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)


def _progress_file() -> Progress:
    """Return a progress callback that leaves its line where the grid looks for it; a no-op outside the grid."""
    path = os.environ.get("BTLIB_PROGRESS")
    return (lambda line: Path(path).write_text(line, encoding="utf-8") and None) if path else (lambda line: None)
