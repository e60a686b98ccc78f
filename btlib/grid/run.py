"""The whole experiment, headless: every run is a notebook that papermill executes in a process of its own, prefixes
first.

Runs form a graph, since each starts from the run of its prefix. Runs that are complete stay; one that fails is
reported with its error and its notebook, what starts from it is skipped, and the others go on. `btlib grid` is the
way in; what it runs is notebooks/05_bettertogether.ipynb.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from btlib.grid.kernels import kernel_folder, last_error, start_notebook, stop_notebook
from btlib.grid.plan import Job, Watch
from btlib.presets import PRESETS
from btlib.runs.run import read_run
from btlib.runs.spec import RunSpec
from btlib.support import machine
from btlib.support.paths import notebooks_dir, short_name

RUN_NOTEBOOK = "05_bettertogether.ipynb"


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
    with tempfile.TemporaryDirectory(prefix="btlib-") as scratch, short_name(Path(scratch)) as place:
        folder = kernel_folder(place)
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
            _start(job, folder, notebook, runs_dir, max(1, machine.cores() // workers))
            watch("start", job)


def _start(job: Job, folder: Path, notebook: Path, runs_dir: Path, threads: int) -> None:
    spec, target = job.spec, job.spec.folder(runs_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    job.scratch = Path(tempfile.mkdtemp(dir=folder))
    job.notebook = target.with_name(f".{target.name}.notebook.ipynb")
    parameters = {
        "TASK": spec.task,
        "MODEL": spec.model,
        "STRATEGY": spec.name,
        "SEED": spec.seed,
        "PRESET": spec.preset.base,
        "CHANGES": {k: list(v) if isinstance(v, tuple) else v for k, v in spec.preset.changes.items()},
        "DATA": "" if spec.preset.source == PRESETS[spec.preset.base].source else spec.preset.source,
        "RETRIEVER": spec.preset.retriever,
        "API_BASE": spec.preset.api_base,
        "RUNS": str(runs_dir.resolve()),
    }
    job.process = start_notebook(notebook, job.notebook, parameters, folder, job.scratch, threads)
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
