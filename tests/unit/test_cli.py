"""The command line: help, one-line errors with status 2 and nothing written, dry run, report."""

from __future__ import annotations

import subprocess
import sys

import pytest
from run_fixtures import data_folder
from test_results import write_run

from btlib.__main__ import main


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BTLIB_DATA", str(data_folder(tmp_path / "data")))
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
        (["--tasks", "iris", "cats"], "unknown task 'cats'; choose from iris, gsm8k, hotpotqa"),
        (["--strategies", "p -> q"], "unknown strategy"),
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


def test_the_report_prints_the_table_with_the_papers_beside(tmp_path, capsys):
    for strategy, right in {"": 3, "p": 10, "w": None}.items():
        write_run(tmp_path, strategy, right)
    assert main(["report", "--preset", "smoke", "--runs", str(tmp_path), "--table"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "50.0" in lines["Π"] and "62.2" in lines["Π"] and "–" in lines["Θ"]


def test_a_report_of_nothing_is_an_error(tmp_path, capsys):
    assert main(["report", "--preset", "smoke", "--runs", str(tmp_path / "none")]) == 2
    assert "no complete run" in capsys.readouterr().err


def test_doctor_reports_what_is_missing_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BTLIB_DATA", str(data_folder(tmp_path)))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "[OK] data: iris 24/50/30" in out and "[FAIL] embedded LM" in out and "[OK] cores" in out
    assert "[FAIL] published tables" in out and out.strip().endswith("2 checks failed")
