"""A BFRS step on each laptop task: program runs per second, and what of the time is DSPy's own.

    python tests/benchmarks/bench_program.py                   # small sizes, some minutes
    python tests/benchmarks/bench_program.py --laptop          # the laptop preset's sizes; `generate` is left out
    python tests/benchmarks/bench_program.py --threads 8 32 64 # which num_threads to choose

The same unmodified BFRS runs behind DSPy on four LMs that take turns in one process: the engine with look-ahead, the
engine without, the same weights through Hugging Face `generate` one call at a time, and a table of the engine's answers
that answers at once. The last one's time is DSPy's own (prompts, parsing, caching, threads) and btlib's metric. Every
step begins with an empty response cache. Ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import threading
import time
from datetime import date

import dspy
import torch
from transformers import AutoModelForCausalLM

from btlib.lm import load_lm
from btlib.lm.engine.engine import Engine
from btlib.lm.engine.lanes import Job
from btlib.lm.quiet import without_bars
from btlib.presets import Preset, Split, load_preset
from btlib.steps import optimize_prompts, vanilla_state
from btlib.support.machine import machine
from btlib.tasks import load_for, registry


class OneAtATime:
    """The scheduler's interface over `generate`, one call after another: what DSPy over plain transformers gives."""

    def __init__(self, engine: Engine):
        with without_bars():
            self.model = AutoModelForCausalLM.from_pretrained(engine.checkpoint.folder, dtype=engine.dtype).eval()
        self.pad = min(engine.chat.eos_ids)
        self.lock = threading.Lock()

    def submit(self, job: Job) -> Job:
        sampling = {"do_sample": True, "temperature": job.temperature, "top_p": job.top_p, "top_k": 0}
        with self.lock, torch.inference_mode():
            ids = torch.tensor([job.ids])
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=job.limit, pad_token_id=self.pad, **sampling
            )
        job.future.set_result((out[0, len(job.ids) :].tolist(), "stop"))
        return job

    def counters(self) -> dict:
        """Count nothing."""
        return {}

    def close(self) -> None:
        """Nothing runs by itself."""


class Table:
    """Answer from an engine and remember it; once `closed`, answer from memory alone."""

    def __init__(self, engine: Engine):
        self.engine, self.answers, self.closed = engine, {}, False

    def __deepcopy__(self, memo: dict) -> Table:
        return self

    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        key = repr((request.system, request.messages))
        if not self.closed:
            self.answers[key] = self.engine.complete(request)
        return self.answers[key]


@dataclasses.dataclass(frozen=True)
class Step:
    """One BFRS step: wall-clock seconds, runs of the program, and mean rows a decode step."""

    seconds: float
    runs: int
    calls: int
    occupancy: float

    @property
    def rate(self) -> float:
        return self.runs / self.seconds


def step(lm: dspy.LM, task, preset: Preset, ahead: bool) -> Step:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    begun = time.perf_counter()
    _, record = optimize_prompts(vanilla_state(task, lm), task, preset, ahead=ahead)
    seconds = time.perf_counter() - begun
    runs = record.total + len(record.validation_scores) * task.split.validation
    return Step(seconds, runs, record.lm_calls, record.occupancy)


def measure(name: str, preset: Preset, rounds: int, plainly: bool) -> dict[str, list[Step]]:
    """Run the step on each LM in turn, `rounds` times."""
    task = load_for(preset, name)
    lm = load_lm(preset.models[0], preset)
    table = Table(lm.engine)
    tables = lm.copy(engine=table)
    step(tables, task, preset, True)  # fills the table and warms the engine up
    table.closed = True
    ways = {"ahead": (lm, True), "engine": (lm, False), "dspy": (tables, True)}
    if plainly:
        plain = Engine(lm.engine.checkpoint, device="cpu", dtype=str(lm.engine.dtype).removeprefix("torch."))
        plain.context, plain.scheduler = lm.engine.context, OneAtATime(plain)
        ways["generate"] = lm.copy(engine=plain), False
    found: dict[str, list[Step]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (each, ahead) in ways.items():
            found[way].append(step(each, task, preset, ahead))
    return found


def ratio(over: list[Step], under: list[Step]) -> str:
    return f"{statistics.median(a.rate / b.rate for a, b in zip(over, under, strict=True)):.2f}"


def row(name: str, preset: Preset, found: dict[str, list[Step]]) -> str:
    def rate(way: str) -> str:
        return f"{statistics.median(each.rate for each in found[way]):.2f}" if way in found else ""

    ahead, engine, own = found["ahead"], found["engine"], found["dspy"]
    share = statistics.median(o.seconds / a.seconds for o, a in zip(own, ahead, strict=True))
    cells = [name, preset.num_threads, ahead[0].runs, ahead[0].calls, rate("generate"), rate("engine"), rate("ahead")]
    cells += [ratio(ahead, found["generate"]) if "generate" in found else "", ratio(ahead, engine)]
    cells += [f"{engine[-1].occupancy:.1f} / {ahead[-1].occupancy:.1f}"]
    cells += [f"{1000 * statistics.median(o.seconds / o.runs for o in own):.1f}", f"{share:.0%}"]
    return "| " + " | ".join(map(str, cells)) + " |"


HEAD = """\
| task | threads | runs | LM calls | `generate`, runs/s | engine | with look-ahead | × `generate` | × without \
| rows a step, without / with | DSPy, ms a run | DSPy's share |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["iris", "gsm8k", "hotpotqa"], choices=list(registry()))
    parser.add_argument("--laptop", action="store_true", help="the laptop preset's sizes, without `generate`")
    parser.add_argument("--bootstrap", type=int, default=12)
    parser.add_argument("--validation", type=int, default=24)
    parser.add_argument("--candidates", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[load_preset("laptop").num_threads])
    parser.add_argument("--no-generate", action="store_true")
    arguments = parser.parse_args()
    preset = load_preset("laptop")
    if not arguments.laptop:
        train = arguments.bootstrap + arguments.validation
        split = Split(train, dev=1, test=1, bootstrap=arguments.bootstrap, validation=arguments.validation)
        preset = dataclasses.replace(
            preset, splits=dict.fromkeys(registry(), split), num_candidate_programs=arguments.candidates
        )
    plainly = not (arguments.laptop or arguments.no_generate)
    where = "{cpu}, {cores} cores, {threads} torch threads".format(**machine())
    print(f"{date.today()}, {where}\n\n{HEAD}", flush=True)
    for name in arguments.tasks:
        for threads in arguments.threads:
            chosen = dataclasses.replace(preset, num_threads=threads)
            print(row(name, chosen, measure(name, chosen, arguments.rounds, plainly)), flush=True)


if __name__ == "__main__":
    main()
