"""`btlib doctor`: one line a check, to read, and to paste into a question."""

from __future__ import annotations

from collections.abc import Callable

from btlib import machine
from btlib.errors import BtlibError
from btlib.presets import PRESETS, TASKS

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


def _versions() -> str:
    found = machine.versions()
    missing = [name for name, version in found.items() if version == "missing"]
    if missing:
        raise BtlibError(f"not installed: {', '.join(missing)}; run `pip install -e .`")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _imports() -> str:
    import accelerate
    import bm25s
    import dspy
    import papermill
    import peft
    import torch
    import transformers

    return f"{len([accelerate, bm25s, dspy, papermill, peft, torch, transformers])} packages import"


def _data() -> str:
    from btlib.tasks import load_task

    sizes = []
    for name in TASKS:
        task = load_task(name, split=PRESETS["smoke"].split(name))
        sizes.append(f"{name} {len(task.train)}/{len(task.dev)}/{len(task.test)}")
    return ", ".join(sizes) + " (train/dev/test of preset smoke)"


def _paper() -> str:
    from btlib.paper import published_runs

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
