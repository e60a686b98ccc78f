"""`btlib doctor`: one line a check, to read, and to paste into a question; `btlib models`: the LMs that have a name."""

from __future__ import annotations

from collections.abc import Callable

from btlib.errors import BtlibError
from btlib.lm.known import KNOWN
from btlib.presets import PRESETS
from btlib.support import machine

NEEDED_GIB = 4.0


def doctor(say: Callable[[str], None] = print) -> int:
    """Run every check and print [OK] or [FAIL] with what was found and, for a failure, the fix; 1 when one failed."""
    failed = 0
    for name, check in CHECKS.items():
        try:
            found, good = check(), True
        except Exception as error:  # a broken package can raise anything at import; it is a finding, not a crash
            found, good = " ".join(f"{error}".split()) or type(error).__name__, False
        failed += not good
        say(f"[{'OK' if good else 'FAIL'}] {name}: {found}")
    say(f"{failed} checks failed" if failed else "all checks passed")
    return 1 if failed else 0


def models(say: Callable[[str], None] = print, tokens: int = 64 * 1024, row: int = 2048) -> int:
    """Print the known LMs with size, memory and licence, and what their chat templates do; 0.

    `tokens` are generated at once (64 requests of 1,024), `row` is the length of a training row, one at a time; LoRA
    as in the paper (rank 32, queries and keys).
    """
    say(f"{'name':<13} {'weights':>8} {'run':>9} {'LoRA':>9}  {'licence':<27} source")
    for entry in KNOWN:
        shape, source = entry.size, entry.repository or f"data/{entry.folder}"
        cells = ["–"] * 3
        if shape:
            memory = [shape.inference_bytes(tokens), shape.lora_bytes(row)]
            cells = [f"{shape.weights / 1e6:,.0f} M", *(f"{size / 2**30:.1f} GiB" for size in memory)]
        note = " (gated)" if entry.gated else "" if shape else " (not in this copy)"
        say(f"{entry.name:<13} {cells[0]:>8} {cells[1]:>9} {cells[2]:>9}  {entry.licence:<27} {source}{note}")
    say(f"\nrun: bf16 weights, and keys and values of {tokens:,} tokens (64 requests of 1,024).")
    say(f"LoRA: rank 32 on queries and keys, rows of {row:,} tokens one at a time, without gradient checkpointing;")
    say("btlib trains beside the weights that it generates with, so add those. Computed from shapes, not measured.")
    say("gated: accept its terms at https://huggingface.co/<source>, then run `hf auth login` or set HF_TOKEN.\n")
    say("Chat templates:")
    for entry in KNOWN:
        if entry.repository:
            say(f"{entry.name:<13} {entry.notes}")
    return 0


def _versions() -> str:
    found = machine.versions()
    missing = [name for name, version in found.items() if version == "missing"]
    if missing:
        raise BtlibError(f"not installed: {', '.join(missing)}; run `pip install -e .`")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _imports() -> str:
    import accelerate
    import dspy
    import papermill
    import peft
    import tantivy
    import torch
    import transformers

    return f"{len([accelerate, tantivy, dspy, papermill, peft, torch, transformers])} packages import"


def _data() -> str:
    from btlib.tasks import load_for, registry

    sizes = []
    for name, spec in registry().items():
        if "smoke" not in spec.splits:
            continue
        task = load_for(PRESETS["smoke"], name)
        sizes.append(f"{name} {len(task.train)}/{len(task.dev)}/{len(task.test)}")
    return ", ".join(sizes) + " (train/dev/test of preset smoke)"


def _paper() -> str:
    from btlib.results.paper import published_runs

    return f"{len(published_runs())} published cells"


def _pocket() -> str:
    from btlib.lm.checkpoint import find

    found = find("pocket")
    size = sum(path.stat().st_size for path in found.folder.glob("model*.safetensors"))
    return f"{size / 2**20:.1f} MiB of weights"


def _memory() -> str:
    gib = machine.memory_gib()
    if gib < NEEDED_GIB:
        raise BtlibError(f"{gib:.1f} GiB; {NEEDED_GIB:.0f} are needed, or run `btlib grid --workers 1`")
    return f"{gib:.1f} GiB"


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none; everything runs on the CPU"


CHECKS = {
    "versions": _versions,
    "imports": _imports,
    "data": _data,
    "published tables": _paper,
    "embedded LM": _pocket,
    "memory": _memory,
    "cores": lambda: f"{machine.cores()} usable, {machine.cpu_name()}",
    "accelerator": _accelerator,
}
