"""The grid: order, processes, failures, and what is left when it is stopped."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from run_fixtures import data_folder, run_notebook

from btlib.display import Display, dry_run, minutes
from btlib.grid import Job, default_workers, estimate, plan, run_grid
from btlib.notebook import last_error
from btlib.presets import PRESETS
from btlib.runs import RunSpec, read_run
from btlib.strategies import STRATEGIES

SMOKE = PRESETS["smoke"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BTLIB_DATA", str(data_folder(tmp_path / "data")))
    return run_notebook(tmp_path / "run.ipynb")


def test_every_run_comes_after_its_prefix_and_iris_first():
    specs = plan(SMOKE)
    assert len(specs) == 24 and [s.task for s in specs[:9]] == ["iris"] * 8 + ["gsm8k"]
    for i, spec in enumerate(specs):
        assert spec.prefix is None or spec.prefix in specs[:i]


def test_prefixes_that_were_not_asked_for_are_planned_too():
    specs = plan(SMOKE, ["gsm8k"], ["a", "b"], [("p", "w", "p")], [4])
    assert [s.name for s in specs if s.model == "a"] == ["", "p", "p -> w", "p -> w -> p"]
    assert {s.seed for s in specs} == {4} and len(specs) == 8


def test_estimates_follow_the_preset():
    sizes = {name: estimate(RunSpec("hotpotqa", "pocket", name, 0, "smoke")) for name in [(), ("p",), ("p", "w")]}
    # three modules; 24 test questions; BFRS: 12 to bootstrap, 5 candidates on 12; BFT: all 24
    assert sizes == {(): 72, ("p",): 3 * (24 + 12 + 60), ("p", "w"): 3 * (24 + 24)}
    text = dry_run(plan(SMOKE), set())
    assert text.splitlines()[0].startswith("24 runs") and "Π→Θ→Π" in text


def test_runs_fail_alone_and_take_along_only_what_starts_from_them(world, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "w")
    specs = plan(SMOKE, ["iris"], strategies=[("p",), ("w", "p")])
    text = io.StringIO()
    display = Display(specs, 2, Console(file=text, width=200))
    jobs = {job.spec.name: job for job in run_grid(specs, tmp_path / "runs", 2, display, world)}
    assert {name: job.state for name, job in jobs.items()} == {
        "": "done",
        "p": "done",
        "w": "failed",
        "w -> p": "skipped",
    }
    assert jobs["p"].score == 10 and jobs["p"].notebook.name == "notebook.ipynb"
    assert "ValueError: no luck with this one" in jobs["w"].error
    failed = jobs["w"].notebook
    assert failed.name == "w.failed.ipynb" and "no luck" in failed.read_text()
    assert sys.executable in jobs["p"].notebook.read_text()  # this interpreter's kernel, no other
    assert "w.failed.ipynb" in text.getvalue() and "starts from w, which failed" in text.getvalue()

    monkeypatch.delenv("FAIL")
    events = []
    again = run_grid(specs, tmp_path / "runs", 2, lambda event, job: events.append(event), world)
    assert [job.state for job in again] == ["stored", "stored", "done", "done"]
    assert events.count("start") == 2 and not failed.exists()


GRID = """
import sys
from pathlib import Path
import btlib.command, btlib.grid
from btlib.__main__ import main
whole = btlib.grid.run_grid
btlib.grid.run_grid = lambda specs, runs, workers, watch: whole(specs, runs, workers, watch, Path(sys.argv[1]))
btlib.command.check_inputs = lambda *a: set()
sys.exit(main(["grid", "--preset", "smoke", "--tasks", "iris", "--strategies", "p", "--runs", sys.argv[2]]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_grid_that_is_stopped_leaves_no_process_and_no_half_run(world, tmp_path, sent):
    runs = tmp_path / "runs"
    env = os.environ | {"SLEEP": "60"}
    grid = subprocess.Popen([sys.executable, "-c", GRID, str(world), str(runs)], env=env, stderr=subprocess.PIPE)
    kernel = wait_for(lambda: next((int(p.read_text() or 0) for p in runs.rglob("*.pid")), 0))
    below = psutil.Process(grid.pid).children(recursive=True)
    assert kernel in {p.pid for p in below}
    scratch = psutil.Process(kernel).environ()["JUPYTER_PATH"]
    grid.send_signal(sent)
    code = grid.wait(20)
    assert code == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    gone, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
    shutil.rmtree(scratch, ignore_errors=True)  # SIGKILL leaves no one to do it
    assert not list(runs.rglob("run.json")) and not list(runs.rglob("*.tmp"))
    if sent == signal.SIGINT:
        assert b"complete runs are kept" in grid.stderr.read() and not list(runs.rglob("*.ipynb"))


def wait_for(condition, seconds: float = 40):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def test_a_stored_run_without_a_notebook_gets_one(world, tmp_path):
    specs = [RunSpec("iris", "pocket", (), 0, "smoke")]
    run_grid(specs, tmp_path, 1, lambda *_: None, world)
    notebook = read_run(specs[0], tmp_path).folder / "notebook.ipynb"
    notebook.unlink()
    assert run_grid(specs, tmp_path, 1, lambda *_: None, world)[0].state == "done" and notebook.exists()


def test_the_reason_of_a_dead_process_is_its_last_line_or_its_signal(tmp_path):
    log = tmp_path / "log"
    log.write_text('noise\n{"error": "ValueError: x", "cell": 3}\n')
    assert last_error(log, 1) == "ValueError: x (cell 3)"
    log.write_text("Killed by the system\n")
    assert last_error(log, -9) == "the notebook's process ended with SIGKILL: Killed by the system"


def test_the_display_counts_and_guesses_the_time_left():
    specs = plan(SMOKE, ["iris"])
    display = Display(specs, 2, Console(file=io.StringIO(), force_terminal=True, width=120))
    jobs = [Job(spec) for spec in specs]
    assert "unknown" in display.left()
    jobs[0].state, jobs[0].score, jobs[0].status = "done", 12.34, "ok"
    display("done", jobs[0])
    jobs[1].state, jobs[1].error = "failed", "boom"
    display("failed", jobs[1])
    drawn = Console(file=io.StringIO(), width=120)
    drawn.print(display.table())
    text = drawn.file.getvalue()
    assert "12.3" in text and "failed" in text and "2 of 8 runs" in text and "left" in text
    assert minutes(65) == "1:05" and minutes(3725) == "1:02:05"


def test_workers_follow_cores_memory_and_runs(monkeypatch):
    monkeypatch.setattr("btlib.machine.cores", lambda: 16)
    monkeypatch.setattr("btlib.machine.memory_gib", lambda: 8.0)
    expected = 2 if Path("/dev/nvidia0").exists() else 5
    assert default_workers(100) == expected and default_workers(1) == 1


def test_strategies_are_closed_under_prefixes_which_the_order_relies_on():
    assert all(steps[:-1] in STRATEGIES[: STRATEGIES.index(steps) + 1] for steps in STRATEGIES)
