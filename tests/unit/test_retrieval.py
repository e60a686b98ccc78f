"""The retriever: what it finds, that copies share it, and what it says about a bad file."""

import copy
import json
import os

import bm25s
import pytest
from fakes import write_jsonl

from btlib import retrieval
from btlib.errors import BtlibError
from btlib.search import Retriever, gold_found, load_retriever, title_of

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


def test_scores_are_those_of_bm25s_on_the_words_themselves():
    index = bm25s.BM25(method="lucene")
    index.index(bm25s.tokenize(PASSAGES, stopwords="en", return_ids=False, show_progress=False), show_progress=False)
    words = ["river", "corin", "alba", "corin"]
    ours = Retriever(PASSAGES)._index.get_scores(words)
    assert ours.tolist() == index.get_scores(words).tolist() and max(ours) > 0


def test_more_passages_than_there_are():
    assert len(Retriever(PASSAGES).search("Alba Corin", k=50)) == 3
    assert Retriever(PASSAGES).search("Alba", k=0) == []
    assert Retriever(["the | of"]).search("the", k=1) == []  # a corpus of nothing but stop words


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


LINES = {
    "p.jsonl": [json.dumps({"title": p.split(" | ")[0], "text": p.split(" | ")[1]}) for p in PASSAGES],
    "p.tsv": [p.replace(" | ", "\t") for p in PASSAGES],
}


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Index every file on disk, however small; count how often one is indexed."""
    monkeypatch.setattr(retrieval, "IN_MEMORY", 0)
    monkeypatch.setenv("BTLIB_CACHE", str(tmp_path / "cache"))
    built, build = [], retrieval.build_index
    monkeypatch.setattr(retrieval, "build_index", lambda *args: (built.append(args[0].name), build(*args)))
    return built


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_large_file_is_indexed_once_and_answers_as_in_memory(tmp_path, on_disk, name, end):
    path = tmp_path / name
    path.write_bytes(("\n".join(LINES[name][:2]) + "\n\n" + LINES[name][2] + end).encode())
    for _ in range(2):
        retrieval._load.cache_clear()  # as another process would begin
        retriever = load_retriever(path)
        for query in ("painter Corin", "river", "Alba Corin town", "zebra", ""):
            assert retriever.search(query, 2) == Retriever(PASSAGES).search(query, 2)
        assert list(retriever.passages) == PASSAGES and retriever.passages[1:] == PASSAGES[1:]
    assert on_disk == [name]
    (folder,) = (path for path in (tmp_path / "cache" / "bm25").iterdir() if path.is_dir())
    assert all(file.suffix in (".npy", ".json") for file in folder.iterdir())  # nothing to unpickle


def test_a_changed_file_is_indexed_again(tmp_path, on_disk):
    path = tmp_path / "p.tsv"
    path.write_text("A\tone\n")
    load_retriever(path)
    path.write_text("A\ttwo\n")  # of the same size
    os.utime(path, ns=(1, 1))
    assert load_retriever(path).search("two", 1) == ["A | two"]
    assert on_disk == ["p.tsv", "p.tsv"]


def test_a_broken_line_leaves_no_index(tmp_path, on_disk):
    path = tmp_path / "p.tsv"
    path.write_text("A\tone\nB two\n")
    with pytest.raises(BtlibError, match="p.tsv, line 2: field 'text' must be a non-empty str"):
        load_retriever(path)
    path.write_bytes(b"A\tone\n\xff\ttwo\n")
    with pytest.raises(BtlibError, match="p.tsv, line 2: not UTF-8"):
        load_retriever(path)
    assert not [path for path in (tmp_path / "cache" / "bm25").iterdir() if path.is_dir()]


def test_a_damaged_index_is_named(tmp_path, on_disk):
    path = tmp_path / "p.tsv"
    path.write_text("A\tone\n")
    load_retriever(path)
    next((tmp_path / "cache" / "bm25").glob("*/params*")).unlink()
    retrieval._load.cache_clear()
    with pytest.raises(BtlibError, match="delete that folder") as caught:
        load_retriever(path)
    assert "\n" not in str(caught.value)


def test_a_text_may_be_a_list_of_sentences(tmp_path):
    write_jsonl(tmp_path / "wiki.jsonl", [{"id": 1, "title": "A", "text": ["One.", " Two."]}])
    assert load_retriever(tmp_path / "wiki.jsonl").passages == ("A | One. Two.",)
