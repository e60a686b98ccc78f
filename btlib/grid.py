"""The whole experiment, headless: every run is a notebook that papermill executes in a process of its own, prefixes
first.

Runs form a graph, since each starts from the run of its prefix. Runs that are complete stay; one that fails is
reported with its error and its notebook, what starts from it is skipped, and the others go on. `btlib grid` is the
way in; what it runs is notebooks/05_bettertogether.ipynb.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from btlib import machine
from btlib.notebook import kernel_folder, last_error, start_notebook, stop_notebook
from btlib.paths import notebooks_dir
from btlib.presets import Preset, load_preset
from btlib.runs import RunSpec, read_run
from btlib.strategies import STRATEGIES

RUN_NOTEBOOK = "05_bettertogether.ipynb"
GIB_PER_WORKER = 1.5  # torch, DSPy, the embedded LM and its cache
MODULES = {"iris": 1, "gsm8k": 1, "hotpotqa": 3}  # LM modules of the task's program


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
    order = [steps for steps in STRATEGIES if steps in wanted]
    return [
        RunSpec(task, model, steps, seed, preset.name)
        for task in (t for t in preset.tasks if not tasks or t in tasks)
        for model in models or preset.models
        for seed in seeds or preset.seeds
        for steps in order
    ]


def estimate(spec: RunSpec) -> int:
    """Estimate a run's LM calls from its preset (an upper bound: DSPy's cache answers what was asked before).

    BFRS tries three fixed candidates and `num_candidate_programs` random ones on the validation part, and bootstraps
    on the other; a w-step bootstraps on all of the training set; the test set follows. A program calls each of its
    modules once.
    """
    preset = load_preset(spec.preset)
    split = preset.split(spec.task)
    step = {"p": split.bootstrap + (preset.num_candidate_programs + 3) * split.validation, "w": split.train}
    examples = split.test + (step[spec.strategy[-1]] if spec.strategy else 0)
    return examples * MODULES[spec.task]


def weight(spec: RunSpec) -> float:
    """Return a run's share of the work, in calls: training on a row counts as one call an epoch, starting up as 100."""
    preset = load_preset(spec.preset)
    trained = preset.split(spec.task).train * preset.epochs * MODULES[spec.task] if spec.strategy[-1:] == ("w",) else 0
    return 100 + estimate(spec) + trained


def default_workers(runs: int) -> int:
    """Return how many processes to run at once: one a core (two with an accelerator, which they share), as far as
    memory and runs go round.
    """
    wanted = 2 if Path("/dev/nvidia0").exists() else machine.cores()
    return max(1, min(wanted, int(machine.memory_gib() / GIB_PER_WORKER), runs))


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


def run_grid(
    specs: Iterable[RunSpec], runs_dir: Path, workers: int, watch: Watch, notebook: Path | None = None
) -> list[Job]:
    """Execute the runs, `workers` at a time, and return a Job for each, in order.

    `watch(event, job)` is called with "stored", "start", "done", "failed" or "skipped", and with "tick" and None
    about ten times a second. On any exception (Ctrl-C is one) all processes are stopped, kernels included, before it
    goes on.
    """
    notebook = notebook or notebooks_dir() / RUN_NOTEBOOK
    jobs = {spec: Job(spec) for spec in specs}
    for job in jobs.values():  # settings that differ end the grid here, before anything has run
        _read_stored(job, runs_dir, watch)
    with tempfile.TemporaryDirectory(prefix="btlib-") as scratch:
        folder = kernel_folder(Path(scratch))
        try:
            while any(j.state in ("waiting", "running") for j in jobs.values()):
                _start_ready(jobs, workers, folder, notebook, runs_dir, watch)
                for job in jobs.values():
                    if job.process and job.process.poll() is not None:
                        _finish(job, runs_dir, watch)
                watch("tick", None)
                time.sleep(0.1)
        finally:
            stop(jobs.values())
    return list(jobs.values())


def _read_stored(job: Job, runs_dir: Path, watch: Watch) -> None:
    run = read_run(job.spec, runs_dir)
    # A run made by hand has no notebook yet: the grid executes it once more, which only reads the stored result.
    if run and (run.folder / "notebook.ipynb").exists():
        job.state, job.score, job.status, job.notebook = "stored", run.score, run.status, run.folder / "notebook.ipynb"
        watch("stored", job)


def _start_ready(
    jobs: dict[RunSpec, Job], workers: int, folder: Path, notebook: Path, runs_dir: Path, watch: Watch
) -> None:
    for job in jobs.values():
        before = jobs.get(job.spec.prefix) if job.spec.prefix else None
        if job.state != "waiting" or (before and before.state in ("waiting", "running")):
            continue
        if before and before.state in ("failed", "skipped"):
            job.state, job.error = (
                "skipped",
                f"starts from {before.spec.name or 'vanilla'}, which {before.state.replace('skipped', 'was skipped')}",
            )
            watch("skipped", job)
        elif sum(j.state == "running" for j in jobs.values()) < workers:
            _start(job, folder, notebook, runs_dir)
            watch("start", job)


def _start(job: Job, folder: Path, notebook: Path, runs_dir: Path) -> None:
    spec, target = job.spec, job.spec.folder(runs_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    job.scratch = Path(tempfile.mkdtemp(dir=folder))
    job.notebook = target.with_name(f".{target.name}.notebook.ipynb")
    parameters = {
        "TASK": spec.task,
        "MODEL": spec.model,
        "STRATEGY": spec.name,
        "SEED": spec.seed,
        "PRESET": spec.preset,
    }
    parameters["RUNS"] = str(runs_dir.resolve())
    job.process = start_notebook(notebook, job.notebook, parameters, folder, job.scratch)
    job.state, job.begun = "running", time.monotonic()


def _finish(job: Job, runs_dir: Path, watch: Watch) -> None:
    code, job.process, job.seconds = job.process.returncode, None, time.monotonic() - job.begun
    folder = job.spec.folder(runs_dir)
    run = read_run(job.spec, runs_dir) if code == 0 else None
    if run:
        job.notebook = Path(shutil.move(job.notebook, run.folder / "notebook.ipynb"))
        folder.with_name(f"{folder.name}.failed.ipynb").unlink(missing_ok=True)  # of an earlier try
        job.state, job.score, job.status = "done", run.score, run.status
    else:
        failed = folder.with_name(f"{folder.name}.failed.ipynb")
        job.notebook = Path(shutil.move(job.notebook, failed)) if job.notebook.exists() else None
        job.state, job.error = "failed", last_error(job.scratch / "log", code)
    shutil.rmtree(job.scratch, ignore_errors=True)
    watch("done" if run else "failed", job)


def stop(jobs: Iterable[Job]) -> None:
    """Stop every running process and remove what its notebook had so far: only whole runs stay."""
    running = [job for job in jobs if job.process]
    for job in running:
        job.process.terminate()
    for job in running:
        stop_notebook(job.process)
        job.notebook.unlink(missing_ok=True)
