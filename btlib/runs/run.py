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
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from btlib.errors import BtlibError
from btlib.runs.provenance import check_servers, defaults, settings, sources, split_ids
from btlib.runs.spec import RunSpec
from btlib.support import machine
from btlib.support.files import whole_folder, write_json, write_lines

if TYPE_CHECKING:
    from btlib.tasks import Task

Progress = Callable[[str], None]


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
    then, now = defaults() | then | {"model": spec_then["model"]}, settings(spec) | {"model": spec.model}
    # Only what can change this run counts: a run may have stored more than that.
    absent = {k for k in then if k == "retriever" or k.startswith("step.")}  # whose absence says something, too
    differ = [
        f"{k} was {then.get(k)} and is {now.get(k)}" for k in sorted(now.keys() | absent) if then.get(k) != now.get(k)
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
    with whole_folder(spec.folder(runs_dir)) as work, _fresh_cache():
        record = _compute(spec, before, work, say)
        write_json(work / "run.json", record)
    return Run(spec, spec.folder(runs_dir), record)


def _compute(spec: RunSpec, before: Run | None, work: Path, say: Progress) -> dict:
    from btlib.steps.evaluation import evaluate, prediction_rows
    from btlib.steps.record import EmptyTraceSet
    from btlib.steps.state import load_state, save_state
    from btlib.steps.table import STEPS
    from btlib.tasks import load_for, preset_for

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
    # 1. The state that the prefix left.
    say("loading")
    preset = preset_for(spec.preset, spec.task)
    task = _reordered(load_for(spec.preset, spec.task, spec.seed), spec)
    write_json(work / "split.json", split_ids(task))
    state = load_state(before.folder if before else None, task, spec.model, preset)
    foot["sources"] = sources(task, state.lm)
    seconds = {"load": time.perf_counter() - begun}
    try:
        # 2. The last step.
        if spec.strategy:
            step = STEPS[spec.strategy[-1]]
            say(step.doing)
            start = time.perf_counter()
            state, record = step.run(state, task, preset, work)
            head["steps"].append(record.to_dict())
            seconds["step"] = time.perf_counter() - start
        # 3. The score on the test set, and the state that this run leaves.
        say("testing")
        start = time.perf_counter()
        result = evaluate(state, task.test, task.metric, preset)
        seconds["evaluation"] = time.perf_counter() - start
        save_state(work, state, before.folder if before else None)
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
    if shortened := getattr(task.retriever, "shortened", 0):
        foot["sources"]["queries_shortened"] = shortened
    seconds["total"] = time.perf_counter() - begun
    return head | {"seconds": {k: round(v, 3) for k, v in seconds.items()}, "date": machine.now()} | foot


def _reordered(task: Task, spec: RunSpec) -> Task:
    """Return the task with its training set in the order of this step: the seed's, or one of the step's own where the
    preset shuffles between steps, as DSPy's BetterTogether does.
    """
    if not spec.preset.shuffle_between_steps or len(spec.strategy) < 2:
        return task
    order = list(task.train)
    random.Random(f"{spec.seed}/{len(spec.strategy)}").shuffle(order)
    return replace(task, train=tuple(order))


def _plain(result: object) -> dict:
    return {k: v for k, v in vars(result).items() if k not in ("predictions", "score")}


@contextmanager
def _fresh_cache() -> Iterator[None]:
    """Give DSPy an empty response cache in memory for a while, and the caller's back afterwards.

    Not on disk: its SQLite files do not stand several processes, and what outlives a kill is whole runs. Empty: what
    a run is said to have cost must not depend on what this process did before.
    """
    import dspy

    before = vars(dspy).get("cache")  # asked for by its name, DSPy would make one on disk
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    try:
        yield
    finally:
        if before is None:
            del dspy.cache
        else:
            dspy.cache = before


def _progress_file() -> Progress:
    """Return a progress callback that leaves its line where the grid looks for it; a no-op outside the grid."""
    path = os.environ.get("BTLIB_PROGRESS")
    return (lambda line: Path(path).write_text(line, encoding="utf-8") and None) if path else (lambda line: None)
