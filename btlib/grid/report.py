"""The grid's last act: notebooks/06_results.ipynb executed on its runs, and the results table for the terminal."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from btlib.errors import BtlibError
from btlib.grid.kernels import kernel_folder, last_error, start_notebook, stop_notebook
from btlib.results.paper import beside
from btlib.results.tables import load_runs, score_table, summarize
from btlib.support.paths import notebooks_dir

REPORT_NOTEBOOK = "06_results.ipynb"


def results_text(folder: Path) -> str:
    """Return the table of eight strategies by task for runs/<preset>, the paper's beside it, as text; BtlibError when
    there is no run.
    """
    runs = load_runs(folder)
    if runs.empty:
        raise BtlibError(
            f"no complete run in {folder}; make some with `btlib grid`, or name another folder with --runs"
        )
    table = beside(score_table(summarize(runs)))
    notes = ["percent of the test set; – no correct trace, so nothing could be trained; blank: no run yet"]
    notes += ["* mean of two LMs: the paper has – for the third"]
    return table.to_string() + "\n" + "\n".join(notes)


def make_report(runs_dir: Path, preset: str, notebook: Path | None = None) -> tuple[Path, str]:
    """Execute the results notebook into runs/<preset>/report.ipynb, and report.html beside it; return its path and an
    error ("" when all went well).
    """
    target = runs_dir / preset / "report.ipynb"
    with tempfile.TemporaryDirectory(prefix="btlib-") as name:
        scratch = Path(name)
        parameters = {"RUNS": str(runs_dir.resolve()), "PRESET": preset}
        process = start_notebook(
            notebook or notebooks_dir() / REPORT_NOTEBOOK, target, parameters, kernel_folder(scratch), scratch
        )
        try:
            code = process.wait()
        finally:
            stop_notebook(process)
        if code:
            return target, last_error(scratch / "log", code)
    return target, ""


def to_html(notebook: Path) -> Path | None:
    """Write a notebook as one HTML page beside it; None when nbconvert cannot, which costs no result."""
    run = [sys.executable, "-m", "nbconvert", "--to", "html", "--log-level", "ERROR", str(notebook)]
    done = subprocess.run(run, capture_output=True, stdin=subprocess.DEVNULL)
    page = notebook.with_suffix(".html")
    return page if done.returncode == 0 and page.exists() else None
