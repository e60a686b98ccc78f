"""What `btlib grid` and `btlib report` do: check every input first, run, and end with the table."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from btlib.errors import BtlibError
from btlib.presets import Preset, load_preset
from btlib.runs.run import read_run
from btlib.runs.spec import RunSpec
from btlib.steps.strategies import STRATEGIES, parse_strategy
from btlib.support.paths import at_home

if TYPE_CHECKING:
    from btlib.grid.plan import RunGrid


def names_in(given: Iterable[str]) -> list[str]:
    """Split option values at commas as well, and drop repeats: `--tasks iris,gsm8k` and `--tasks iris gsm8k` are the
    same.
    """
    return list(dict.fromkeys(part.strip() for value in given for part in value.split(",")))


def preset_of(options: argparse.Namespace) -> Preset:
    """Return the preset that the options ask for, with their changes and places."""
    changes = {}
    for text in options.set:
        name, sign, value = text.partition("=")
        if not sign:
            raise BtlibError(f"--set {text!r} has no '='; write a setting and its value, such as --set epochs=5")
        changes[name.strip()] = value.strip()
    places = {"source": options.data, "retriever": options.retriever, "api_base": options.api_base}
    return load_preset(options.preset, changes, **{name: resolved(value) for name, value in places.items() if value})


def resolved(place: str) -> str:
    """Return a path that exists in full, since runs work in a folder of their own; a URL or a name as it is."""
    path = at_home(place)
    return str(path.resolve()) if "://" not in place and path.exists() else place


def grid_specs(options: argparse.Namespace, preset: Preset) -> list[RunSpec]:
    """Turn the options into runs; an unknown name is a BtlibError."""
    from btlib.grid.plan import plan
    from btlib.tasks import split_for

    tasks = names_in(options.tasks)
    for task in tasks:
        split_for(preset, task)  # an unknown task, or one without sizes for this preset
    strategies = [parse_strategy(text) for text in names_in(options.strategies)] or STRATEGIES
    seeds = [seed(text) for text in names_in(options.seeds)]
    return plan(preset, tasks, names_in(options.models), strategies, seeds)


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
                Server(model, preset.api_base or None).check()
        elif fetch or not on_hub(model):
            from btlib.lm.checkpoint import find  # loads torch

            find(model)
    for task in dict.fromkeys(spec.task for spec in specs if fetch or preset.source != "hub"):
        from btlib.tasks import load_for  # loads DSPy

        retriever = load_for(preset, task).retriever
        if fetch and hasattr(retriever, "check"):
            retriever.check()
    return stored


def grid(options: argparse.Namespace, run_grid: RunGrid) -> int:
    """Run a grid and its report; 1 when a run failed. `run_grid` is btlib.grid's, which only __main__ imports."""
    from btlib.grid.display import Display, dry_run
    from btlib.grid.plan import default_workers

    preset = preset_of(options)
    specs = grid_specs(options, preset)
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
        if not stored and (shown := first_look(specs, options.runs)):
            display.console.print(shown, highlight=False, markup=False, soft_wrap=True)
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


def first_look(specs: list[RunSpec], runs: Path) -> str:
    """Return the stored sample's table for these tasks and LMs, said to be just that, to look at while the first own
    runs are made; "" where there is no sample.
    """
    from btlib.results.samples import find_results
    from btlib.results.tables import score_table, summarize, title_of_task

    preset, tasks, models = specs[0].preset.name, {spec.task for spec in specs}, {spec.model for spec in specs}
    try:
        sample, items, where = find_results(runs, preset)
    except BtlibError:
        return ""
    sample = sample[sample["task"].isin(tasks) & sample["model"].isin(models)]
    if sample.empty:
        return ""
    table = score_table(summarize(sample, items))
    table = table.rename(columns=lambda task: title_of_task(task, preset), level="task")
    return (
        f"\n{table.to_string()}\n\nTo look at meanwhile: {where}.\nPercent of the test set, mean over "
        f"{sample['seed'].nunique()} seeds. Your own runs begin now, {next(iter(specs)).task} first; each score is "
        "shown as it comes, and your table and report at the end.\n"
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def report(runs: Path, preset: str, table_only: bool = False) -> int:
    """Make runs/<preset>/report.ipynb (and .html), print the results table and where the report lies; 1 when the
    notebook failed.
    """
    from btlib.grid.report import make_report, results_text, to_html

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
