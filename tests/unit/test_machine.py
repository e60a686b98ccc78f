"""Other people's machines: GPUs that nvidia-smi half knows, containers with limits, terminals without Greek letters."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from btlib.__main__ import main
from btlib.support import machine
from btlib.support.machine import cores, gpu, memory_gib, peak_memory_gib
from btlib.support.paths import SHORT, at_home, short_name
from btlib.support.text import say_anywhere, typed

GIB = 2**30


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put a nvidia-smi on the path that prints a line, and a torch that sees a GPU of these bytes."""

    def put(line: str, torch_bytes: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\necho '{line}'\n")
        script.chmod(0o755)
        (tmp_path / "torch.py").write_text(
            "from types import SimpleNamespace as S\n"
            f"props = S(total_memory={torch_bytes})\n"
            f"cuda = S(is_available=lambda: {torch_bytes > 0}, get_device_properties=lambda n: props,\n"
            "         is_bf16_supported=lambda including_emulation: True)\n"
        )

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


@pytest.mark.parametrize(
    ("line", "torch_bytes", "found"),
    [
        ("81920, 8.0, Disabled", 0, (80.0, 2)),
        ("15360, 7.5, [N/A]", 0, (15.0, 4)),  # T4: no MIG, no bf16
        ("[N/A], 12.1, [N/A]", 120 * GIB, (120.0, 2)),  # GB10: memory shared with the CPU
        ("[Not Supported], [N/A], [N/A]", 30 * GIB, (30.0, 2)),
        ("[Insufficient Permissions], 8.0, Enabled", 10 * GIB, (10.0, 2)),
        ("81920, 8.0, Enabled", 10 * GIB, (10.0, 2)),  # a slice of an A100: nvidia-smi shows the whole
        ("81920, 8.0, Enabled", 0, None),  # all cut up, and no slice for this process
    ],
)
def test_a_gpu_is_seen_whatever_nvidia_smi_does_not_know(smi, line, torch_bytes, found):
    smi(line, torch_bytes)
    assert gpu() == found


def test_the_gpu_is_the_one_that_programs_may_use(smi, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    smi("81920, 8.0, Disabled")
    assert gpu() is None


@pytest.mark.parametrize(("device", "found"), [("", None), ("nvhost-gpu", (30.0, 2))])
def test_a_gpu_without_nvidia_smi_is_looked_for_where_there_is_a_device(tmp_path, monkeypatch, smi, device, found):
    smi("", 30 * GIB)
    (tmp_path / "nvidia-smi").unlink()
    (tmp_path / "nvhost-gpu").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_DEVICES", (str(tmp_path / device),) if device else ())
    assert gpu() == found


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """A folder for control groups on a machine of 16 cores and 64 GiB; `put(own, file=text)` writes them."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "self")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=64 * GIB))

    def put(own: str, files: dict[str, str]) -> tuple[int, float]:
        (tmp_path / "self").write_text(own)
        for name, text in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(f"{text}\n")
        return cores(), memory_gib()

    return put


V1 = "3:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n"
UNLIMITED = str(2**63 - 4096)
CASES = {
    "no limit": ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, (16, 64.0)),
    "version 2, in a container": ("0::/\n", {"cpu.max": "200000 100000", "memory.max": str(8 * GIB)}, (2, 8.0)),
    "version 2, of a queue": (
        "0::/user/job\n", {"user/cpu.max": "450000 100000", "user/job/cpu.max": "max 100000",
                           "user/job/memory.max": str(4 * GIB), "user/memory.max": str(6 * GIB)}, (4, 4.0)),
    "half a core": ("0::/\n", {"cpu.max": "50000 100000"}, (1, 64.0)),
    "version 1, in a container": (
        V1, {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": str(2 * GIB)}, (3, 2.0)),
    "version 1, on the host": (
        V1, {"cpu/docker/ab/cpu.cfs_quota_us": "600000", "cpu/docker/ab/cpu.cfs_period_us": "100000",
             "memory/docker/ab/memory.limit_in_bytes": str(3 * GIB)}, (6, 3.0)),
    "version 1, no limit": (
        V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": UNLIMITED}, (16, 64.0)),
    "damaged": ("what\n0::/\n", {"cpu.max": "", "memory.max": "some"}, (16, 64.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_containers_limits_count_not_its_hosts_cores_and_memory(limits, case):
    own, files, expected = CASES[case]
    assert limits(own, files) == expected


def test_the_peak_of_memory_is_in_gib_on_every_system(monkeypatch):
    here = peak_memory_gib()
    assert 0.02 < here < 100
    usage = SimpleNamespace(getrusage=lambda _: SimpleNamespace(ru_maxrss=3 * GIB), RUSAGE_SELF=0)
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory_gib() == 3.0
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows has no such module
    monkeypatch.setattr(sys, "platform", "win32")
    info = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=2 * GIB))
    monkeypatch.setattr("psutil.Process", lambda: info)
    assert peak_memory_gib() == 2.0


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "Π→Θ→Π – „é“ 首"),
        ("cp1252", "p->w->p – „é“ ?"),
        ("ascii", 'p->w->p - ?e" ?'),
    ],
)
def test_a_terminal_without_greek_letters_shows_strategies_as_they_are_typed(monkeypatch, encoding, printed):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    say_anywhere()
    print("Π→Θ→Π – „é“ 首", end="", flush=True)
    assert raw.getvalue().decode(encoding) == printed


def test_the_command_line_prints_a_dry_run_in_ascii(monkeypatch, tmp_path):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    grid = ["grid", "--preset", "smoke", "--tasks", "iris", "--dry-run", "--runs", str(tmp_path / "runs")]
    assert main([*grid, "--strategies", "p-w"]) == 0
    sys.stdout.flush()
    assert "p->w " in raw.getvalue().decode("ascii") and typed("Π") == "p"


def test_home_is_home_in_runs_and_no_folder_is_named_after_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("")
    assert main(["grid", "--preset", "smoke", "--tasks", "iris", "--runs=~/x", "--dry-run"]) == 2
    assert f"--runs {tmp_path / 'x'} is a file" in capsys.readouterr().err
    assert at_home("~/x") == tmp_path / "x" and at_home("a/~") == Path("a/~")
    assert main(["report", "--runs=~no-such-user/x"]) == 2
    error = capsys.readouterr().err
    assert "home folder that is not known" in error and error.count("\n") == 1


def test_a_long_temporary_folder_has_a_short_name_for_sockets_while_it_is_needed(tmp_path):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    (long / "file").write_text("here")
    with short_name(long) as short:
        assert len(str(short)) <= SHORT and (short / "file").read_text() == "here"
    assert not short.exists() and not short.parent.exists() and (long / "file").exists()
    with short_name(Path("/tmp")) as same:
        assert same == Path("/tmp")
