"""Fine-tune with LoRA on chat rows, and the DSPy provider that does so (section 3 of the paper;
notebooks/04_bft_lora).

PEFT makes the adapter and Hugging Face's Trainer runs the loop. Only what the assistant wrote is a target. Training
works on a copy of the base weights loaded from the checkpoint's folder, so an engine that answers meanwhile is not
touched.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from btlib.errors import BtlibError
from btlib.lm.chat import Chat, Row
from btlib.lm.engine import Engine, best_device
from btlib.lm.quiet import without_bars

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class EmptyTraining(BtlibError, ValueError):
    """There is no row to train on."""


@dataclass(frozen=True)
class TrainReport:
    """What a fine-tuning did. Losses are means per target token, one an optimizer step; `final_loss` is the last
    epoch's mean.
    """

    rows: int
    skipped: int
    tokens: int
    target_tokens: int
    steps: int
    final_loss: float
    losses: tuple[float, ...]
    seconds: float
    path: Path


def train_lora(
    base: Engine | Path | str,
    rows: Sequence[dict[str, Any]],
    out_dir: Path | str,
    *,
    rank: int = 32,
    alpha: float = 64,
    dropout: float = 0.0,
    targets: Sequence[str] = ("q_proj", "k_proj"),
    epochs: float = 5,
    learning_rate: float = 1e-5,
    batch_size: int = 8,
    micro_batch_size: int | None = None,
    bf16: bool = False,
    seed: int = 0,
    init_adapter: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train a LoRA adapter on rows of {"messages": [...]} and write it to `out_dir` (safetensors), whole or not at all.

    The defaults are the paper's (appendix C). `batch_size` rows make an optimizer step, in micro-batches of
    `micro_batch_size`; `init_adapter` is trained on from, with its own rank, alpha and targets. `progress(step,
    steps)` is called after each step. Rows longer than the model's context are skipped and counted. Raises
    EmptyTraining where no row is left.
    """
    from transformers import AutoModelForCausalLM

    start = time.perf_counter()
    folder = base.checkpoint.folder if isinstance(base, Engine) else Path(base)
    device = base.device if isinstance(base, Engine) else best_device("auto")
    chat = base.chat if isinstance(base, Engine) else _chat(folder)
    with without_bars(), _own_random_state(seed):
        dtype = torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False, dtype=dtype)
        data, skipped = _data(chat, rows, model.config.get_text_config().max_position_embeddings)
        model = _with_adapter(model, init_adapter, rank, alpha, dropout, targets)
        micro = min(micro_batch_size or batch_size, batch_size)
        losses = _fit(model, data, device, epochs, learning_rate, batch_size, micro, bf16, seed, progress)
        _save(model, chat.tokenizer, Path(out_dir))
    last_epoch = losses[-max(1, round(len(losses) / max(epochs, 1))) :]
    return TrainReport(
        rows=len(data),
        skipped=skipped,
        tokens=sum(len(row.ids) for row in data),
        target_tokens=sum(sum(row.target) for row in data),
        steps=len(losses),
        final_loss=float(np.mean(last_epoch)) if losses else float("nan"),
        losses=tuple(losses),
        seconds=time.perf_counter() - start,
        path=Path(out_dir),
    )


def _chat(folder: Path) -> Chat:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    try:
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        eos = None
    return Chat(tokenizer, frozenset({tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}))


def _data(chat: Chat, rows: Sequence[dict[str, Any]], context: int) -> tuple[list[Row], int]:
    """Return the rows that fit the context and have a target, and how many do not."""
    encoded = [chat.training_row(row["messages"]) for row in rows]
    data = [row for row in encoded if any(row.target) and len(row.ids) <= context]
    if not data:
        why = f"none of {len(rows)} rows fits the context of {context} tokens" if rows else "there are 0 rows"
        raise EmptyTraining(f"nothing to train on: {why}; no trace passed the metric, or the prompts are too long")
    return data, len(encoded) - len(data)


def _with_adapter(model, init_adapter, rank, alpha, dropout, targets):
    from peft import LoraConfig, PeftModel, get_peft_model

    if init_adapter is not None:
        return PeftModel.from_pretrained(model, str(init_adapter), is_trainable=True, use_safetensors=True)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), bias="none", task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        names = ", ".join(targets)
        raise BtlibError(f"no layer is named {names}; targets must be names of linear layers") from error


def collate(rows: Sequence[Row], pad_id: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch (rows, longest) padded on the right; labels are -100 wherever the assistant did not write."""
    width = -(-max(len(row.ids) for row in rows) // 8) * 8
    batch = {"input_ids": pad_id, "attention_mask": 0, "labels": -100}
    tensors = {name: torch.full((len(rows), width), fill) for name, fill in batch.items()}
    for i, row in enumerate(rows):
        ids, n = torch.tensor(row.ids), len(row.ids)
        tensors["input_ids"][i, :n] = ids
        tensors["attention_mask"][i, :n] = 1
        tensors["labels"][i, :n] = torch.where(torch.tensor(row.target), ids, -100)
    return tensors


def _fit(model, data, device, epochs, learning_rate, batch_size, micro, bf16, seed, progress) -> list[float]:
    """Run Hugging Face's Trainer, quietly and without checkpoints; return the loss of each optimizer step."""
    from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if progress is not None:
                progress(state.global_step, state.max_steps)

    with tempfile.TemporaryDirectory(prefix="btlib-train-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=-(-batch_size // micro),
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            lr_scheduler_type="linear",
            bf16=bf16,
            use_cpu=device.type == "cpu",
            seed=seed,
            data_seed=seed,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=_Rows(data),
            data_collator=lambda items: collate([i["row"] for i in items]),
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(Watch())
        trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    if not all(np.isfinite(losses)):
        raise BtlibError("the training loss is not finite; lower the learning rate")
    return losses


class _Rows(torch.utils.data.Dataset):
    """Rows for the Trainer, whose sampler groups them by "input_ids" length."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"row": row, "input_ids": row.ids, "length": len(row.ids)}


def _save(model, tokenizer, out_dir: Path) -> None:
    """Write the adapter under a temporary name and rename it, so that a folder of that name is complete."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    scratch = out_dir.with_name(f".{out_dir.name}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        config = model.peft_config["default"]
        # The name of the base, not where it lay on this machine: an adapter is moved around with its run.
        config.base_model_name_or_path = Path(config.base_model_name_or_path or "").name
        config.target_modules = sorted(config.target_modules)
        model.save_pretrained(scratch, safe_serialization=True, save_embedding_layers=False)
        (scratch / "README.md").unlink(missing_ok=True)  # PEFT's template, with nothing filled in
        if out_dir.exists():
            shutil.rmtree(out_dir)
        os.replace(scratch, out_dir)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@contextmanager
def _own_random_state(seed: int):
    """Seed every generator that PEFT and the Trainer use, and put the caller's state back afterwards."""
    saved = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(saved[0])
            np.random.set_state(saved[1])
