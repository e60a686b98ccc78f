"""How a grid looks while it runs: a live table in a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from btlib.grid.estimate import ASSUMED, PAPER_HOURS, Cost, cost, total, weight
from btlib.grid.plan import Job
from btlib.results.tables import label_of
from btlib.runs.run import RunSpec


def minutes(seconds: float) -> str:
    """Write a duration as 4:05, hours as 1:04:05."""
    m, s = divmod(round(seconds), 60)
    return f"{m // 60}:{m % 60:02d}:{s:02d}" if m >= 60 else f"{m}:{s:02d}"


def run_title(spec: RunSpec) -> str:
    """Name a run for people: task, strategy, and model and seed after it."""
    return f"{spec.task:<9} {label_of(spec.name):<17} {spec.model}, seed {spec.seed}"


def cell(job: Job) -> str:
    """Write a job's result in a few characters: a score, – where nothing could be trained, or what happened instead."""
    if job.state in ("done", "stored"):
        return "–" if job.score is None else f"{job.score:.1f}"
    return {"waiting": "", "running": "…"}.get(job.state, job.state)


class Display:
    """Watches a grid: call it with (event, job). A context manager, so that the terminal is left in order."""

    def __init__(self, specs: Sequence[RunSpec], workers: int, console: Console | None = None):
        self.console = console or Console()
        self.specs, self.workers = list(specs), workers
        self.jobs: dict[RunSpec, Job] = {}
        self.begun = self.drawn = time.monotonic()
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, event: str, job: Job | None) -> None:
        """Take note of an event; print a line for it where there is no live table, and always for a failure or a
        skip.
        """
        if job:
            self.jobs[job.spec] = job
        if job and (event in ("failed", "skipped", "done") or (not self.live and event == "start")):
            self.console.print(self.line(event, job), highlight=False, markup=False, soft_wrap=True)
        if self.live and (job or time.monotonic() - self.drawn > 0.5):
            self.drawn = time.monotonic()
            self.live.update(self.table(), refresh=True)

    def line(self, event: str, job: Job) -> str:
        """Write an event as one plain line."""
        head = f"[{len(self.over())}/{len(self.specs)}] {run_title(job.spec)}: "
        if event == "start":
            return head + "started"
        if event == "done":
            why = "" if job.status == "ok" else f" ({job.status})"
            return (
                head
                + f"{cell(job)}{'%' if job.score is not None else ''}{why} in {minutes(job.seconds)}, {self.left()}"
            )
        return (
            head
            + f"{event}, {job.error}"
            + (f"; its notebook: {job.notebook}" if event == "failed" and job.notebook else "")
        )

    def over(self) -> set[RunSpec]:
        """The runs that nothing more happens to."""
        return {s for s, j in self.jobs.items() if j.state in ("done", "stored", "failed", "skipped")}

    def left(self) -> str:
        """Estimate the time left from the work done so far in this grid; runs that failed or were stored teach
        nothing about speed.
        """
        done = sum(weight(j.spec) for j in self.jobs.values() if j.state == "done")
        now = sum(
            min(1.0, (time.monotonic() - j.begun) / 60) * 0.5 * weight(j.spec)
            for j in self.jobs.values()
            if j.state == "running"
        )
        over = self.over()
        todo = sum(weight(s) for s in self.specs if s not in over) - now
        if not done:
            return "time left unknown yet"
        return (
            f"about {minutes(max(todo, 0) * (time.monotonic() - self.begun) / (done + now))} left"
            if over != set(self.specs)
            else "all done"
        )

    def table(self) -> Table:
        """Draw strategies by task, each cell a score or a state, with what runs now below."""
        columns = list(dict.fromkeys((s.task, s.model, s.seed) for s in self.specs))
        gone = minutes(time.monotonic() - self.begun)
        title = f"{len(self.over())} of {len(self.specs)} runs, {gone} gone, {self.left()}"
        table = Table(title=title, title_justify="left", caption=self.running(), caption_justify="left")
        table.add_column("strategy")
        several = len({c[1:] for c in columns}) > 1
        for task, model, seed in columns:
            table.add_column(f"{task}\n{model} {seed}" if several else task, justify="right")
        for name in dict.fromkeys(s.name for s in self.specs):
            row = {(s.task, s.model, s.seed): s for s in self.specs if s.name == name}
            if row:
                cells = [cell(self.jobs[row[c]]) if c in row and row[c] in self.jobs else "" for c in columns]
                table.add_row(label_of(name), *cells)
        return table

    def running(self) -> str:
        """List what runs now, with what it is doing and for how long, a line each."""
        now = [j for j in self.jobs.values() if j.state == "running"]
        return "\n".join(f"{run_title(j.spec)}: {j.phase}, {minutes(time.monotonic() - j.begun)}" for j in now)


def dry_run(specs: Sequence[RunSpec], stored: set[RunSpec]) -> str:
    """List the runs in order with estimated LM calls, tokens and, for a preset that is made for a GPU, hours on it;
    those complete already cost nothing.
    """
    todo = [spec for spec in specs if spec not in stored]
    speed = ASSUMED.get(specs[0].preset.base) if specs else None
    hours = f" {speed.device + ' h':>8}" if speed else ""
    wide = max((len(run_title(spec)) for spec in specs), default=0)
    lines = [
        f"{len(specs)} runs, {len(stored)} complete already. Estimates, not measurements:",
        f"{'':>4}  {'':<{wide}} {'LM calls':>10} {'tokens in':>10} {'out':>9} {'trained':>9}{hours}",
    ]

    def row(found: Cost) -> str:
        text = f"{found.lm_calls:>10,} {_count(found.tokens_in):>10} {_count(found.tokens_out):>9} "
        text += f"{_count(found.trained_tokens):>9}"
        gone = found.hours(speed) if speed else None
        return text + (f" {'–' if gone is None else format(gone, '.2f'):>8}" if speed else "")

    for i, spec in enumerate(specs, 1):
        lines.append(
            f"{i:>4}  {run_title(spec):<{wide}} " + (f"{'complete':>10}" if spec in stored else row(cost(spec)))
        )
    whole = total(todo)
    lines.append(f"{'':>4}  {'total':<{wide}} {row(whole)}")
    lines.append(
        "Every trace is taken as correct, no answer as cached; lengths of texts are assumptions (btlib/tasks)."
    )
    if speed:
        lines += [
            f"{speed.device} h: 2 FLOPs for each weight and token generated or read (what prompts share is read once), "
            "4 if trained on (6 with",
            f"gradient checkpointing), at {speed.generation / 1e12:.1f} TFLOP/s in generation and "
            f"{speed.training / 1e12:.1f} in training, {speed.source}.",
            "To measure a GPU: python tests/benchmarks/bench_gpu.py",
        ]
    rate = whole.rate(PAPER_HOURS)
    if speed and specs[0].preset.base == "paper" and rate:
        lines.append(
            f"The paper reports about {PAPER_HOURS:.0f} A100 hours for Table 1 (appendix C); all of the above in that "
            f"time would be {rate / 1e12:.0f} TFLOP/s on average."
        )
    return "\n".join(lines)


def _count(tokens: int) -> str:
    """Write a number of tokens as 812, 45 k or 1.23 M."""
    return f"{tokens / 1e6:.2f} M" if tokens >= 1e6 else f"{tokens / 1e3:.0f} k" if tokens >= 1e4 else str(tokens)
