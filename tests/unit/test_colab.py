"""The cell that Colab runs first: what it installs, what it leaves alone, and that it does nothing elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from btlib import colab

ROOT = Path(colab.__file__).resolve().parent.parent


def test_torch_and_numpy_are_pinned_and_not_asked_for():
    seen = []

    def run(command, **_):
        pins = [Path(command[i + 1]).read_text() for i, part in enumerate(command) if part == "-c"]
        seen.append((command, *pins))
        return SimpleNamespace(returncode=0)

    colab.install(ROOT, run)
    (first, pins), (second,) = seen
    asked = [part for part in first if any(c in part for c in "<>=")]
    assert any(need.startswith("dspy") for need in asked) and any(need.startswith("tantivy") for need in asked)
    assert not any(need.startswith(("torch", "numpy", "jupyterlab", "ipykernel", "ipywidgets")) for need in asked)
    versions = colab.installed(("torch", "numpy"))
    assert all(f"{name}=={version}\n" in pins for name, version in versions.items()) and len(versions) == 2
    assert second[-3:] == ["--no-deps", "-e", str(ROOT)]


def test_a_failed_install_is_shown_with_pips_last_lines():
    with pytest.raises(RuntimeError, match="pip says:\nERROR: no such thing"):
        colab.install(ROOT, lambda *_, **__: SimpleNamespace(returncode=1, stderr="ERROR: no such thing\n", stdout=""))


def test_a_kept_package_that_changed_is_an_error(monkeypatch):
    versions = {"torch": "2.9"}
    watch(monkeypatch, versions)
    with pytest.raises(RuntimeError, match="pip changed torch, of which .* Restart session"):
        colab.install(ROOT, pip(versions, torch="2.10"))


def watch(monkeypatch, versions):
    """Let these be the installed packages, in a session that has installed nothing yet."""
    monkeypatch.setattr(colab, "installed", lambda names: {n: v for n, v in versions.items() if n in names})
    monkeypatch.setattr(sys, "_btlib_imported", {}, raising=False)


def pip(versions, **changed):
    def run(command, **_):
        versions.update(changed)
        return SimpleNamespace(returncode=0)

    return run


def test_a_package_that_was_imported_and_has_changed_asks_for_a_restart_by_name_until_there_was_one(monkeypatch):
    versions = {"torch": "2.9", "pyarrow": "18.1", "fsspec": "1"}
    watch(monkeypatch, versions)
    monkeypatch.setattr(colab, "loaded", lambda: {"pyarrow"})
    for _ in range(2):  # running the cell again is not a restart
        with pytest.raises(RuntimeError, match="pip changed pyarrow, of which this session holds another version"):
            colab.install(ROOT, pip(versions, pyarrow="21.0", fsspec="2"))
    monkeypatch.setattr(sys, "_btlib_imported", {})  # as a new session has it
    colab.install(ROOT, pip(versions))


def test_what_a_session_has_imported_goes_by_the_names_that_pip_knows():
    found = colab.loaded()
    assert "pytest" in found and "ipython" in {name.lower() for name in found} and "jupyterlab" not in found


@pytest.mark.parametrize("repository", ["", "owner/name"])
def test_the_cell_is_python_for_a_notebook_and_a_no_op_elsewhere(repository):
    source = colab.cell(repository)
    python = TransformerManager().transform_cell(source)
    exec(compile(python, "cell", "exec"), {})
    assert ("git clone" in source) == bool(repository) and "../btlib/colab.py" in source


def test_the_badge_waits_for_an_address():
    assert colab.badge("01_programs.ipynb", "") == ""
    assert "/github/owner/name/blob/main/notebooks/01_programs.ipynb)" in colab.badge("01_programs.ipynb", "owner/name")


def test_cell_and_badge_are_written_once_and_taken_back(tmp_path):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# 01 · Title\n", "\n", "Text."]},
        {"cell_type": "code", "metadata": {}, "source": ["old"], "outputs": [], "execution_count": 1},
        {"cell_type": "code", "metadata": {}, "source": ["x = 1"], "outputs": [], "execution_count": 2},
    ]
    path = tmp_path / "01_programs.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert colab.write(path, "owner/name") and not colab.write(path, "owner/name")
    title, first, other = ("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
    assert title == f"# 01 · Title\n\n{colab.badge(path.name, 'owner/name')}\n\nText."
    assert first == colab.cell("owner/name") and other == "x = 1"
    assert colab.write(path, "") and not colab.write(path, "")
    assert "".join(json.loads(path.read_text())["cells"][0]["source"]) == "# 01 · Title\n\nText."


def test_the_file_runs_before_anything_is_installed():
    code = "import sys, runpy; sys.modules['torch'] = None; m = runpy.run_path(sys.argv[1]); print(m['gpu_line']())"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, colab.__file__], capture_output=True, text=True, env={"PYTHONPATH": ""}
    )
    assert done.stdout.startswith("no GPU"), done.stderr
