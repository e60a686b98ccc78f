"""A run's environment is its own: what a shell, a launcher or a notebook server left there does not change it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from lm_fixtures import tiny_lm_folder

from btlib.grid import kernels
from btlib.grid.kernels import kernel_folder, last_error, run_notebook, start_notebook, stop_notebook
from btlib.lm.lora.train import train_lora
from btlib.support import environment
from btlib.support.environment import one_process, run_environment

ROOT = Path(environment.__file__).resolve().parents[2]
LEFT_BY_LAUNCHERS = {
    "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "29500",
    "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_SIZE": "2", "SLURM_NTASKS": "2",
    "TORCHELASTIC_RUN_ID": "1", "ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "fp8",
}  # fmt: skip


@pytest.fixture
def hostile(tmp_path) -> dict[str, str]:
    """Twenty variables that a shell, a launcher or a notebook server may have left."""
    (tmp_path / "btlib").mkdir()
    (tmp_path / "btlib" / "__init__.py").write_text("raise SystemExit('another btlib')")
    startup = tmp_path / "startup.py"
    startup.write_text("import random; random.seed(1); raise SystemExit('PYTHONSTARTUP was run')")
    profile = tmp_path / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True)
    (profile / "00.py").write_text("raise SystemExit('a startup file of IPython was run')")
    return LEFT_BY_LAUNCHERS | {
        "PYTHONSTARTUP": str(startup), "PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": "7", "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "ascii", "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_CONFIG_DIR": str(tmp_path), "JPY_PARENT_PID": "1",
    }  # fmt: skip


def test_a_run_begins_with_the_same_environment_after_mpi_slurm_and_a_notebook_server_as_after_a_clean_shell(hostile):
    clean = {
        "PATH": "/bin",
        "HF_HOME": "/hf",
        "HF_HUB_OFFLINE": "1",
        "BTLIB_DATA": "/data",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    clean |= {"HTTPS_PROXY": "http://proxy:3128", "OMP_NUM_THREADS": "2", "PYTHONUSERBASE": "/me"}
    assert len(hostile) >= 20
    assert run_environment(clean | hostile) == run_environment(clean)
    assert clean.items() <= run_environment(clean | hostile).items()


def test_a_run_imports_the_btlib_that_started_it_and_keeps_the_users_other_folders(hostile, tmp_path):
    (tmp_path / "mine").mkdir()
    path = os.pathsep.join([hostile["PYTHONPATH"], str(tmp_path / "mine")])
    env = run_environment(dict(os.environ) | {"PYTHONPATH": path})
    assert env["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(tmp_path / "mine")]
    code = "import btlib; print(btlib.__file__)"
    found = subprocess.run([sys.executable, "-P", "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.strip() == str(ROOT / "btlib" / "__init__.py")


def test_a_btlib_in_site_packages_needs_no_pythonpath(monkeypatch):
    monkeypatch.setattr("site.getsitepackages", lambda: [str(ROOT)])
    assert "PYTHONPATH" not in run_environment({})


def test_users_packages_count_in_a_run_as_they_do_here(monkeypatch):
    for here, there in [(True, None), (False, "1")]:
        monkeypatch.setattr("site.ENABLE_USER_SITE", here)
        assert run_environment({"PYTHONNOUSERSITE": "x"}).get("PYTHONNOUSERSITE") == there


def notebook(folder: Path, cell: str, tags: tuple[str, ...] = ("parameters",)) -> Path:
    cells = [nbformat.v4.new_code_cell('NAME = ""', metadata={"tags": list(tags)}), nbformat.v4.new_code_cell(cell)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "some.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


CELL = """
import os, sys, pathlib
assert "startup" not in sys.modules and __debug__
pathlib.Path(NAME).write_text(" ".join([os.environ["JUPYTER_RUNTIME_DIR"], *sorted(os.environ)]))
import btlib
print(btlib.__file__)
"""


def test_a_notebook_starts_in_a_hostile_shell_a_folder_with_braces_and_a_long_tmpdir(hostile, tmp_path, monkeypatch):
    folder = tmp_path / "r{a} {} {SEED}"
    scratch = tmp_path / ("long" * 20) / "scratch"
    scratch.mkdir(parents=True)
    folder.mkdir()
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # another btlib lies here
    source, target = notebook(folder, CELL), folder / "out.ipynb"
    process = start_notebook(source, target, {"NAME": str(folder / "seen")}, kernel_folder(scratch), scratch)
    try:
        code = process.wait(120)
    finally:
        stop_notebook(process)
    assert code == 0, last_error(scratch / "log", code)
    seen = (folder / "seen").read_text().split(" ")
    assert seen[0] == str(scratch)
    left = {name for name in hostile if name in seen} - {"PYTHONPATH", "IPYTHONDIR", "JUPYTER_CONFIG_DIR"}
    assert left == {"JPY_PARENT_PID"}  # of its own notebook process
    (said,) = nbformat.read(target, 4).cells[-1].outputs
    assert said.text.strip() == str(ROOT / "btlib" / "__init__.py")


@pytest.mark.parametrize("runs", ["r{a}", "r{}", "r{SEED}", "{{", "100% [a]"])
def test_a_folder_is_a_folder_whatever_its_letters(tmp_path, monkeypatch, runs):
    import papermill

    monkeypatch.setattr(papermill.execute, "write_ipynb", lambda nb, path: written.append(path))
    monkeypatch.setattr(papermill.execute.papermill_engines, "execute_notebook_with_engine", lambda name, nb, **_: nb)
    written = []
    (tmp_path / runs).mkdir()
    run_notebook(notebook(tmp_path / runs, ""), tmp_path / runs / "out.ipynb", {"NAME": "a"})
    assert written == [str(tmp_path / runs / "out.ipynb")]


@pytest.mark.parametrize(
    ("tags", "given", "said"),
    [
        ((), {"NAME": "a"}, "has no cell tagged `parameters`; tag the cell that gives NAME"),
        (("parameters",), {"NAME": "a", "SEED": 0}, "the cell tagged `parameters` does not give SEED"),
    ],
)
def test_a_notebook_that_lost_its_parameters_tag_stops_before_its_defaults_run(tmp_path, tags, given, said):
    with pytest.raises(kernels.BtlibError, match=said):
        run_notebook(notebook(tmp_path, "1 / 0", tags), tmp_path / "out.ipynb", given)
    assert not (tmp_path / "out.ipynb").exists()


ROWS = [{"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "12"}]} for i in range(2)]


def test_training_after_mpi_or_slurm_neither_hangs_nor_fails_and_gives_the_same_adapter(tmp_path, monkeypatch):
    folder = tiny_lm_folder(tmp_path)
    how = {"rank": 2, "alpha": 4, "epochs": 1, "learning_rate": 1e-3}
    train_lora(folder, ROWS, tmp_path / "clean", **how)
    for name, value in LEFT_BY_LAUNCHERS.items():
        monkeypatch.setenv(name, value)
    train_lora(folder, ROWS, tmp_path / "after", **how)
    assert {name: value for name, value in os.environ.items() if environment.is_launcher(name)} == LEFT_BY_LAUNCHERS
    clean, after = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("clean", "after"))
    assert clean == after


def test_what_a_library_sets_meanwhile_goes_and_what_was_there_comes_back_after_an_error(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ZeroDivisionError), one_process():
        assert "RANK" not in os.environ
        os.environ |= {"MASTER_PORT": "1", "RANK": "0"}
        raise ZeroDivisionError
    assert os.environ["RANK"] == "3" and "MASTER_PORT" not in os.environ


PREDICT = """
from dataclasses import replace
from btlib.presets import load_preset, Split
from btlib.runs import execute, make_spec
small = replace(load_preset("smoke"), splits={"iris": Split(train=6, dev=2, test=6, bootstrap=3, validation=3)})
execute(make_spec("iris", "pocket", "w", 0, replace(small, epochs=1)), NAME)
"""


@pytest.mark.slow
def test_predictions_are_the_same_bytes_in_a_hostile_environment(hostile, tmp_path, monkeypatch):
    """Two runs of Θ with the embedded LM in processes of their own; about a minute on a free core."""
    found = []
    for name, variables in (("clean", {}), ("hostile", hostile)):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        place = tmp_path / "places" / name
        place.mkdir(parents=True)
        source = notebook(place, PREDICT)
        process = start_notebook(source, place / "out.ipynb", {"NAME": str(place)}, kernel_folder(place), place)
        try:
            code = process.wait(600)
        finally:
            stop_notebook(process)
        assert code == 0, last_error(place / "log", code)
        found.append([path.read_bytes() for path in sorted(place.rglob("predictions.jsonl"))])
    assert found[0] == found[1] and len(found[0]) == 2
    assert all(json.loads(line)["outputs"] is not None for part in found[0] for line in part.decode().splitlines())
