"""Nothing that a mini task evaluates on can be drawn by pre-training."""

import csv
import json
import random
import re
from itertools import islice

import pytest

from btlib.pocket import problems, worlds
from btlib.pocket import words as w
from btlib.pocket.corpus import documents
from btlib.support.paths import data_dir

SAMPLE = 1500


def rows(name):
    with open(data_dir() / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def text():
    drawn = islice(documents(0), 2 * SAMPLE)
    return "\n".join(m["content"] for d in drawn for m in d.messages)


def split_name(title):
    return title.split(" and ") if " and " in title else title.rsplit(" ", 1)


def test_every_page_of_the_mini_corpus_has_a_held_out_name():
    titles = [row["title"] for row in rows("hotpotqa-mini/passages.jsonl")]
    assert len(titles) == len(set(titles)) > 2000
    assert all(w.held_out(*split_name(title)) for title in titles)


def test_pre_training_worlds_draw_no_held_out_name():
    for seed in range(60):
        world = worlds.make_world(
            random.Random(seed), 9, 8, 5, held=False, pool=random.Random(seed).choice((6, 12, None))
        )
        assert not any(w.held_out(*split_name(title)) for title in world.pages)


def test_no_title_of_the_mini_corpus_occurs_in_documents(text):
    titles = {row["title"] for row in rows("hotpotqa-mini/passages.jsonl")}
    pairs = set(re.findall(r"(?=\b([A-Z][a-z]+ [A-Z][a-z]+)\b)", text)) | set(
        re.findall(r"(?=\b([A-Z][a-z]+ and [A-Z][a-z]+)\b)", text)
    )
    assert len(pairs) > 1000
    # Listings of loose words (the look-up and rule families) may put two such words side by side; a page may not.
    assert not [t for t in titles & pairs if f"{t} |" in text or f"of {t}" in text]


def test_pre_training_problems_are_about_other_people_than_the_mini_problems():
    for part in ("train", "dev", "test"):
        for row in rows(f"gsm8k-mini/{part}.jsonl"):
            assert set(re.findall(r"\w+", row["question"])) & w.PROBLEM_GIVEN_HELD_OUT
    for seed in range(300):
        assert (
            not set(re.findall(r"\w+", problems.make_problem(random.Random(seed), held=False).question))
            & w.PROBLEM_GIVEN_HELD_OUT
        )


@pytest.mark.parametrize("task", ["gsm8k-mini", "hotpotqa-mini"])
def test_no_question_of_a_mini_task_occurs_in_documents_or_in_two_splits(task, text):
    questions = [row["question"] for part in ("train", "dev", "test") for row in rows(f"{task}/{part}.jsonl")]
    assert len(questions) == len(set(questions)) == 1000
    assert not any(question in text for question in questions)


def test_no_iris_flower_occurs_in_documents():
    names = ("petal_length", "petal_width", "sepal_length", "sepal_width")
    with open(data_dir() / "iris.csv", encoding="utf-8") as file:
        flowers = {tuple(row[n] for n in names) for row in csv.DictReader(file)}
    assert len(flowers) > 140
    drawn = 0
    for document in islice(documents(0, family="classes"), 2 * SAMPLE):
        for message in document.messages:
            fields = dict(re.findall(r"\[\[ ## (\w+) ## \]\]\n([\d.]+)", message["content"]))
            drawn += bool(fields)
            assert tuple(fields.get(n) for n in names) not in flowers
    assert drawn > SAMPLE
