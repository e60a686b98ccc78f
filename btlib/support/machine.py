"""Where and with what a run was made: versions, machine, commit. Every run.json carries them, and `btlib doctor`
prints them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
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


# What containers and queues limit, as Linux shows it: control groups, version 2 and 1.
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """Return how many CPU cores this process may use: in a container or a queue fewer than the machine has.

    A limit of 2.5 cores counts as 2, and one below 1 as 1.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [_numbers(folder / "cpu.max") for folder in _cgroups("")]
    for folder in _cgroups("cpu"):
        shares.append(_numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us"))
    limits = [share[0] / share[1] for share in shares if len(share) == 2 and min(share) > 0]
    return max(1, int(min([own, *limits])))


def memory_gib() -> float:
    """Return the memory in GiB that this process may use: the machine's, or a container's limit."""
    import psutil

    files = [folder / "memory.max" for folder in _cgroups("")]
    files += [folder / "memory.limit_in_bytes" for folder in _cgroups("memory")]
    limits = [limit for file in files for limit in _numbers(file) if limit > 0]
    return min([psutil.virtual_memory().total, *limits]) / 2**30


def _cgroups(controller: str) -> Iterator[Path]:
    """Yield the folders with this process's limits: its group's, and those around it. "" stands for version 2.

    A container may see its own group at the top, under the path that the host knows: so the top is always among them.
    """
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        names, _, path = line.partition(":")[2].partition(":")
        if controller in names.split(","):
            for top in (CGROUPS / names, CGROUPS / controller) if controller else (CGROUPS, CGROUPS / "unified"):
                place = top / path.strip("/")
                yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(top))


def _numbers(file: Path) -> list[float]:
    """Return the numbers of a small file; none where it is missing, or says "max"."""
    try:
        return [float(word) for word in file.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []


def gpu() -> tuple[float, int] | None:
    """Return the first GPU's memory in GiB, and the bytes of a number that LMs compute with there: 2 where the GPU has
    bf16 (compute capability 8.0 on), else 4. None where there is no GPU.

    nvidia-smi says so at once. Where it does not know (memory shared with the CPU, as on GB10 and Jetson), or where
    programs see another GPU than it shows (a slice, by MIG, or CUDA_VISIBLE_DEVICES), torch is asked, in a process of
    its own: neither torch nor CUDA is started here.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total,compute_cap,mig.mode.current", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return _torch_gpu() if any(Path(device).exists() for device in _DEVICES) else None
    if not found:
        return None
    memory, capability, sliced = ([part.strip() for part in found[0].split(",")] + [""] * 3)[:3]
    try:
        known = float(memory) / 1024, 2 if float(capability) >= 8 else 4
    except ValueError:
        return _torch_gpu()
    return _torch_gpu() if sliced == "Enabled" or "CUDA_VISIBLE_DEVICES" in os.environ else known


_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd")  # NVIDIA, Jetson, AMD: a GPU without a nvidia-smi
_ASK_TORCH = """
import torch
if torch.cuda.is_available():
    found = torch.cuda.get_device_properties(0)
    print(found.total_memory / 2**30, 2 if torch.cuda.is_bf16_supported(including_emulation=False) else 4)
"""


def _torch_gpu() -> tuple[float, int] | None:
    try:
        ask = [sys.executable, "-c", _ASK_TORCH]
        run = subprocess.run(ask, capture_output=True, text=True, timeout=120, check=True)
        gib, size = run.stdout.split()
        return float(gib), int(size)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def peak_memory_gib() -> float:
    """Return the most memory that this process has had so far, in GiB; each system counts it its own way."""
    if sys.platform.startswith("linux"):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20  # in KiB
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # macOS counts bytes


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
