"""The report: one page without code, network or scripts, harmless whatever a model is called, whole or not at all."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from btlib.grid import page
from btlib.grid.report import make_report, to_html
from btlib.results import gains, layout
from btlib.results.samples import load_sample
from btlib.results.shown import titled
from btlib.results.tables import as_series, cost_table, load_items, load_runs, summarize
from btlib.support.paths import data_dir

matplotlib.use("Agg")
HOSTILE = "<img src=x onerror=alert(1)>"
RIGHT = {"": 3, "p": 10, "w": 8, "p -> w": 14, "w -> w": None, "w -> p": 11}  # and two runs that are missing


class Tags(HTMLParser):
    """The elements of a page with their attributes; `balanced` tells whether each was closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.balanced = True
        self.feed(text)
        self.balanced &= not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag


def assert_harmless(text: str) -> None:
    """No script, no handler, and nothing that a browser would fetch."""
    tags = Tags(text)
    assert tags.balanced
    for tag, attributes in tags.found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:") and "srcset" not in attributes
        assert tag == "a" or "href" not in attributes
    assert not re.search(r"@import|url\(", text)


def write_run(runs: Path, strategy: str, right: int | None, model: str, n: int = 20) -> None:
    folder = runs / "smoke" / model / "iris" / "seed-0" / (strategy.replace(" -> ", "-") or "vanilla")
    folder.mkdir(parents=True)
    step = {"kept": 5, "total": 10, "lm_calls": 40, "training_rows": 5, "training_tokens": 50, "seconds": {"s": 3.0}}
    steps = [step] * len([s for s in strategy.split(" -> ") if s])
    spec = {"task": "iris", "model": model, "strategy": strategy, "seed": 0, "preset": "smoke"}
    run = {"spec": spec, "score": None, "status": "empty-traces", "steps": steps, "evaluation": None}
    if right is not None:
        run |= {"score": 100 * right / n, "status": "ok", "evaluation": {"items": n, "lm_calls": n, "seconds": 2.0}}
        (folder / "predictions.jsonl").write_text("".join(json.dumps({"correct": i < right}) + "\n" for i in range(n)))
    (folder / "run.json").write_text(json.dumps(run | {"date": "2026-01-01T00:00:00", "commit": "0" * 12}))


@pytest.fixture
def runs(tmp_path):
    for strategy, right in RIGHT.items():
        write_run(tmp_path, strategy, right, HOSTILE)
    return tmp_path


def tagged(cell, *tags):
    cell.metadata["tags"] = list(tags)
    return cell


def printed(text: str):
    return new_output("stream", name="stdout", text=text)


def notebook_of(*cells):
    return new_notebook(cells=list(cells))


def test_the_answer_comes_first_and_only_tagged_cells_without_their_code():
    text = page.render_page(
        notebook_of(
            new_markdown_cell("a lesson"),
            tagged(new_markdown_cell("## 2. Scores"), "report"),
            tagged(new_code_cell("secret = 1", outputs=[printed("a row\n")]), "report"),
            new_code_cell("print(2)", outputs=[printed("left out\n")]),
            tagged(new_code_cell("print(3)", outputs=[printed("yes, by 3 points\n")]), "answer"),
        ),
        "Title <1>",
    )
    assert text.index("yes, by 3 points") < text.index("<h2>Scores</h2>") < text.index("a row")
    assert not [word for word in ("secret", "lesson", "left out", "print(") if word in text]
    assert "<h1>Title &lt;1&gt;</h1>" in text
    assert_harmless(text)


def test_formulas_are_mathml_and_links_that_do_not_travel_are_words():
    source = (
        "A ratio $r_{\\ell}$, [the paper](https://arxiv.org/abs/2407.10930), [notebook 05](05_bettertogether.ipynb)\n"
    )
    source += "\n$$\ng = \\Big(\\prod_{\\ell} r_\\ell\\Big)^{1/m} - 1\n$$\n\n![a picture](x.png) <b onclick=x>raw</b>\n"
    text = page.render_cells([new_markdown_cell(source)])
    assert text.count("<math") == 2 and 'display="block"' in text and "$" not in text and "\\" not in text
    assert 'href="https://arxiv.org/abs/2407.10930"' in text and "notebook 05" in text and "ipynb" not in text
    assert "x.png" not in text and "&lt;b onclick" in text


def test_a_formula_that_cannot_be_read_stays_as_it_is(monkeypatch):
    def fail(*_, **__):
        raise IndexError

    monkeypatch.setattr(page.latex2mathml.converter, "convert", fail)
    assert page.mathml(r"\frac{1}{<", "inline") == r"<code>\frac{1}{&lt;</code>"


def test_figures_lie_inside_with_their_caption_and_tables_scroll_by_themselves():
    picture = new_output("display_data", {"image/png": "aGFsbG8=\n", "text/plain": "<Figure>"})
    table = new_output("execute_result", {"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "1"})
    cells = [new_code_cell("", outputs=[table, picture]), new_markdown_cell("*Figure 1: points (percent). See x.*")]
    text = page.render_cells(cells)
    assert '<div class="wide"><table>' in text
    assert 'alt="Figure 1"' in text and 'src="data:image/png;base64,aGFsbG8="' in text
    assert re.search(r"<figcaption><p>Figure 1: points \(percent\)\. See x\.</p>\s*</figcaption></figure>", text)
    assert "&lt;Figure" not in text and Tags(text).balanced


def test_the_page_may_fetch_nothing_and_follows_the_readers_light_or_dark():
    text = page.render_page(notebook_of(), "t")
    (policy,) = [a["content"] for _, a in Tags(text).found if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script" not in policy
    assert "prefers-color-scheme: dark" in text and "color-scheme: light dark" in text


def test_tables_of_a_model_with_a_hostile_name_are_harmless(runs):
    rows, items = load_runs(runs / "smoke"), load_items(runs / "smoke")
    cells = summarize(rows, items)
    series = as_series(cells)
    frames = [
        layout.scores_with_intervals(cells),
        layout.leads(gains.gain_table(series, items, samples=20), "smoke"),
        layout.expectation(series, "smoke"),
        layout.costs_by_strategy(cost_table(rows)),
    ]
    for frame in frames:
        shown = page.render_output(
            new_output("execute_result", {"text/html": titled(frame, HOSTILE, HOSTILE).to_html()})
        )
        assert "&lt;img src=x" in shown
        assert_harmless(shown)
    assert_harmless(page.render_output(printed(f"best is {HOSTILE}\n")))


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    nbformat.write(notebook_of(), tmp_path / "report.ipynb")
    (tmp_path / "report.html").write_text("of before")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    assert to_html(tmp_path / "report.ipynb") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.ipynb"]
    assert (tmp_path / "report.html").read_text() == "of before"


def test_a_notebook_that_fails_is_kept_apart_and_a_report_of_before_stays(tmp_path):
    source = tmp_path / "source.ipynb"
    parameters = tagged(new_code_cell('RUNS, PRESET = "", ""'), "parameters")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[parameters, new_code_cell("1 / 0")], metadata={"kernelspec": kernel}), source)
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "report.ipynb").write_text("of before")
    path, error = make_report(tmp_path, "smoke", source)
    assert path.name == "report.failed.ipynb" and path.exists() and error.startswith("ZeroDivisionError")
    assert (tmp_path / "smoke" / "report.ipynb").read_text() == "of before"


def test_the_results_notebook_makes_a_page_of_a_grid_that_is_not_complete(runs):
    notebook, error = make_report(runs, "smoke")
    assert (error, notebook) == ("", runs / "smoke" / "report.ipynb")
    text = to_html(notebook).read_text(encoding="utf-8")
    assert_harmless(text)
    assert "Better than prompts alone?" in text and "70.0 [48,\u00a085]" in text and "import pandas" not in text
    assert text.index("Better than prompts alone?") < text.index("Eight strategies")
    assert not list((runs / "smoke").glob(".*")) and not (runs / "smoke" / "report.failed.ipynb").exists()


def test_wide_tables_have_a_row_a_strategy_and_name_the_best_of_each_column():
    runs, items = load_sample(data_dir() / "results" / "laptop.csv")
    runs, items = runs[runs["task"] == "iris"], items[items["task"] == "iris"]
    cells = summarize(runs, items)
    table, css = layout.scores_with_intervals(cells), layout.best_cells(cells)
    assert list(table.index[:2]) == ["vanilla", "Π"] and table.shape == css.shape
    for column in table:
        score = table[column].str.extract(r"^([\d.]+) ")[0].astype(float)
        assert list(css.index[css[column] != ""]) == list(score.index[score == score.max()])
    costs = layout.costs_by_strategy(cost_table(runs))
    assert list(costs.index) == list(table.index) and list(costs.columns.levels[0].sort_values()) == sorted(
        {name for name, _ in table.columns}
    )


def test_leads_have_a_row_a_task_and_lm_and_no_negative_zero():
    row = {"model": "m", "task": "iris", "both": 60.0, "baseline": 50.0, "points": 10.0, "low": -0.01, "high": 20.0}
    rows = [
        row | {"over": name, "best": "Π→Θ", "other": other} for name, other in zip(gains.BASELINES, "ΠΘ", strict=True)
    ]
    table = layout.leads(pd.DataFrame(rows), "laptop")
    assert list(table.index) == ["Iris, m"]
    assert table.loc["Iris, m", ("over prompts alone", "lead in points")] == "+10.0 [+0.0,\u00a0+20.0]"
    assert table.loc["Iris, m", ("over weights alone", "best")] == "Θ 50.0"
    assert set(table.xs("so", axis=1, level=1).iloc[0]) == {"undecided"}
