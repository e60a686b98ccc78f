"""What to tune, and how: `python tests/benchmarks/bench_lora_settings.py --tasks gsm8k --limit 60`.

Bootstraps each task's traces once, with the vanilla program on the untuned LM, and trains on the correct ones with
every combination of targets (q and k as in the paper, attention, all linear layers), rank, learning rate and epochs.
Each tuned LM is judged with the vanilla prompts on the dev split, never on test. alpha is twice the rank, as in the
paper; everything else is the preset's. Prints a Markdown table and a summary over the tasks, and writes runs/
lora-settings.csv, which grows with every combination.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import random
import statistics
import tempfile
from pathlib import Path

import dspy
import pandas as pd

from btlib.lm import load_lm
from btlib.lm.lora.train import ALL_LINEAR, train_lora
from btlib.presets import load_preset
from btlib.steps import evaluate, running_on, vanilla_state
from btlib.steps.bootstrap import bootstrap_traces
from btlib.support.meter import Meter
from btlib.tasks import Task, load_for, registry, split_for

TARGETS = {"qk": ALL_LINEAR[:2], "attention": ALL_LINEAR[:4], "all": ALL_LINEAR}
SETTING = ["targets", "rank", "learning_rate", "epochs"]
ONE = [*SETTING, "training_seed"]


def correct_rows(lm: dspy.LM, task: Task, preset) -> tuple[list[dict], int]:
    """Return the chat rows of the correct traces, shuffled as DSPy shuffles them, and how many traces were correct."""
    program = task.program()
    program.set_lm(lm)
    signatures = {name: predictor.signature for name, predictor in program.named_predictors()}
    with running_on(lm, Meter(lm), progress=False) as adapter:
        traces = bootstrap_traces(program, task.train, task.metric, preset.num_threads)
        calls = [call for trace in traces.traces if trace.score for call in trace.calls]
        rows = [adapter.format_finetune_data(signatures[c.module], [], c.inputs, c.outputs) for c in calls]
    random.Random(0).shuffle(rows)
    return rows, traces.kept


def tuned_lm(lm: dspy.LM, rows: list[dict], preset, setting: dict, folder: Path) -> tuple[dspy.LM, object]:
    report = train_lora(
        lm.engine, rows, folder, rank=setting["rank"], alpha=2 * setting["rank"], dropout=preset.lora_dropout,
        targets=TARGETS[setting["targets"]], epochs=setting["epochs"], learning_rate=setting["learning_rate"],
        batch_size=preset.batch_size, micro_batch_size=preset.micro_batch_size, dtype=preset.dtype,
        gradient_checkpointing=preset.gradient_checkpointing, seed=setting["training_seed"],
    )  # fmt: skip
    return lm.copy(model=lm.engine.add_adapter(report.path)), report


def store(results: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pd.DataFrame(results).to_csv(temporary, index=False)
    os.replace(temporary, path)


def summary(results: pd.DataFrame) -> str:
    """Return the settings' gains in points, averaged over tasks and training seeds, best first, and what q and k
    alone cost.
    """
    tasks = results["task"].nunique()
    means = results.groupby(SETTING, as_index=False).agg(
        gain=("gain", "mean"), seconds=("seconds", "sum"), tasks=("task", "nunique")
    )
    means = means[means["tasks"] == tasks].sort_values(["gain", "seconds"], ascending=[False, True])
    seeds = results["training_seed"].nunique()
    lines = [
        f"\nMean over {tasks} task(s) and {seeds} training seed(s), best first:\n",
        "| targets | rank | learning rate | epochs | gain | s |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for row in means.head(12).itertuples():
        lines.append(
            f"| {row.targets} | {row.rank} | {row.learning_rate:g} | {row.epochs} | {row.gain:+.1f} | "
            f"{row.seconds:.0f} |"
        )
    best = means.groupby("targets")["gain"].max()
    if {"qk"} < set(best.index):
        others = best.drop("qk")
        lines.append(f"\nq and k alone, at their best setting: {best['qk'] - others.max():+.1f} points to the best.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="pocket, a folder, or a registry name")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--tasks", nargs="+", default=["iris", "gsm8k", "hotpotqa"], choices=list(registry()))
    parser.add_argument("--limit", type=int, help="training examples to bootstrap from (default: the preset's)")
    parser.add_argument("--dev", type=int, help="dev examples to judge on (default: the preset's)")
    parser.add_argument("--seed", type=int, default=0, help="shuffles the training set")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--epochs", nargs="+", type=int, default=[5, 10])
    parser.add_argument(
        "--training-seeds", nargs="+", type=int, default=[0], help="of LoRA's first weights and the order of rows"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/lora-settings.csv"))
    arguments = parser.parse_args()
    dspy.configure_cache(enable_disk_cache=False)
    preset = load_preset(arguments.preset)
    lm = load_lm(arguments.model, preset)
    results: list[dict] = []
    print(f"{lm.model} on {lm.engine.device.type}; dev accuracy in percent\n")
    print("| task | targets | rank | learning rate | epochs | vanilla | tuned | gain | train s | last loss |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.tasks:
        split = split_for(preset, name)
        if arguments.dev:
            split = dataclasses.replace(split, dev=arguments.dev)
        task = load_for(dataclasses.replace(preset, splits={name: split}), name, arguments.seed)
        task = dataclasses.replace(task, train=task.train[: arguments.limit])
        vanilla = evaluate(vanilla_state(task, lm), task.dev, task.metric, preset).score
        rows, kept = correct_rows(lm, task, preset)
        print(f"| {name} | {kept} of {len(task.train)} traces kept | | | | {vanilla:.1f} | | | | |", flush=True)
        if not rows:
            continue
        axes = (
            arguments.targets, arguments.ranks, arguments.learning_rates, arguments.epochs, arguments.training_seeds
        )  # fmt: skip
        for values in itertools.product(*axes):
            setting = dict(zip(ONE, values, strict=True))
            with tempfile.TemporaryDirectory() as scratch:
                tuned, report = tuned_lm(lm, rows, preset, setting, Path(scratch) / "adapter")
                score = evaluate(vanilla_state(task, tuned), task.dev, task.metric, preset).score
            results.append(
                {
                    "model": lm.model, "task": name, "seed": arguments.seed, "kept": kept, "rows": report.rows,
                    **setting, "vanilla": vanilla, "tuned": score, "gain": score - vanilla, "seconds": report.seconds,
                    "first_loss": report.losses[0], "final_loss": report.final_loss,
                }
            )  # fmt: skip
            store(results, arguments.out)
            print(
                f"| {name} | {setting['targets']} | {setting['rank']} | {setting['learning_rate']:g} | "
                f"{setting['epochs']} | {vanilla:.1f} | {score:.1f} | {score - vanilla:+.1f} | {report.seconds:.1f} | "
                f"{report.final_loss:.3f} |",
                flush=True,
            )
    if results:
        print(summary(pd.DataFrame(results)))
        print(f"\nMedian training time: {statistics.median(r['seconds'] for r in results):.1f} s; {arguments.out}")


if __name__ == "__main__":
    main()
