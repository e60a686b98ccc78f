"""What `btlib grid` and `btlib report` do: check every input first, run, and end with the table."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from btlib.errors import BtlibError, unknown
from btlib.presets import Preset, load_preset
from btlib.runs import RunSpec, read_run
from btlib.strategies import STRATEGIES, parse_strategy

if TYPE_CHECKING:
    from btlib.jobs import RunGrid


def words(given: Iterable[str]) -> list[str]:
    """Split option values at commas as well, and drop repeats: `--tasks iris,gsm8k` and `--tasks iris gsm8k` are the
    same.
    """
    return list(dict.fromkeys(part.strip() for value in given for part in value.split(",")))


def grid_specs(options: argparse.Namespace) -> list[RunSpec]:
    """Turn the options into runs; an unknown name is a BtlibError."""
    from btlib.jobs import plan

    preset = load_preset(options.preset)
    tasks = words(options.tasks)
    for task in tasks:
        if task not in preset.tasks:
            raise unknown("task", task, preset.tasks)
    strategies = [parse_strategy(text) for text in words(options.strategies)] or STRATEGIES
    return plan(preset, tasks, words(options.models), strategies, [seed(text) for text in words(options.seeds)])


def seed(text: str) -> int:
    """Read a seed: a whole number from 0 on."""
    if not text.isdecimal() or not text.isascii():
        raise BtlibError(f"bad seed {text!r}; seeds are whole numbers from 0 on, such as --seeds 0 1 2")
    return int(text)


def check_inputs(specs: list[RunSpec], preset: Preset, runs: Path, fetch: bool = True) -> set[RunSpec]:
    """Load every task and find every LM before anything runs, and return the runs that are complete already.

    Without `fetch` (a dry run), what would come from a hub or a server is left alone.
    """
    from btlib.lm.known import on_hub

    if runs.exists() and not runs.is_dir():
        raise BtlibError(f"--runs {runs} is a file; give a folder")
    stored = {spec for spec in specs if read_run(spec, runs)}
    for model in dict.fromkeys(spec.model for spec in specs):
        if model.startswith("openai/"):
            from btlib.lm.server import Server

            if fetch:
                Server(model).check()
        elif fetch or not on_hub(model):
            from btlib.lm.checkpoint import find  # loads torch

            find(model)
    for task in dict.fromkeys(spec.task for spec in specs if fetch or preset.source != "hub"):
        from btlib.tasks import load_task  # loads DSPy

        retriever = load_task(task, preset.source, preset.split(task), retriever=preset.retriever).retriever
        if fetch and hasattr(retriever, "check"):
            retriever.check()
    return stored


def grid(options: argparse.Namespace, run_grid: RunGrid) -> int:
    """Run a grid and its report; 1 when a run failed. `run_grid` is btlib.grid's, which only __main__ imports."""
    from btlib.display import Display, dry_run
    from btlib.jobs import default_workers

    preset, specs = load_preset(options.preset), grid_specs(options)
    if options.workers is not None and options.workers < 1:
        raise BtlibError(f"--workers {options.workers} runs nothing; give 1 or more")
    stored = check_inputs(specs, preset, options.runs, fetch=not options.dry_run)
    if options.dry_run:
        print(dry_run(specs, stored))
        return 0
    workers = options.workers or default_workers(specs)
    signal.signal(signal.SIGTERM, _interrupt)
    with Display(specs, workers) as display:
        display.console.print(
            f"{len(specs)} runs, {len(stored)} complete already, {workers} at a time, in {options.runs}",
            highlight=False,
        )
        jobs = run_grid(specs, options.runs, workers, display)
    failed = [job for job in jobs if job.state in ("failed", "skipped")]
    status = report(options.runs, preset.name) if any(job.state in ("done", "stored") for job in jobs) else 0
    if failed:
        skipped = sum(job.state == "skipped" for job in failed)
        print(f"{len(failed) - skipped} runs failed, {skipped} were skipped:")
        for job in failed:
            print(
                f"  {job.spec.task} {job.spec.name or 'vanilla'}: {job.error}"
                + (f"\n    {job.notebook}" if job.notebook else "")
            )
    return 1 if failed else status


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def report(runs: Path, preset: str, table_only: bool = False) -> int:
    """Make runs/<preset>/report.ipynb (and .html), print the results table and where the report lies; 1 when the
    notebook failed.
    """
    from btlib.report import make_report, results_text, to_html

    text = results_text(runs / preset)
    error = ""
    if not table_only:
        notebook, error = make_report(runs, preset)
        page = to_html(notebook) if not error else None
    print(f"\n{text}")
    if not table_only:
        print(f"\nreport: {notebook}" + (f" and {page}" if page else ""))
    if error:
        print(f"the report notebook failed: {error}")
    return 1 if error else 0
