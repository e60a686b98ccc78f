"""Where and with what a run was made: versions, machine, commit. Every run.json carries them, and `btlib doctor`
prints them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = tuple("btlib dspy torch transformers peft accelerate datasets tantivy papermill pandas".split())


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that can change a result; "missing" where one is not
    installed.
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def cores() -> int:
    """Return how many CPU cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float:
    """Return the machine's memory in GiB."""
    import psutil

    return psutil.virtual_memory().total / 2**30


def gpu() -> tuple[float, int] | None:
    """Return the first GPU's memory in GiB, and the bytes of a number that LMs compute with there: 2 where the GPU has
    bf16 (compute capability 8.0 on), else 4. None where nvidia-smi shows no GPU. Neither torch nor CUDA is started.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        mebibytes, capability = (float(part) for part in found[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return mebibytes / 1024, 2 if capability >= 8 else 4


def cpu_name() -> str:
    """Return the CPU's name, as far as the system tells it; on Linux with its family and model, since clouds give
    several kinds of CPU one name: "AMD EPYC (family 25, model 17)".
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    found = dict(reversed([tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line]))
    if "model name" not in found:
        return platform.processor() or platform.machine()
    kind = f" (family {found['cpu family']}, model {found['model']})" if {"cpu family", "model"} <= set(found) else ""
    return found["model name"] + kind


def machine() -> dict[str, object]:
    """Return system, CPU, usable cores, threads of torch, memory in GiB and the accelerator's name (None on a CPU);
    loads torch.
    """
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory_gib(), 1),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def commit() -> str | None:
    """Return the commit of the clone that btlib runs from, with + when files differ from it; None outside a clone."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
