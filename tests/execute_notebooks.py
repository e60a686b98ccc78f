"""Execute notebooks in place, as they are committed: `python tests/execute_notebooks.py [NAME.ipynb ...]`, default all.

Outputs and execution counts are kept, timings, machine metadata and memory addresses are not. A notebook whose outputs
hold a path of this machine or stderr is reported, and the exit status is then 1. Prints the seconds each one took.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from btlib.support.paths import notebooks_dir

SUSPECT = (str(Path.home()) + "/", tempfile.gettempdir() + "/", str(notebooks_dir().parent) + "/")


def tidy(cell: nbformat.NotebookNode) -> list[str]:
    """Join a stream that was written in pieces, drop metadata of the run, and return what should not be committed."""
    cell.metadata.pop("execution", None)
    cell.metadata.pop("papermill", None)
    outputs: list[nbformat.NotebookNode] = []
    for output in cell.outputs:
        last = outputs[-1] if outputs else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            outputs.append(output)
    cell.outputs = outputs
    texts = []
    for output in outputs:
        data = output.get("data", {})
        for kind in [kind for kind in data if kind.startswith("text/")]:
            data[kind] = re.sub(r" at 0x[0-9a-f]+>", ">", data[kind])  # another one in each process
        texts += [output.get("text", ""), *(data[kind] for kind in data if kind.startswith("text/"))]
    found = [f"path in output: {s}" for text in texts for s in SUSPECT if s in text]
    found += [f"stderr: {o.text[:200]}" for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    return found


def execute(path: Path) -> list[str]:
    """Execute one notebook and write it back, by a temporary name; returns the complaints."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=3600, kernel_name="python3", record_timing=False).execute(cwd=str(path.parent))
    complaints = [c for cell in notebook.cells if cell.cell_type == "code" for c in tidy(cell)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)
    return complaints


def main() -> int:
    paths = [notebooks_dir() / name for name in sys.argv[1:]] or sorted(notebooks_dir().glob("[0-9]*.ipynb"))
    bad = 0
    for path in paths:
        began = time.time()
        complaints = execute(path)
        print(f"{path.name}: {time.time() - began:.0f} s", *complaints, sep="\n  ", flush=True)
        bad += bool(complaints)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
