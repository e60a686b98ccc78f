"""Hugging Face's Trainer over packed rows, which answers a full memory with smaller micro-batches
(notebooks/04_bft_lora).

The Trainer sees one whole (effective) batch a step and never accumulates gradients itself. A step takes the batch's
rows apart into micro-batches, and each adds its share of the batch's mean loss to the gradients. So a micro-batch that
does not fit can be taken back and done again in halves: the step comes out the same, up to rounding, and training goes
on from where it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from btlib.errors import BtlibError
from btlib.lm.chat import Row
from btlib.lm.lora.packing import Pack

_FULL = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory is full, by type (CUDA) or by its text (CPU, MPS)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _FULL)


class PackTrainer(Trainer):
    """A Trainer whose batches are lists of rows; `losses` has each step's mean loss per target token."""

    def __init__(self, *args, micro_batch_size: int, shared: bool, **kwargs):
        super().__init__(*args, data_collator=lambda rows: {"rows": rows}, **kwargs)
        self.micro_batch_size, self.shared = micro_batch_size, shared
        self.losses: list[float] = []
        self.computed_tokens = 0

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        """Do one batch's forward and backward passes, and return its loss."""
        model.train()
        rows: Sequence[Row] = inputs["rows"]
        targets = sum(sum(row.target[1:]) for row in rows)
        loss, done = torch.zeros((), device=self.args.device), 0
        while done < len(rows):
            part = rows[done : done + self.micro_batch_size]
            added = self._micro_step(model, part, targets)
            if added is None:
                self._halve(part)
            else:
                loss += added
                done += len(part)
        self.losses.append(loss.item())
        return loss

    def _micro_step(self, model, rows: Sequence[Row], targets: int) -> torch.Tensor | None:
        """Add a micro-batch's gradients; None, with the gradients as they were, when memory is full."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        try:
            pack = Pack(rows, self.args.device, self.shared)
            with self.compute_loss_context_manager():
                loss = pack.loss(model) / targets
            gradients = torch.autograd.grad(loss, parameters)
        except Exception as error:
            if not out_of_memory(error):
                raise
            gradients = loss = pack = None
        if gradients is None:  # the error, and with it the activations that its frames hold, are gone here
            return None
        self.computed_tokens += len(pack)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return loss.detach()

    def _halve(self, rows: Sequence[Row]) -> None:
        clear_device_cache(garbage_collection=True)
        if len(rows) == 1:
            raise BtlibError(
                f"training ran out of memory with one row of {len(rows[0].ids)} tokens at a time; "
                "turn gradient_checkpointing on, or use shorter prompts, a lower rank or a smaller LM"
            )
        self.micro_batch_size = len(rows) // 2


class _Rows(torch.utils.data.Dataset):
    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class _Progress(TrainerCallback):
    def __init__(self, tell: Callable[[int, int], None]):
        self.tell = tell

    def on_step_end(self, args, state, control, **kwargs):
        self.tell(state.global_step, state.max_steps)


def fit(
    model,
    rows: Sequence[Row],
    *,
    device: torch.device,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    micro_batch_size: int,
    bf16: bool,
    gradient_checkpointing: bool,
    shared: bool,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> PackTrainer:
    """Train a PEFT model whose attention is btlib.lm.lora.packing.NAME; return the trainer, for what it measured.

    AdamW without weight decay, a learning rate that falls linearly to 0, gradients clipped at norm 1, batches drawn
    at random: the Trainer's defaults. `bf16` computes in bf16 (autocast). No checkpoints are written.
    """
    checkpointing: dict[str, Any] = {}
    if gradient_checkpointing:
        checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    with tempfile.TemporaryDirectory(prefix="btlib-train-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=batch_size,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            bf16=bf16,
            **checkpointing,
            use_cpu=device.type == "cpu",
            seed=seed,
            data_seed=seed,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # with several GPUs the Trainer would multiply the batch size
        trainer = PackTrainer(
            model=model,
            args=arguments,
            train_dataset=_Rows(rows),
            micro_batch_size=micro_batch_size,
            shared=shared,
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        if progress is not None:
            trainer.add_callback(_Progress(progress))
        trainer.train()
    if not np.isfinite(trainer.losses).all():
        raise BtlibError("the training loss is not finite; lower the learning rate")
    return trainer
