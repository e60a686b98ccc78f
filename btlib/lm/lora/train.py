"""Fine-tune with LoRA on chat rows, and the DSPy provider that does so (section 3 of the paper;
notebooks/04_bft_lora).

PEFT makes the adapter and Hugging Face's Trainer runs the loop (btlib.lm.lora.trainer), over packed rows
(btlib.lm.lora.packing).
Only what the assistant wrote is a target. Training works on a copy of the base weights loaded from the checkpoint's
folder, so an engine that answers meanwhile is not touched.
"""

from __future__ import annotations

import os
import random
import shutil
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
from btlib.lm.checkpoint import dtype_of
from btlib.lm.engine.engine import Engine, best_device
from btlib.lm.quiet import without_bars
from btlib.support.environment import one_process

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class EmptyTraining(BtlibError, ValueError):
    """There is no row to train on."""


@dataclass(frozen=True)
class TrainReport:
    """What a fine-tuning did. Losses are means per target token, one an optimizer step; `final_loss` is the last
    epoch's mean.

    `tokens` and `target_tokens` are those of the rows, `computed_tokens` went through the LM over all epochs: fewer
    than `tokens` an epoch, since shared beginnings are computed once a micro-batch. `micro_batch_size` is the last
    one; it is smaller than asked for where memory was full.
    """

    rows: int
    skipped: int
    tokens: int
    target_tokens: int
    computed_tokens: int
    micro_batch_size: int
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
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    seed: int = 0,
    init_adapter: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train a LoRA adapter on rows of {"messages": [...]} and write it to `out_dir` (safetensors), whole or not at all.

    The defaults are the paper's (appendix C), but for `dtype`: "auto" computes in bf16 where the hardware multiplies it
    natively, "bfloat16" and "float32" say which. `batch_size` rows make an optimizer step, in micro-batches of
    `micro_batch_size` (None: all at once); where memory is full the micro-batch is halved and training goes on, with
    the same batches. `gradient_checkpointing` computes activations twice instead of keeping them. `init_adapter` is
    trained on from, with its own rank, alpha and targets. `progress(step, steps)` is called after each step. Rows
    longer than the model's context are skipped and counted. Raises EmptyTraining where no row is left, BtlibError where
    not even one row fits in memory. It trains in this process alone, whatever a launcher's variables say.
    """
    from transformers import AutoModelForCausalLM

    from btlib.lm.lora.packing import NAME
    from btlib.lm.lora.trainer import fit, out_of_memory

    start = time.perf_counter()
    folder = base.checkpoint.folder if isinstance(base, Engine) else Path(base)
    device = base.device if isinstance(base, Engine) else best_device("auto")
    chat = base.chat if isinstance(base, Engine) else _chat(folder)
    # The frozen weights are read only: in bf16 they take half the memory. PEFT keeps the adapter in fp32.
    weights = dtype_of(dtype, device)
    with without_bars(), one_process(), _own_random_state(seed):
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=weights, attn_implementation=NAME
        )
        data, skipped = _data(chat, rows, model.config.get_text_config().max_position_embeddings)
        model = _with_adapter(model, init_adapter, rank, alpha, dropout, targets)
        try:
            trained = fit(
                model,
                data,
                device=device,
                epochs=epochs,
                learning_rate=learning_rate,
                batch_size=batch_size,
                micro_batch_size=min(micro_batch_size or batch_size, batch_size),
                bf16=weights == torch.bfloat16,
                gradient_checkpointing=gradient_checkpointing,
                shared=model.peft_config["default"].lora_dropout == 0,  # each row draws its own dropout
                seed=seed,
                progress=progress,
            )
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise BtlibError(f"the weights of {folder.name} do not fit in {device.type} memory to be tuned") from error
        _save(model, chat.tokenizer, Path(out_dir))
    losses = trained.losses
    last_epoch = losses[-max(1, round(len(losses) / max(epochs, 1))) :]
    return TrainReport(
        rows=len(data),
        skipped=skipped,
        tokens=sum(len(row.ids) for row in data),
        target_tokens=sum(sum(row.target) for row in data),
        computed_tokens=trained.computed_tokens,
        micro_batch_size=trained.micro_batch_size,
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
    data = [row for row in encoded if any(row.target[1:]) and len(row.ids) <= context]
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
