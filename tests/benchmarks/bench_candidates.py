"""How many candidates BFRS needs: `python tests/benchmarks/bench_candidates.py --tasks iris --seeds 3 4 5 6 7`.

Runs the prompt step of a preset with more and more random candidates (the paper's: 6) on the untuned LM, and judges the
winner on the dev split, never on test. The first candidates of a longer search are those of a shorter one, whose
answers are in DSPy's cache by then; so the seconds of a row are those of what it adds. Prints a Markdown table, the
means over the seeds last, and writes runs/candidates.csv, which grows with every search.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dspy
import pandas as pd
from bench_lora_settings import store

from btlib.lm import load_lm
from btlib.presets import load_preset
from btlib.steps import evaluate, optimize_prompts, vanilla_state
from btlib.tasks import load_for, registry

NUMBERS = ["vanilla", "validation", "dev", "seconds"]


def searches(lm: dspy.LM, name: str, preset, seed: int, counts: list[int]):
    """Yield one row for each number of candidates, on one task shuffled by one seed."""
    task = load_for(preset, name, seed)
    vanilla = evaluate(vanilla_state(task, lm), task.dev, task.metric, preset).score
    before: tuple[float, ...] = ()
    for count in sorted(counts):
        settings = load_preset(preset, {"num_candidate_programs": count})
        state, record = optimize_prompts(vanilla_state(task, lm), task, settings)
        if record.validation_scores[: len(before)] != before:
            raise SystemExit(f"{name}, seed {seed}: the first candidates are not those of the shorter search")
        before = record.validation_scores
        yield {
            "model": lm.model, "task": name, "seed": seed, "candidates": count, "vanilla": vanilla,
            "validation": max(before), "dev": evaluate(state, task.dev, task.metric, preset).score,
            "seconds": record.seconds["search"],
        }  # fmt: skip


def line(numbers, *names) -> str:
    return f"| {' | '.join(map(str, names))} | {' | '.join(f'{numbers[n]:.1f}' for n in NUMBERS)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="pocket, a folder, or a registry name")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--tasks", nargs="+", default=["iris", "gsm8k", "hotpotqa"], choices=list(registry()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5, 6, 7], help="each shuffles the training set")
    parser.add_argument("--candidates", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--out", type=Path, default=Path("runs/candidates.csv"))
    arguments = parser.parse_args()
    dspy.configure_cache(enable_disk_cache=False)
    preset = load_preset(arguments.preset)
    lm = load_lm(arguments.model, preset)
    results: list[dict] = []
    print(f"{lm.model} on {lm.engine.device.type}; accuracy in percent\n")
    print("| task | seed | candidates | vanilla, dev | winner, validation | winner, dev | s more |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.tasks:
        for seed in arguments.seeds:
            for row in searches(lm, name, preset, seed, arguments.candidates):
                results.append(row)
                store(results, arguments.out)
                print(line(row, name, seed, row["candidates"]), flush=True)
    for (name, count), rows in pd.DataFrame(results).groupby(["task", "candidates"], sort=False):
        print(line(rows[NUMBERS].mean(), name, f"mean of {len(rows)}", count))
    print(f"\n{arguments.out}")


if __name__ == "__main__":
    main()
