"""What notebooks show: tables that are escaped, alike in every run and readable as plain text; diagrams; verdicts."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from btlib.results.shown import check, diagram, titled


def frame():
    return pd.DataFrame({"what": ["<b>Π</b>", "Θ"], "score %": [35.04, float("nan")], "n": [40, 40]})


def test_text_in_cells_titles_and_columns_cannot_be_taken_for_html():
    page = titled(frame().rename(columns={"n": "<n>"}), "1 < 2", "a & b").to_html()
    assert "&lt;b&gt;Π&lt;/b&gt;" in page and "&lt;n&gt;" in page and "1 &lt; 2" in page and "a &amp; b" in page


def test_numbers_have_the_digits_asked_for_and_a_missing_one_is_a_dash():
    assert ">35.0<" in titled(frame(), "t").to_html() and ">35.04<" in titled(frame(), "t", digits=2).to_html()
    assert ">–<" in titled(frame(), "t").to_html()


def test_the_same_table_gives_the_same_html():
    assert titled(frame(), "t").to_html() == titled(frame(), "t").to_html()


def test_plain_text_has_title_note_and_rows():
    lines = repr(titled(frame(), "Scores", "of 40")).splitlines()
    assert lines[:2] == ["Scores", "of 40"] and lines[-1].split() == ["Θ", "–", "40"]


@pytest.mark.parametrize("index, there", [(["first", "second"], True), (None, False)])
def test_an_index_that_only_counts_is_left_out(index, there):
    page = titled(frame() if index is None else frame().set_axis(index), "t").to_html()
    assert ("row_heading" in page) is there


def test_no_colour_is_fixed_and_nothing_is_fetched():
    page = titled(frame(), "t").to_html()
    assert "#fff" not in page and "background" not in page and "http" not in page


def test_a_diagram_has_its_boxes_and_an_arrow_with_a_label():
    boxes = {"a": (0, 0, "question", "#0072B2"), "b": (1, 0, "answer", "#7F7F7F")}
    figure = diagram(boxes, [("a", "b", "LM")])
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].texts] == ["question", "answer", "", "LM"]
    plt.close(figure)


@pytest.mark.parametrize(
    "mine, right, told",
    [
        (None, 3, "no answer yet"),
        (3.05, 3, "right"),
        (4, 3, "too high"),
        (2, 3, "too low"),
        ({"a"}, {"a"}, "right"),
        ({"b"}, {"a"}, "not yet"),
    ],
)
def test_an_exercise_gets_a_verdict(mine, right, told, capsys):
    check("Exercise 1", mine, right, within=0.1)
    assert told in capsys.readouterr().out
