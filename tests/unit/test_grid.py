"""The grid: order, processes, failures, and what is left when it is stopped."""

from __future__ import annotations

import io
import os
import re
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
from run_fixtures import data_folder, run_notebook

from btlib.grid.display import Display, dry_run, minutes
from btlib.grid.estimate import ASSUMED, CALLS, Throughput, cost, estimate, total
from btlib.grid.run import run_grid
from btlib.grid.plan import Job, default_workers, plan
from btlib.lm.known import known
from btlib.grid.kernels import kernel_folder, last_error, start_notebook, stop_notebook
from btlib.presets import PRESETS
from btlib.runs.run import RunSpec, read_run
from btlib.steps.strategies import STRATEGIES

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
    assert text.splitlines()[0].startswith("24 runs") and "Π→Θ→Π" in text and "A100" not in text


def test_gpu_hours_follow_from_tokens_weights_and_throughput():
    spec = RunSpec("gsm8k", "Qwen/Qwen3-0.6B", ("p", "w"), 0, "smoke")
    (call,) = CALLS["gsm8k"]
    preset, weights = PRESETS["smoke"], known("qwen3-0.6b").shape.weights
    own, demos = call.turn + call.inputs, preset.max_labeled_demos * call.demo
    found = cost(spec)
    # bootstrapping on 24 with demonstrations, testing on 24 without; what prompts share is read once each
    assert found.tokens_in == 24 * (call.system + demos + own) + 24 * (call.system + own)
    assert found.tokens_out == 48 * call.outputs
    assert found.generated == 2 * weights * ((call.system + demos) + call.system + 48 * own + found.tokens_out)
    assert found.training_tokens == 24 * preset.epochs * (call.system + own + call.outputs)
    assert found.trained in (4 * weights * found.training_tokens, 6 * weights * found.training_tokens)
    hours = found.hours(Throughput("x", 1e12, 2e12, "a test"))
    assert hours == pytest.approx((found.generated / 1e12 + found.trained / 2e12) / 3600)
    assert cost(RunSpec("gsm8k", "openai/some", (), 0, "smoke")).hours(ASSUMED["paper"]) is None


def test_the_frames_of_estimated_prompts_are_those_of_the_programs():
    from btlib.lm.adapter import ForgivingChatAdapter
    from btlib.tasks import gsm8k, hotpotqa, iris

    programs = {"iris": iris.program(), "gsm8k": gsm8k.program(), "hotpotqa": hotpotqa.program(None)}
    for task, program in programs.items():
        for call, predictor in zip(CALLS[task], program.predictors(), strict=True):
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
import btlib.grid.command, btlib.grid
from btlib.__main__ import main
whole = btlib.grid.run_grid
btlib.grid.run_grid = lambda specs, runs, workers, watch: whole(specs, runs, workers, watch, Path(sys.argv[1]))
btlib.grid.command.check_inputs = lambda *a, **k: set()
sys.exit(main(["grid", "--preset", "smoke", "--tasks", "iris", "--strategies", "p", "--runs", sys.argv[2]]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_grid_that_is_stopped_leaves_no_process_and_no_half_run(world, tmp_path, sent):
    runs = tmp_path / "runs"
    env = os.environ | {"SLEEP": "60"}
    grid = subprocess.Popen(
        [sys.executable, "-c", GRID, str(world), str(runs)],
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
    code = grid.wait(60)
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


def test_what_a_notebook_leaves_in_temporary_folders_goes_with_its_scratch_folder(tmp_path):
    source, scratch = run_notebook(tmp_path / "run.ipynb"), tmp_path / "scratch"
    scratch.mkdir()
    notebook = nbformat.read(source, 4)
    notebook.cells[2].source = "import tempfile\nprint(tempfile.mkdtemp())"
    nbformat.write(notebook, source)
    process = start_notebook(source, tmp_path / "out.ipynb", {}, kernel_folder(scratch), scratch)
    try:
        assert process.wait(60) == 0
    finally:
        stop_notebook(process)
    (said,) = nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs
    assert Path(said.text.strip()).parent == scratch


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


def test_only_the_command_line_imports_the_grid():
    folder = Path(sys.modules["btlib"].__file__).parent
    text = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    found = [
        path.name for path, code in text.items() if re.search(r"^\s*(from btlib\.grid|import btlib\.grid)", code, re.M)
    ]
    assert found == ["__main__.py"]


def test_strategies_are_closed_under_prefixes_which_the_order_relies_on():
    assert all(steps[:-1] in STRATEGIES[: STRATEGIES.index(steps) + 1] for steps in STRATEGIES)
