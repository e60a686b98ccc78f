"""The command line: help, one-line errors with status 2 and nothing written, dry run, report."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
from run_fixtures import Notebooks
from test_results import write_run

from btlib.__main__ import main
from btlib.runs import make_spec
from btlib.support.paths import notebooks_dir


@pytest.fixture
def data(small_data, tmp_path, monkeypatch):
    """Small data of this test's own, a model that is there, and a folder to work in."""
    monkeypatch.setenv("BTLIB_DATA", str(shutil.copytree(small_data, tmp_path / "data")))
    monkeypatch.setattr("btlib.lm.checkpoint.check", lambda name, folder: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_without_arguments_help_and_without_heavy_imports():
    code = "import sys; from btlib.__main__ import main; s = main([]); print({'torch', 'dspy'} & set(sys.modules), s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "doctor" in done.stdout and done.stdout.strip().endswith("set() 0")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "huge"], "unknown preset 'huge'; choose from smoke, laptop"),
        (["--tasks", "iris", "cats"], "unknown task 'cats'; choose from hotpotqa, gsm8k, iris"),
        (["--strategies", "p -> q"], "unknown strategy 'p -> q'; choose from vanilla, p, w"),
        (["--strategies", "w-p-w", "w-p-"], "unknown strategy 'w-p-'"),
        (["--set", "epoch=3"], "unknown setting 'epoch'; choose from tasks, models, seeds"),
        (["--set", "epochs=many"], "setting epochs takes a whole number, got 'many'"),
        (["--set", "epochs=3", "lora_rank"], "--set 'lora_rank' has no '='; write a setting and its value"),
        (["--set", "epochs=0"], "epochs must be at least 1, got 0"),
        (["--seeds", "0", "-1"], "bad seed '-1'"),
        (["--sede", "0"], "--sede"),
        (["--workers", "two"], "invalid int value: 'two'"),
        (["--seeds", "1.5"], "bad seed '1.5'"),
        (["--workers", "0"], "--workers 0"),
        (["--models", "no-such-lm"], "no-such-lm"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_nothing_written(data, tmp_path, capsys, arguments, named):
    assert main(["grid", "--preset", "smoke", "--runs", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("btlib: error: ") and named in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_corrupt_or_missing_data_file_stops_the_grid_before_it_starts(data, tmp_path, capsys):
    path = data / "gsm8k-mini" / "train.jsonl"
    path.write_text(path.read_text() + "{oops\n")
    assert main(["grid", "--preset", "smoke", "--runs", "out"]) == 2
    error = capsys.readouterr().err
    assert "train.jsonl" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    path.unlink()
    assert main(["grid", "--preset", "smoke", "--runs", "out"]) == 2 and "train.jsonl" in capsys.readouterr().err


def test_a_model_folder_without_a_tokenizer_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text("{}")
    assert main(["grid", "--preset", "smoke", "--models", "./lm", "--runs", "out"]) == 2
    assert "tokenizer" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_dry_run_lists_and_writes_nothing(data, tmp_path, capsys):
    assert (
        main(["grid", "--preset", "smoke", "--tasks", "iris,gsm8k", "--seeds", "0", "--dry-run", "--runs", "out"]) == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("16 runs, 0 complete") and "Π→Θ→Π" in out and not (tmp_path / "out").exists()


def test_any_strategy_is_planned_with_its_prefixes(data, capsys):
    command = ["grid", "--preset", "smoke", "--tasks", "iris", "--dry-run"]
    assert main([*command, "--strategies", "w-p-w", "Π→Θ"]) == 0
    out = capsys.readouterr().out
    rows = [line.split("pocket")[0].split("iris")[1].strip() for line in out.splitlines() if "pocket, seed" in line]
    assert rows == ["Vanilla Zero-shot", "Π", "Θ", "Π→Θ", "Θ→Π", "Θ→Π→Θ"]


@pytest.fixture
def notebooks(data, monkeypatch):
    """A grid whose notebooks only note what they are given, and whose servers are not asked."""
    made = Notebooks()
    monkeypatch.setattr("btlib.grid.run.start_notebook", made)
    monkeypatch.setattr("btlib.grid.command.check_inputs", lambda *a, **k: set())
    monkeypatch.setattr("btlib.grid.command.report", lambda *a, **k: 0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return made


def test_changes_and_places_reach_the_notebook_and_the_environment_stays(notebooks, data, tmp_path):
    places = {"source": str(data / "hotpotqa-mini"), "retriever": "http://host:1/api/search?index=wiki"}
    places["api_base"] = "http://host:2/v1"
    before = dict(os.environ)
    command = ["grid", "--preset", "smoke", "--tasks", "hotpotqa", "--models", "openai/x", "--strategies", "w"]
    command += ["--set", "epochs=3", "lora_targets=q_proj,v_proj", "--runs", "out", "--data", "data/hotpotqa-mini"]
    assert main([*command, "--retriever", places["retriever"], "--api-base", places["api_base"]]) == 0
    assert dict(os.environ) == before
    vanilla, tuned = notebooks.given
    assert vanilla == tuned | {"STRATEGY": ""}
    assert (tuned["TASK"], tuned["MODEL"], tuned["STRATEGY"], tuned["SEED"]) == ("hotpotqa", "openai/x", "w", 0)
    assert (tuned["PRESET"], tuned["CHANGES"]) == ("smoke", {"epochs": 3, "lora_targets": ["q_proj", "v_proj"]})
    assert (tuned["DATA"], tuned["RETRIEVER"], tuned["API_BASE"]) == tuple(places.values())
    # The notebook's run is the one that was planned, in a folder of its own.
    changes = {"epochs": 3, "lora_targets": "q_proj,v_proj"}
    spec = make_spec("hotpotqa", "openai/x", "w", 0, "smoke", changes, **places)
    assert notebooks.specs[1] == spec and (spec.folder(tmp_path / "out") / "run.json").exists()
    assert spec.folder("out").parts[1] == "smoke+epochs=3,lora_targets=q_proj-v_proj"


def test_a_grid_without_options_gives_a_notebook_the_presets_own(notebooks):
    assert main(["grid", "--preset", "smoke", "--tasks", "iris", "--strategies", "vanilla", "--runs", "out"]) == 0
    (given,) = notebooks.given
    assert {name: given[name] for name in ("CHANGES", "DATA", "RETRIEVER", "API_BASE")} == {
        "CHANGES": {},
        "DATA": "",
        "RETRIEVER": "",
        "API_BASE": "",
    }


def test_the_notebook_of_a_run_has_every_parameter_that_the_grid_gives(notebooks):
    main(["grid", "--preset", "smoke", "--tasks", "iris", "--strategies", "vanilla", "--runs", "out"])
    cells = json.loads((notebooks_dir() / "05_bettertogether.ipynb").read_text(encoding="utf-8"))["cells"]
    (source,) = ("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ()))
    names = {target.id for node in ast.parse(source).body for target in node.targets}
    assert names == set(notebooks.given[0])


def test_the_report_prints_the_table_with_the_papers_beside(tmp_path, capsys):
    for strategy, right in {"": 3, "p": 10, "w": None}.items():
        write_run(tmp_path, strategy, right)
    assert main(["report", "--preset", "smoke", "--runs", str(tmp_path), "--table"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "50.0" in lines["Π"] and "62.2" in lines["Π"] and "–" in lines["Θ"]


def test_the_report_says_where_a_mean_is_over_fewer_seeds(tmp_path, capsys):
    for seed, right in enumerate((10, 14, None)):
        write_run(tmp_path, "w", right, seed=seed)
    assert main(["report", "--preset", "smoke", "--runs", str(tmp_path), "--table"]) == 0
    out = capsys.readouterr().out
    assert "60.0 (2 of 3)" in out and "mean over the two of three seeds that have a score" in out


def test_a_changed_presets_runs_have_a_report_of_their_own(tmp_path, capsys):
    for preset, right in (("smoke", 3), ("smoke+epochs=3", 10)):
        write_run(tmp_path, "w", right, preset=preset)
    assert main(["report", "--preset", "smoke+epochs=3", "--runs", str(tmp_path), "--table"]) == 0
    out = capsys.readouterr().out
    assert "50.0" in out and "15.0" not in out
    assert main(["report", "--preset", "huge+epochs=3", "--runs", str(tmp_path), "--table"]) == 2
    assert "unknown preset 'huge+epochs=3'" in capsys.readouterr().err


def test_a_report_of_nothing_is_an_error(tmp_path, capsys):
    assert main(["report", "--preset", "smoke", "--runs", str(tmp_path / "none")]) == 2
    assert "no complete run" in capsys.readouterr().err


def test_doctor_reports_what_is_missing_and_goes_on(small_data, monkeypatch, capsys):
    monkeypatch.setenv("BTLIB_DATA", str(small_data))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert (
        "[OK] data: hotpotqa 24/12/24, gsm8k 24/12/24, iris 24/50/30" in out
        and "[FAIL] embedded LM" in out
        and "[OK] cores" in out
    )
    assert "[FAIL] published tables" in out and out.strip().endswith("2 checks failed")
