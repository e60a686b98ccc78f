"""Execute one notebook with papermill in this process, and take its kernel along when this process is stopped.

The grid starts `python -m btlib.grid.kernels` once a run and keeps a pipe to its standard input: when the grid is gone,
the pipe closes, and so do this process and its kernel. The kernel is this interpreter's, whatever kernels are
installed, and talks over sockets in the file system, so that kernels started at once never race for a port.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path

from btlib.errors import BtlibError
from btlib.support.environment import run_environment
from btlib.support.paths import short_name

SKIPPED = "lesson"  # tag of the cells that teach and that the grid leaves out


def kernel_folder(folder: Path) -> Path:
    """Write a kernel named python3 that runs this very interpreter, and return the folder to put first in
    JUPYTER_PATH.
    """
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python"})
    )
    return folder


def start_notebook(
    source: Path, target: Path, parameters: dict, folder: Path, scratch: Path, threads: int = 1
) -> subprocess.Popen:
    """Start a process that executes a notebook, in a session of its own (Ctrl-C reaches only the grid), with its own
    folders and its share of the cores: `threads`, unless OMP_NUM_THREADS says another number.

    What else of this process's environment it gets is decided in btlib.support.environment.
    """
    env = run_environment() | {
        "JUPYTER_PATH": str(folder),
        "JUPYTER_CONFIG_DIR": str(scratch / "jupyter"),
        "JUPYTER_DATA_DIR": str(scratch / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(scratch),
        "IPYTHONDIR": str(scratch / "ipython"),  # no profile, no startup files
        "TMPDIR": str(scratch),  # the kernel is ended by a signal: what it leaves there goes with the scratch folder
        "DSPY_CACHEDIR": str(scratch / "dspy"),
        "BTLIB_PROGRESS": str(scratch / "progress"),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread that spins takes the core of the process beside it
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    env.setdefault("OMP_NUM_THREADS", str(threads))
    job = json.dumps({"source": str(source), "target": str(target), "parameters": parameters, "skip": SKIPPED})
    command = [sys.executable, "-P", "-m", "btlib.grid.kernels", job]  # -P: no btlib that lies in the present folder
    with (scratch / "log").open("w") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )


def last_error(log: Path, code: int) -> str:
    """Return one line on why a notebook's process ended: the error that it reported, else the end of its output."""
    lines = [x for x in log.read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
    try:
        report = json.loads(lines[-1])
        return report["error"] + (f" (cell {report['cell']})" if report["cell"] else "")
    except (IndexError, ValueError, KeyError, TypeError):
        killed = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the notebook's process ended with {killed}" + (f": {lines[-1]}" if lines else "")


def stop_notebook(process: subprocess.Popen) -> None:
    """End a process of `start_notebook` if it still runs: ask, wait five seconds, then kill; it takes its kernel
    along.
    """
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()  # the kernel sees its parent gone, and ends
        process.wait()
    process.stdin.close()


def run_notebook(source: Path, target: Path, parameters: dict, skip: str = "") -> None:
    """Execute `source` into `target`, cell by cell, leaving out cells with the tag `skip`; papermill's error says
    what failed.
    """
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    check_parameters(source, parameters)
    extra = {"skip_cells_with_tag": skip} if skip else {}
    with short_name(Path(os.environ.get("JUPYTER_RUNTIME_DIR") or tempfile.gettempdir()), 75) as runtime:
        if os.name == "posix":
            name = str(runtime / f"kernel-{uuid.uuid4().hex[:8]}.json")
            extra["km"] = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=name)
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, target)),  # to it, format strings
            parameters,
            kernel_name="python3",
            cwd=str(source.parent),
            progress_bar=False,
            start_timeout=180,
            **extra,
        )


def check_parameters(source: Path, parameters: dict) -> None:
    """Refuse a notebook whose own values would win over the parameters: without a cell that is tagged `parameters`
    and names them all, papermill puts its cell first, and the defaults come after it.
    """
    import nbformat

    cells = [cell for cell in nbformat.read(source, 4).cells if cell.cell_type == "code"]
    tagged = next((cell for cell in cells if "parameters" in cell.metadata.get("tags", ())), None)
    if not parameters:
        return
    if tagged is None:
        raise BtlibError(f"{source} has no cell tagged `parameters`; tag the cell that gives {', '.join(parameters)}")
    names = [node for node in ast.walk(ast.parse(tagged.source)) if isinstance(node, ast.Name)]
    given = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    missing = [name for name in parameters if name not in given]
    if missing:
        raise BtlibError(f"{source}: the cell tagged `parameters` does not give {', '.join(missing)}; add defaults")


def stop_with_children(status: int) -> None:
    """End this process and every process below it, at once."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        child.kill()
    psutil.wait_procs(children, timeout=5)
    os._exit(status)


def watch_stdin() -> None:
    """Stop this process and its kernel when standard input closes, which is when the grid has ended."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        stop_with_children(130)

    threading.Thread(target=wait, daemon=True).start()


def error_line(error: BaseException) -> dict[str, object]:
    """Return what a report needs of an error: one line, and the number of the cell (papermill counts from 1) where
    there is one.
    """
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    line = next((x for x in str(value).strip().splitlines() if x.strip()), "")
    return {"error": f"{name}: {line}" if line else name, "cell": getattr(error, "exec_count", None)}


def main(job: str) -> int:
    """Run the job, a JSON object {source, target, parameters, skip}; print {"error", "cell"} as the last line when it
    fails.
    """
    signal.signal(signal.SIGTERM, lambda *_: stop_with_children(143))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the grid's to handle
    watch_stdin()
    todo = json.loads(job)
    try:
        run_notebook(Path(todo["source"]), Path(todo["target"]), todo["parameters"], todo["skip"])
    except Exception as error:
        print(json.dumps(error_line(error)), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    stop_with_children(status)  # a kernel manager passed in is not shut down by nbclient
