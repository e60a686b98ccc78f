"""Checkpoints of pre-training (weights, optimizers, counters in one safetensors file) and the finished LM's folder."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_checkpoint(folder: Path, model, optims: list, state: dict) -> None:
    """Write weights, optimizer state and counters to one safetensors file, by a temporary name."""
    names = {id(p): n for n, p in model.named_parameters()}
    tensors = {f"weight/{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for optim in optims:
        for p, values in optim.state.items():
            tensors |= {f"optim/{k}/{names[id(p)]}": v.contiguous() for k, v in values.items()}
    save_file(tensors, folder / "checkpoint.tmp", metadata={"state": json.dumps(state)})
    os.replace(folder / "checkpoint.tmp", folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, model, optims: list) -> dict:
    """Load what save_checkpoint wrote into the model and its optimizers; returns the counters."""
    params = dict(model.named_parameters())
    home = {n: o for o in optims for g in o.param_groups for n, p in params.items() if any(p is q for q in g["params"])}
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118
            kind, _, rest = key.partition("/")
            if kind == "weight":
                params[rest].data.copy_(file.get_tensor(key))
            else:
                entry, _, name = rest.partition("/")
                home[name].state[params[name]][entry] = file.get_tensor(key)
        return json.loads(file.metadata()["state"])


def export(model, tokenizer, folder: Path) -> None:
    """Write the LM in the Hugging Face format, weights in bf16, by a temporary folder."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.generation_config.eos_token_id, half.generation_config.pad_token_id = (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    half.generation_config.bos_token_id = None
    half.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
