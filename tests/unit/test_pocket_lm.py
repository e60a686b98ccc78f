"""The embedded LM as it is shipped: its files, its size, and that it follows ChatAdapter's form."""

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
from safetensors import safe_open

from btlib.lm import load_lm
from btlib.pocket import corpus, evaluate
from btlib.pocket.classes import LEANING, reasoning
from btlib.presets import load_preset
from btlib.steps import evaluate as score
from btlib.steps import vanilla_state
from btlib.support.paths import data_dir
from btlib.tasks import load_for

FOLDERS = sorted(data_dir().glob("pocket*-lm"))
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)


@each
def test_weights_are_one_small_safetensors_file_in_bf16(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    bound = 18e6 if folder.name == "pocket-l-lm" else 16e6  # three times the weights of pocket do not fit in 16 MB
    assert (folder / "model.safetensors").stat().st_size < bound
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {str(file.get_slice(key).get_dtype()) for key in file.keys()} == {"BF16"}  # noqa: SIM118


def test_all_weights_together_stay_below_30_megabytes():
    assert 5e6 < sum((folder / "model.safetensors").stat().st_size for folder in FOLDERS) < 30e6


@each
@pytest.mark.parametrize("demos", [0, 6])
def test_answers_follow_the_adapters_form(folder, demos, monkeypatch):
    monkeypatch.setattr(evaluate, "load_lm", partial(load_lm, dtype="float32"))  # the same answers on every CPU
    drawn = [d for f in corpus.FAMILIES for d in islice(corpus.documents(evaluate.SEED, family=f, demos=demos), 5)]
    texts = evaluate.answers(folder, drawn)
    followed = sum(evaluate.followed(document, text) for document, text in zip(drawn, texts, strict=True))
    assert followed >= 0.95 * len(drawn)


def test_classes_are_told_by_demonstrations_and_not_by_the_species_names():
    """With the names exchanged, what the LM could know of Iris beforehand would make every answer wrong."""
    preset = load_preset("laptop")
    task = load_for(preset, "iris")
    state = vanilla_state(task, load_lm("pocket", dtype="float32"))
    other = {"setosa": "virginica", "virginica": "versicolour", "versicolour": "setosa"}
    demos = []
    for species in other:
        for flower in [f for f in task.train if f.answer == species][:2]:
            told = reasoning("bound", "petal_length", flower.petal_length, other[species])
            demos.append(flower.copy(reasoning=told, answer=other[species], augmented=True).without("id"))
    state.program.pred.predict.demos = demos
    result = score(state, task.dev, lambda flower, said, trace=None: said.answer == other[flower.answer], preset)
    assert result.score > 60 and result.failed_parses == 0


def test_documents_keep_the_habit_that_is_counted_in_four_cases_of_five(monkeypatch):
    monkeypatch.setattr(evaluate, "answers", lambda folder, drawn: [d.messages[-1]["content"] for d in drawn])
    assert 100 * LEANING < evaluate.habit(FOLDERS[0]) < 95  # and by chance in some of the others


def test_a_reader_copies_the_label_that_is_shown_for_the_very_digit(monkeypatch):
    told = "The {0} is {1}.{2}. For a {0} of at least {1} {3} fits best."
    turns = [told.format("leaf_width", *turn) for turn in ((4, 2, "red"), (7, 1, "blue"), (4, 9, "red"))]
    messages = [{"content": text} for turn in turns for text in ("asked", turn)]
    document = corpus.Document("classes", 2, ({"content": "system"}, *messages), "red", "answer", True)
    assert evaluate.shown_label(document) == "red"
    assert evaluate.shown_label(replace(document, messages=(document.messages[0], *messages[2:]))) == ""  # 7 only
    monkeypatch.setattr(evaluate, "answers", lambda folder, drawn: [d.messages[-1]["content"] for d in drawn])
    share, count = evaluate.reading(FOLDERS[0], 6, documents=60)
    assert share > 75 and 10 < count < 60  # classes overlap, so that even the documents' own labels differ at times
