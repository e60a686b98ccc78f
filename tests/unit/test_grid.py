"""The grid: order, processes, failures, and what is left when it is stopped."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from rich.console import Console
from run_fixtures import Ended, Notebooks, run_notebook

from btlib.grid import kernels
from btlib.grid.display import Display, dry_run, minutes
from btlib.grid.estimate import ASSUMED, Throughput, cost, estimate, total
from btlib.grid.kernels import last_error, start_notebook
from btlib.grid.plan import Job, default_workers, plan
from btlib.grid.run import run_grid
from btlib.lm.known import known
from btlib.presets import PRESETS
from btlib.runs import RunSpec, read_run
from btlib.tasks import find_task, registry

SMOKE = PRESETS["smoke"]
IRIS = plan(SMOKE, ["iris"], strategies=[("p",), ("w", "p")])


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
    sizes = {name: estimate(RunSpec("hotpotqa", "pocket", name, 0, SMOKE)) for name in [(), ("p",), ("p", "w")]}
    # three modules; 24 test questions; BFRS: 12 to bootstrap, 5 candidates on 12; BFT: all 24
    assert sizes == {(): 72, ("p",): 3 * (24 + 12 + 60), ("p", "w"): 3 * (24 + 24)}
    text = dry_run(plan(SMOKE), set())
    assert text.splitlines()[0].startswith("24 runs") and "Π→Θ→Π" in text and "A100" not in text


def test_gpu_hours_follow_from_tokens_weights_and_throughput():
    spec = RunSpec("gsm8k", "Qwen/Qwen3-0.6B", ("p", "w"), 0, SMOKE)
    (call,) = find_task("gsm8k").calls
    preset, weights = PRESETS["smoke"], known("qwen3-0.6b").shape.weights
    own, demos = call.turn + call.inputs, preset.max_labeled_demos * call.demo
    found = cost(spec)
    # bootstrapping on 24 with demonstrations, testing on 24 without; what prompts share is read once each
    assert found.tokens_in == 24 * (call.system + demos + own) + 24 * (call.system + own)
    assert found.tokens_out == 48 * call.outputs
    assert found.generated == 2 * weights * ((call.system + demos) + call.system + 48 * own + found.tokens_out)
    assert found.trained_tokens == 24 * preset.epochs * (call.system + own + call.outputs)  # in all epochs
    assert found.trained == 4 * weights * found.trained_tokens and not preset.gradient_checkpointing
    hours = found.hours(Throughput("x", 1e12, 2e12, "a test"))
    assert hours == pytest.approx((found.generated / 1e12 + found.trained / 2e12) / 3600)
    assert cost(RunSpec("gsm8k", "openai/some", (), 0, SMOKE)).hours(ASSUMED["paper"]) is None


@pytest.mark.parametrize("task", registry())
def test_the_frames_of_estimated_prompts_are_those_of_the_programs(task):
    from btlib.lm import ForgivingChatAdapter

    spec = find_task(task)
    program = spec.program(None) if spec.searches else spec.program()
    for call, predictor in zip(spec.calls, program.predictors(), strict=True):
        inputs = dict.fromkeys(predictor.signature.input_fields, "")
        demo = inputs | dict.fromkeys(predictor.signature.output_fields, "")
        messages = ForgivingChatAdapter().format(predictor.signature, [demo], inputs)
        sizes = [len(message["content"]) / 4 for message in messages]  # about four characters a token
        stored = (call.system, call.demo_frame, call.turn)
        assert (sizes[0], sizes[1] + sizes[2], sizes[3]) == pytest.approx(stored, rel=0.25)


def test_the_papers_grid_is_216_runs_in_prefix_order_with_hours_that_say_what_they_rest_on():
    specs = plan(PRESETS["paper"])
    assert len(specs) == 216
    for i, spec in enumerate(specs):
        assert spec.prefix is None or spec.prefix in specs[:i]
    text = dry_run(specs, set())
    lines = text.splitlines()
    assert lines[0].startswith("216 runs") and "Estimates, not measurements" in lines[0] and "A100 h" in lines[1]
    assert f"{total(specs).hours(ASSUMED['paper']):.2f}" in lines[218] and "assumed, not measured" in text
    assert "about 75 A100 hours" in text and "bench_gpu.py" in text
    assert "complete" in dry_run(specs[:8], {specs[0]}).splitlines()[2]


def test_a_dry_run_of_the_papers_grid_needs_no_network_and_writes_nothing(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    from btlib.__main__ import main

    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # whoever calls it fails
    for models in ([], ["--models", "mistral-7b", "llama-2-7b", "llama-3-8b"]):  # short names are the same LMs
        assert main(["grid", "--preset", "paper", "--dry-run", "--runs", str(tmp_path / "out"), *models]) == 0
        out = capsys.readouterr().out
        assert out.startswith("216 runs, 0 complete") and "meta-llama/Llama-2-7b-chat-hf, seed 2" in out
    assert not (tmp_path / "out").exists()


def test_runs_fail_alone_and_take_along_only_what_starts_from_them(data, tmp_path, monkeypatch):
    notebooks = Notebooks(fail=["w"])
    monkeypatch.setattr("btlib.grid.run.start_notebook", notebooks)
    text = io.StringIO()
    display = Display(IRIS, 2, Console(file=text, width=200))
    jobs = {job.spec.name: job for job in run_grid(IRIS, tmp_path, 2, display, tmp_path / "any.ipynb")}
    states = {name: job.state for name, job in jobs.items()}
    assert states == {"": "done", "p": "done", "w": "failed", "w -> p": "skipped"}
    assert jobs["p"].score == 10 and jobs["p"].notebook.name == "notebook.ipynb"
    assert jobs["w"].error == "ValueError: no luck with this one (cell 3)"
    failed = jobs["w"].notebook
    assert failed.name == "w.failed.ipynb" and failed.exists()
    assert "w.failed.ipynb" in text.getvalue() and "starts from w, which failed" in text.getvalue()

    notebooks.fail.clear()
    read_run(IRIS[0], tmp_path).folder.joinpath("notebook.ipynb").unlink()  # as of a run that was made by hand
    events = []
    again = run_grid(IRIS, tmp_path, 2, lambda event, job: events.append(event), tmp_path / "any.ipynb")
    assert {job.spec.name: job.state for job in again} == {"": "done", "p": "stored", "w": "done", "w -> p": "done"}
    assert events.count("start") == 3 and not failed.exists()
    assert read_run(IRIS[0], tmp_path).folder.joinpath("notebook.ipynb").exists()
    assert [spec.name for spec in notebooks.specs] == ["", "p", "w", "", "w", "w -> p"]


@pytest.mark.parametrize(("cores", "workers", "share"), [(16, 1, 16), (16, 3, 5), (2, 4, 1)])
def test_a_worker_gets_its_share_of_the_cores(data, tmp_path, monkeypatch, cores, workers, share):
    notebooks = Notebooks()
    monkeypatch.setattr("btlib.grid.run.start_notebook", notebooks)
    monkeypatch.setattr("btlib.support.machine.cores", lambda: cores)
    run_grid(IRIS[:2], tmp_path, workers, lambda *_: None, tmp_path / "any.ipynb")
    assert notebooks.threads == [share, share]


@pytest.mark.parametrize(("own", "found"), [(None, "5"), ("2", "2")])
def test_the_users_number_of_threads_comes_first(tmp_path, monkeypatch, own, found):
    started = []
    monkeypatch.setattr(kernels.subprocess, "Popen", lambda *_, **how: started.append(how["env"]) or Ended(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    start_notebook(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {}, tmp_path, tmp_path, threads=5)
    assert started[0]["OMP_NUM_THREADS"] == found
    mine = {name for name in started[0] if name.startswith("BTLIB_")} - set(os.environ)
    assert mine == {"BTLIB_PROGRESS"}  # all that a run is to know stands in its parameters


def test_a_notebook_runs_in_this_interpreters_kernel_with_folders_of_its_own(data, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "w")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("btlib.support.machine.cores", lambda: 6)
    specs = plan(SMOKE, ["iris"], strategies=[("w",)])
    notebook = run_notebook(tmp_path / "run.ipynb", specs)
    done, failed = run_grid(specs, tmp_path / "runs", 2, lambda *_: None, notebook)
    assert (done.state, done.score, failed.state) == ("done", 0, "failed")  # the lesson, 1 / 0, was left out
    (said,) = nbformat.read(done.notebook, 4).cells[-1].outputs
    interpreter, temporary, threads = json.loads(said.text)
    assert interpreter == sys.executable and threads == "3"
    assert Path(temporary).parent == done.scratch and not done.scratch.exists()
    assert failed.error == "ValueError: no luck with this one (cell 3)" and "no luck" in failed.notebook.read_text()


GRID = """
import sys
from pathlib import Path
import btlib.grid.command, btlib.grid.run
from btlib.__main__ import main
whole = btlib.grid.run.run_grid
btlib.grid.run.run_grid = lambda specs, runs, workers, watch: whole(specs, runs, workers, watch, Path(sys.argv[1]))
btlib.grid.command.check_inputs = lambda *a, **k: set()
btlib.grid.command.first_look = lambda *a: ""
sys.exit(main(["grid", "--preset", "smoke", "--tasks", "iris", "--strategies", "p", "--runs", sys.argv[2]]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_grid_that_is_stopped_leaves_no_process_and_no_half_run(data, tmp_path, sent):
    runs, notebook = tmp_path / "runs", run_notebook(tmp_path / "run.ipynb")
    env = os.environ | {"SLEEP": "60"}
    grid = subprocess.Popen(
        [sys.executable, "-c", GRID, str(notebook), str(runs)],
        env=env,
        stderr=subprocess.PIPE,
        # A shell's background jobs ignore SIGINT, and pass that on to all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    kernel = wait_for(lambda: next((int(p.read_text() or 0) for p in runs.rglob("*.pid")), 0))
    below = psutil.Process(grid.pid).children(recursive=True)
    assert kernel in {p.pid for p in below}
    scratch = psutil.Process(kernel).environ()["JUPYTER_PATH"]
    grid.send_signal(sent)
    code = grid.wait(600)
    assert code == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    gone, alive = psutil.wait_procs(below, timeout=120)
    assert not alive
    shutil.rmtree(scratch, ignore_errors=True)  # SIGKILL leaves no one to do it
    assert not list(runs.rglob("run.json")) and not list(runs.rglob("*.tmp"))
    if sent == signal.SIGINT:
        assert b"complete runs are kept" in grid.stderr.read() and not list(runs.rglob("*.ipynb"))


def wait_for(condition, seconds: float = 600):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


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


def test_a_strategy_that_is_not_the_papers_has_its_row_in_the_display():
    specs = plan(SMOKE, ["iris", "gsm8k"], strategies=[tuple("wpw")])
    display = Display(specs, 1, Console(file=io.StringIO(), width=120))
    for spec in specs:
        job = Job(spec)
        job.state, job.score, job.status = "done", 10.0 * len(spec.strategy), "ok"
        display("done", job)
    drawn = Console(file=io.StringIO(), width=120)
    drawn.print(display.table())
    rows = [line.split("│")[1:4] for line in drawn.file.getvalue().splitlines() if line.startswith("│")]
    assert [[part.strip() for part in row] for row in rows] == [
        ["Vanilla Zero-shot", "0.0", "0.0"],
        ["Θ", "10.0", "10.0"],
        ["Θ→Π", "20.0", "20.0"],
        ["Θ→Π→Θ", "30.0", "30.0"],
    ]
    assert "Θ→Π→Θ" in dry_run(specs, set()) and display.left() == "all done"


def test_workers_follow_cores_memory_and_runs(monkeypatch):
    monkeypatch.setattr("btlib.support.machine.cores", lambda: 16)
    monkeypatch.setattr("btlib.support.machine.memory_gib", lambda: 8.0)
    monkeypatch.setattr("btlib.support.machine.gpu", lambda: None)
    specs = plan(PRESETS["laptop"])
    assert default_workers(specs) == 5 and default_workers(specs[:1]) == 1


def test_workers_share_a_gpu_as_far_as_its_memory_goes(monkeypatch):
    monkeypatch.setattr("btlib.support.machine.memory_gib", lambda: 200.0)
    colab, paper = plan(PRESETS["colab"]), plan(PRESETS["paper"])
    for card, expected in [((15.0, 4), (1, 1)), ((24.0, 2), (2, 1)), ((141.0, 2), (2, 2))]:
        monkeypatch.setattr("btlib.support.machine.gpu", lambda card=card: card)
        assert (default_workers(colab), default_workers(paper)) == expected
