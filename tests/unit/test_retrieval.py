"""The retriever: what it finds, that copies share it, and what it says about a bad file."""

import copy

import pytest
from fakes import write_jsonl

from btlib.errors import BtlibError
from btlib.retrieval import Retriever, gold_found, load_retriever, title_of

PASSAGES = [
    "Alba | Alba is a river in the north.",
    "Corin | Corin is a town on the river Alba.",
    "Dunmore | Dunmore is a painter who was born in Corin.",
]


def test_the_best_passage_comes_first_and_strangers_stay_out():
    retriever = Retriever(PASSAGES)
    assert retriever.search("painter Dunmore", k=2)[0] == PASSAGES[2]
    assert retriever.search("the painter", k=3) == [PASSAGES[2]]
    assert len(retriever.search("Corin", k=1)) == 1


@pytest.mark.parametrize("query", ["", "   ", "the of", "zebra", "?!"])
def test_a_query_without_a_known_word_finds_nothing(query):
    assert Retriever(PASSAGES).search(query, k=3) == []


def test_ties_keep_the_files_order():
    retriever = Retriever([f"T{i} | equal words here" for i in range(50)])
    assert retriever.search("equal", k=3) == [f"T{i} | equal words here" for i in range(3)]


def test_a_copy_is_the_same_index():
    retriever = Retriever(PASSAGES)
    assert copy.deepcopy({"x": [retriever]})["x"][0] is retriever


def test_gold_titles():
    assert title_of("A b | c | d") == "A b"
    assert gold_found(PASSAGES[:2], ["Alba", "Dunmore"]) == [True, False]


def test_a_file_is_indexed_once_until_it_changes(tmp_path):
    path = tmp_path / "passages.jsonl"
    write_jsonl(path, [{"title": "A", "text": "one\u2028two"}])
    first = load_retriever(path)
    assert first.passages == ("A | one\u2028two",)
    assert load_retriever(path) is first
    write_jsonl(path, [{"title": "A", "text": "one"}, {"title": "B", "text": "two"}])
    assert load_retriever(path).search("two", 1) == ["B | two"]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"title": "A"}', "line 2: field 'text'"),
        ('{"title": "", "text": "x"}', "line 2: field 'title'"),
        ('{"title": "A | B", "text": "x"}', "line 2: field 'title' must not hold"),
        ("{oops", "line 2: no valid JSON"),
        ('["A", "x"]', "line 2: field 'title'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "passages.jsonl"
    path.write_text('{"title": "Z", "text": "z"}\n' + line + "\n")
    with pytest.raises(BtlibError, match=f"passages.jsonl, {message}"):
        load_retriever(path)


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(BtlibError, match="passages.jsonl"):
        load_retriever(tmp_path / "passages.jsonl")
    (tmp_path / "passages.jsonl").write_text("")
    with pytest.raises(BtlibError, match="holds no passages"):
        load_retriever(tmp_path / "passages.jsonl")
