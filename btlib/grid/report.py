"""The grid's last act: notebooks/06_results.ipynb executed on its runs, one page of its results, and the table for the
terminal.
"""

from __future__ import annotations

import shutil
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
    cells = summarize(runs)
    table = beside(score_table(cells))
    notes = ["percent of the test set; – no correct trace, so nothing could be trained; blank: no run yet"]
    notes += ["* mean of two LMs: the paper has – for the third"]
    if ((cells["empty"] > 0) & (cells["seeds"] > 0)).any():
        notes += ["(2 of 3) mean over the two of three seeds that have a score: the third is –"]
    return table.to_string() + "\n" + "\n".join(notes)


def make_report(runs_dir: Path, preset: str, notebook: Path | None = None) -> tuple[Path, str]:
    """Execute the results notebook on runs/<preset> into its report.ipynb; return its path and an error ("" when all
    went well).

    The notebook appears when it is whole. One that fails is kept as report.failed.ipynb, and a report of before stays.
    """
    target = runs_dir / preset / "report.ipynb"
    failed = target.with_name("report.failed.ipynb")
    with tempfile.TemporaryDirectory(prefix="btlib-") as name:
        scratch = Path(name)
        parameters = {"RUNS": str(runs_dir.resolve()), "PRESET": preset}
        process = start_notebook(
            notebook or notebooks_dir() / REPORT_NOTEBOOK,
            scratch / "report.ipynb",
            parameters,
            kernel_folder(scratch),
            scratch,
        )
        try:
            code = process.wait()
        finally:
            stop_notebook(process)
        if code:
            if (scratch / "report.ipynb").exists():
                _move(scratch / "report.ipynb", failed)
            return failed, last_error(scratch / "log", code)
        _move(scratch / "report.ipynb", target)
        failed.unlink(missing_ok=True)  # of an earlier try
    return target, ""


def _move(source: Path, target: Path) -> None:
    """Move a file to another file system in one step: what is seen under the target's name is whole."""
    beside_it = target.with_name(f".{target.name}.tmp")
    shutil.move(source, beside_it)
    beside_it.replace(target)


def to_html(notebook: Path) -> Path | None:
    """Write an executed results notebook as one page beside it, report.html; None when that fails, which costs no
    result.
    """
    from btlib.grid.page import write_page

    title = f"Prompts, weights, or both? Results of preset {notebook.parent.name}"
    foot = f"Made from {REPORT_NOTEBOOK} by btlib report; {notebook.name} in the folder of the runs has the code."
    try:
        return write_page(notebook, notebook.with_suffix(".html"), title, foot)
    except (OSError, ValueError, KeyError):
        return None
