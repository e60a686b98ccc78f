"""The same answers on another machine: a chain of runs in processes that are told to be other CPUs.

PyTorch and MKL choose their kernels by the CPU's instruction set and share work among threads, and each choice adds up
in another order. In fp32 the answers come out the same all the same, to the byte.
"""

import os
import platform
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
from dataclasses import replace
from btlib.presets import Split, load_preset
from btlib.runs import execute, make_spec

task, runs, size = sys.argv[1:]
preset = load_preset("smoke")
if size == "small":
    split = Split(train=12, dev=1, test=16, bootstrap=6, validation=6)
    preset = replace(load_preset("smoke", {"num_candidate_programs": 1, "epochs": 6}), splits={task: split})
for strategy in ("p -> w", "w"):  # and, as their prefixes, the vanilla program and "p"
    execute(make_spec(task, "pocket", strategy, 0, preset), runs)
"""
BTLIB = "as btlib sets them"
# What PyTorch's kernels, MKL and oneDNN are told to be. Nothing: what `import btlib` chooses, AVX2 everywhere.
KERNELS = {
    BTLIB: {},
    "AVX-512 as the CPU has it": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "AUTO"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
if platform.machine() not in ("x86_64", "AMD64"):
    KERNELS = {BTLIB: {}}
elif not getattr(torch.cpu, "_is_avx512_supported", lambda: False)():
    del KERNELS["AVX-512 as the CPU has it"]  # it would be killed at its first instruction


def chain(folder: Path, task: str, size: str, kernels: str, threads: int) -> subprocess.Popen:
    """Start the runs of a task in a process of its own."""
    names = {name for settings in KERNELS.values() for name in settings} | {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "BTLIB_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, task, str(folder / "runs"), size],
        env=env | KERNELS[kernels],
        stderr=subprocess.PIPE,
        text=True,
    )


def predictions(folder: Path, task: str, size: str, settings: list[tuple[str, int]]) -> list[dict[str, bytes]]:
    """Run the chain under each of the settings, all at the same time; return every strategy's predictions.jsonl."""
    places = [folder / str(number) for number in range(len(settings))]
    processes = [chain(place, task, size, *each) for place, each in zip(places, settings, strict=True)]
    errors = [process.communicate()[1] for process in processes]
    failed = [error for error, process in zip(errors, processes, strict=True) if process.returncode]
    assert not failed, failed[0][-3000:]
    files = [sorted((place / "runs").rglob("predictions.jsonl")) for place in places]
    return [{path.parent.name: path.read_bytes() for path in each} for each in files]


def different(found: list[dict[str, bytes]]) -> list[str]:
    """The strategies whose predictions are not the same bytes everywhere."""
    return [strategy for strategy in found[0] if len({each.get(strategy) for each in found}) > 1]


def test_predictions_are_the_same_bytes_on_other_kernels_and_threads(tmp_path):
    settings = [(BTLIB, 2), *((kernels, 1) for kernels in KERNELS if kernels != BTLIB)]
    found = predictions(tmp_path, "iris", "small", settings if len(settings) > 1 else [*settings, (BTLIB, 1)])
    assert set(found[0]) == {"vanilla", "p", "w", "p-w"}
    assert len(set(found[0].values())) == 4  # each step changes something: it is not four times the same
    assert all(text.count(b"\n") == 16 for text in found[0].values()) and different(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["iris", "gsm8k", "hotpotqa"])
def test_predictions_of_preset_smoke_are_the_same_bytes_on_all_kernels_and_threads(tmp_path, task):
    found = []
    for number, each in enumerate(product(KERNELS, (1, 2))):
        found += predictions(tmp_path / str(number), task, "smoke", [each])
    assert {"vanilla", "p", "p-w"} <= set(found[0]) and different(found) == []
