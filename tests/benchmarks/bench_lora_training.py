"""LoRA training against trl's SFTTrainer: `python tests/benchmarks/bench_lora_training.py` (extra `bench`: trl).

The LM runs each task's program over training examples; the calls it made, right or wrong, are the rows. Every trainer
gets the same token ids and labels, epochs and hyper-parameters (the laptop preset's), and takes its turn once a round
in one process, so that a busy machine slows all of them. Timed is the whole call: from the rows and the checkpoint's
folder to the adapter on disk. btlib is also timed tokenizing; trl gets its rows tokenized.

    btlib                      train_lora
    trl                        SFTTrainer with the same batches and dtype, without gradient checkpointing
    trl, fp32                  the same without bf16, which does not pay on every CPU
    trl, batches by length     the same, fewer padding tokens, other batches
    trl, its defaults          gradient checkpointing on

Prints a Markdown table. Tokens are those of the rows, prompts included and padding not, times the epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import dspy
import torch

from btlib.lm import ForgivingChatAdapter, load_lm
from btlib.lm.checkpoint import best_dtype
from btlib.lm.lora.train import train_lora
from btlib.lm.quiet import without_bars
from btlib.presets import load_preset
from btlib.steps.bootstrap import bootstrap_traces
from btlib.support.meter import quiet
from btlib.tasks import load_for, registry

OURS = "btlib"
PEERS = {
    "trl": {},
    "trl, fp32": {"bf16": False},
    "trl, batches by length": {"train_sampling_strategy": "group_by_length"},
    "trl, its defaults": {"gradient_checkpointing": True},
}


def trace_rows(lm, name: str, examples: int) -> list[dict]:
    """Return chat rows: all LM calls of the task's program on its first training examples."""
    preset = load_preset("laptop")
    task = load_for(preset, name)
    program, adapter = task.program(), ForgivingChatAdapter()
    signatures = {module: predictor.signature for module, predictor in program.named_predictors()}
    with quiet(True), dspy.context(lm=lm, adapter=adapter):
        traces = bootstrap_traces(program, task.train[:examples], task.metric, preset.num_threads)
    calls = [call for trace in traces.traces for call in trace.calls]
    return [adapter.format_finetune_data(signatures[c.module], [], c.inputs, c.outputs) for c in calls]


def ours(lm, rows: list[dict], folder: Path, epochs: int) -> tuple[float, float]:
    """Return seconds and the last epoch's mean loss."""
    preset = load_preset("laptop")
    start = time.perf_counter()
    report = train_lora(
        lm.engine, rows, folder, rank=preset.lora_rank, alpha=preset.lora_alpha, targets=preset.lora_targets,
        epochs=epochs, learning_rate=preset.learning_rate, batch_size=preset.batch_size,
    )  # fmt: skip
    return time.perf_counter() - start, report.final_loss


def peer(lm, encoded: list, folder: Path, epochs: int, settings: dict) -> tuple[float, float]:
    """The same by trl's SFTTrainer, on rows that are tokenized already."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    preset = load_preset("laptop")
    data = Dataset.from_list(
        [
            {"input_ids": row.ids, "labels": [i if t else -100 for i, t in zip(row.ids, row.target, strict=True)]}
            for row in encoded
        ]
    )
    arguments = {"gradient_checkpointing": False, "bf16": best_dtype(lm.engine.device) == torch.bfloat16, **settings}
    bf16 = arguments["bf16"]
    if arguments["gradient_checkpointing"]:
        arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    start = time.perf_counter()
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            lm.engine.checkpoint.folder, dtype=torch.bfloat16 if bf16 else torch.float32
        )
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(folder), per_device_train_batch_size=preset.batch_size, num_train_epochs=epochs,
                learning_rate=preset.learning_rate, lr_scheduler_type="linear", max_length=None,
                use_cpu=lm.engine.device.type == "cpu", seed=0, data_seed=0, dataloader_pin_memory=False,
                dataset_kwargs={"skip_prepare_dataset": True}, logging_steps=1, save_strategy="no", report_to=[],
                disable_tqdm=True, **arguments,
            ),
            train_dataset=data,
            processing_class=lm.engine.chat.tokenizer,
            peft_config=LoraConfig(
                r=preset.lora_rank, lora_alpha=preset.lora_alpha, lora_dropout=preset.lora_dropout,
                target_modules=list(preset.lora_targets), task_type="CAUSAL_LM",
            ),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.save_model(str(folder))
    seconds = time.perf_counter() - start
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return seconds, statistics.mean(losses[-round(len(losses) / epochs) :])


def measure(lm, rows: list[dict], epochs: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return (seconds, final loss) of each trainer, one a round."""
    encoded = [lm.engine.chat.training_row(row["messages"]) for row in rows]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (OURS, *PEERS)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for round_ in range(-1, repeats):  # the first round, a short one, pays for imports and warms up
            some, times = (8, 1) if round_ < 0 else (len(rows), epochs)
            for name in found:
                to = folder / f"{round_}-{name}"
                if name == OURS:
                    result = ours(lm, rows[:some], to, times)
                else:
                    result = peer(lm, encoded[:some], to, times, PEERS[name])
                if round_ >= 0:
                    found[name].append(result)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="pocket, a folder, or a registry name")
    parser.add_argument("--tasks", nargs="+", default=["iris", "gsm8k", "hotpotqa"], choices=list(registry()))
    parser.add_argument("--examples", type=int, default=48, help="training examples whose LM calls are the rows")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    dspy.configure_cache(enable_disk_cache=False)
    lm = load_lm(arguments.model, load_preset("laptop"))
    print(f"{lm.model} on {lm.engine.device.type}, {torch.get_num_threads()} threads, {arguments.epochs} epochs\n")
    print("| task | rows | tokens a row | trainer | tokens/s | btlib is faster by | final loss |")
    print("|---|---|---|---|---|---|---|")
    for task in arguments.tasks:
        rows = trace_rows(lm, task, arguments.examples)
        tokens = sum(len(lm.engine.chat.training_row(row["messages"]).ids) for row in rows)
        found = measure(lm, rows, arguments.epochs, arguments.repeats)
        fast = [seconds for seconds, _ in found[OURS]]
        for name, results in found.items():
            speed = statistics.median(tokens * arguments.epochs / seconds for seconds, _ in results)
            ratios = sorted(seconds / own for (seconds, _), own in zip(results, fast, strict=True))
            ratio = "" if name == OURS else f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            loss, own_loss = results[0][1], found[OURS][0][1]
            difference = "" if name == OURS else f" ({100 * (loss / own_loss - 1):+.2f}%)"
            print(
                f"| {task} | {len(rows)} | {tokens / len(rows):.0f} | {name} | {speed:,.0f} | {ratio} | "
                f"{loss:.4f}{difference} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
