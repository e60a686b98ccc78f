"""The retriever: what it finds and how it scores, that copies share it, and what it says about a bad file."""

import copy
import json
import math
import os
import random

import pytest
import tantivy
from fakes import write_jsonl

from btlib.errors import BtlibError
from btlib.search import Retriever, bm25, gold_found, load_retriever, title_of

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


@pytest.mark.parametrize("query", ["", "   ", "zebra", "?!", "zebra the of", "the zebra's"])
def test_a_query_without_a_known_word_finds_nothing(query):
    assert Retriever(PASSAGES).search(query, k=3) == []


def formula(passages: list[str], query: list[str]) -> list[float]:
    """The scores of passages by the formula in bm25.py's docstring, in float64."""
    texts = [passage.lower().replace("|", "").replace(".", "").split() for passage in passages]
    k1, b, count, average = 1.2, 0.75, len(texts), sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in query:
            having, times = sum(word in other for other in texts), text.count(word)
            weight = math.log(1 + (count - having + 0.5) / (having + 0.5))
            score += weight * times * (k1 + 1) / (times + k1 * (1 - b + b * len(text) / average))
        scores.append(score)
    return scores


def drawn(count: int, longest: int = 38) -> list[str]:
    """Passages of common and rare words, at most 40 words with the title: so far their lengths are kept exactly."""
    draw = random.Random(0)
    words = [f"w{i}" for i in range(30)]
    chances = [1 / (1 + i) for i in range(30)]
    return [f"T{i} | {' '.join(draw.choices(words, chances, k=draw.randrange(1, longest)))}" for i in range(count)]


@pytest.mark.parametrize("query", ["w1", "w2 w9 w28", "w3 w3 w3 w4", "The w5 of w6", "w7, W7; unknown"])
def test_scores_are_those_of_the_formula(query):
    """The index computes in fp32: 24 bits, and a few roundings a word, none of which cancel."""
    passages = drawn(300)
    words = [word.strip(",;") for word in query.lower().split() if word not in ("The", "of")]
    wanted = {n: score for n, score in enumerate(formula(passages, words)) if score}
    got = Retriever(passages).scores(query, 300)
    assert dict(got).keys() == wanted.keys() and len(got) > 20
    assert all(abs(score - wanted[n]) <= 1e-5 * wanted[n] for n, score in got)
    assert got == sorted(got, key=lambda hit: (-hit[1], hit[0]))


def test_a_word_counts_as_often_as_the_query_says_it():
    retriever = Retriever(PASSAGES)
    (one,), (two,) = retriever.scores("painter", 1), retriever.scores("painter painter", 1)
    assert two[0] == one[0] and two[1] == 2 * one[1]  # a power of two: exact
    assert retriever.search("town painter painter", 1) == [PASSAGES[2]]
    assert retriever.search("town town painter", 1) == [PASSAGES[1]]


def test_ties_keep_the_files_order():
    retriever = Retriever([f"T{i} | equal words here" for i in range(50)])
    assert retriever.search("equal", k=3) == [f"T{i} | equal words here" for i in range(3)]


def test_ties_keep_the_files_order_wherever_they_lie_and_however_many_they_are():
    """Thousands of equal passages among others, and queries whose words differ in weight."""
    draw, same = random.Random(1), "w1 w4 w4 w9 w20 w27"
    passages = [f"T{i} | {same}" if draw.random() < 0.5 else text for i, text in enumerate(drawn(6000, longest=12))]
    retriever = Retriever(passages)
    twins = [n for n, passage in enumerate(passages) if passage.endswith(f"| {same}")]
    for query in ("w4", "w20 w4 w27", "w9 w1 w20 w27 w4 w3"):
        whole = retriever.scores(query, 6000)
        assert [n for n, _ in whole if n in set(twins)] == twins
        assert len({score for n, score in whole if n in set(twins)}) == 1
        assert all(retriever.scores(query, k) == whole[:k] for k in (1, 3, 40, 1500))


def test_stop_words_count_in_a_query_of_nothing_else():
    passages = ["The Who | The Who are a band.", "Who | A physician.", *PASSAGES]
    retriever = Retriever(passages)
    assert retriever.search("the physician", 5) == [passages[1]]
    assert retriever.search("the", 5) and all(" the " in f" {text.lower()} " for text in retriever.search("the", 5))
    assert retriever.search("The of a", 5)[0] in passages
    assert Retriever(["the | of"]).search("the", k=1) == ["the | of"]  # a corpus of nothing but stop words


@pytest.mark.parametrize(
    "query, title",
    [
        ("It", "It (novel)"),
        ("C", "C (programming language)"),
        ("首都", "東京"),
        ("日本の首都はどこですか", "東京"),
        ("ÉLAN", "Élan"),
        ("ไทย", "กรุงเทพ"),
    ],
)
def test_single_letters_stop_words_and_scripts_without_spaces_find_their_title(query, title):
    passages = [
        "Derry | A town in a book about fear.",
        "It (novel) | It is a book by King.",
        "C (programming language) | C was made at Bell.",
        "東京 | 東京は日本の首都です。",
        "京都 | 京都は古い町です。",
        "Élan | A British car.",
        "กรุงเทพ | เมืองหลวงของไทย",
    ]
    assert title_of(Retriever(passages).search(query, 3)[0]) == title


@pytest.mark.parametrize("sign", ["+", "-", '"', "(", ")", ":", "^", "~", "*", "\\", "[", "]", "{", "}", "!", "?", "/"])
def test_signs_of_a_query_language_are_no_language(sign):
    retriever = Retriever(PASSAGES)
    plain = retriever.search("painter river", 3)
    assert plain and retriever.search(sign, 3) == retriever.search(sign * 3, 3) == []
    for query in (
        f"{sign}painter {sign}river",
        f"painter{sign} river{sign}",
        f"painter{sign}river",
        f"painter {sign}2 river",
    ):
        assert retriever.search(query, 3) == plain


def test_words_of_a_query_language_are_words():
    odd = "A | text:painter AND river"
    retriever = Retriever([odd, *PASSAGES])
    assert retriever.search("text:zebra", 4) == [odd]
    assert retriever.search("zebra AND cow", 4) == retriever.search("number:[0 TO 3]", 4) == []
    assert set(retriever.search("NOT painter", 4)) == {odd, PASSAGES[2]}


def test_a_query_of_thousands_of_words_is_answered():
    retriever = Retriever(drawn(300))
    once = retriever.search("w3 w9", 3)
    assert retriever.search("w3 w9 " * 1000, 3) == once
    strangers = " ".join(f"x{i}" for i in range(5000))
    assert retriever.search(f"{strangers} w3 w9", 3) == once
    assert retriever.search("w" * 100_000, 3) == []


def test_more_passages_than_there_are():
    assert len(Retriever(PASSAGES).search("Alba Corin", k=50)) == 3
    assert Retriever(PASSAGES).search("Alba", k=0) == []
    with pytest.raises(BtlibError, match="at least one passage"):
        Retriever([])


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
    monkeypatch.setattr(bm25, "IN_MEMORY", 0)
    monkeypatch.setenv("BTLIB_CACHE", str(tmp_path / "cache"))
    built, build = [], bm25.build_index
    monkeypatch.setattr(bm25, "build_index", lambda *args: (built.append(args[0].name), build(*args)))
    return built


def kept(tmp_path):
    """The folder of the one index that is kept."""
    (folder,) = (path for path in (tmp_path / "cache" / "bm25").iterdir() if path.is_dir())
    return folder


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_large_file_is_indexed_once_and_answers_as_in_memory(tmp_path, on_disk, name, end):
    path = tmp_path / name
    path.write_bytes(("\n".join(LINES[name][:2]) + "\n\n" + LINES[name][2] + end).encode())
    for _ in range(2):
        bm25._load.cache_clear()  # as another process would begin
        retriever = load_retriever(path)
        for query in ("painter Corin", "river", "Alba Corin town", "zebra", ""):
            assert retriever.scores(query, 2) == Retriever(PASSAGES).scores(query, 2)
        assert list(retriever.passages) == PASSAGES and retriever.passages[1:] == PASSAGES[1:]
    assert on_disk == [name]
    suffixes = {file.suffix for file in kept(tmp_path).iterdir()}  # tantivy's own and NumPy's: nothing to unpickle
    assert suffixes <= {".json", ".npy", ".lock", ".term", ".idx", ".pos", ".fieldnorm", ".fast", ".store"}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("where", ["in memory", "on disk"])
def test_the_mark_that_some_editors_put_first_is_no_part_of_a_title(tmp_path, request, name, where):
    if where == "on disk":
        request.getfixturevalue("on_disk")
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(LINES[name]).encode())
    retriever = load_retriever(path)
    assert list(retriever.passages) == PASSAGES and gold_found(retriever.search("Alba river", 1), ["Alba"]) == [True]


def test_one_segment_or_several_answer_alike(tmp_path):
    """What a file is cut into depends on the memory of the machine that indexes it, if it is large enough."""
    passages = drawn(2000)
    index = tantivy.Index(bm25._SCHEMA, path=str(tmp_path))
    index.register_tokenizer("words", bm25._ANALYZER)
    writer = index.writer(heap_size=32 << 20, num_threads=1)
    for number, passage in enumerate(passages):
        writer.add_document(tantivy.Document(text=passage, number=number))
        if number % 600 == 599:
            writer.commit()
    writer.commit()
    index.reload()
    assert index.searcher().num_segments > 1
    one, several = Retriever(passages), Retriever(passages, index)
    for query in ("w1", "w2 w9 w28", "w20 w3 w3 w11 w29", "T7 T1999 w4"):
        for k in (1, 3, 2000):
            assert several.scores(query, k) == one.scores(query, k)


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


@pytest.mark.parametrize("what", ["meta.json", "starts.npy", "*.term", "*.idx", "*.pos", "*.fast", "*.fieldnorm"])
def test_a_damaged_index_is_named(tmp_path, on_disk, what):
    path = tmp_path / "p.tsv"
    path.write_text("A\tone\n")
    load_retriever(path)
    (file,) = kept(tmp_path).glob(what)
    whole = file.read_bytes()
    for damaged in (None, b"", whole[: len(whole) // 2], bytes(byte ^ 90 for byte in whole)):
        file.unlink(missing_ok=True) if damaged is None else file.write_bytes(damaged)
        bm25._load.cache_clear()
        with pytest.raises(BtlibError, match="delete that folder") as caught:
            load_retriever(path)
        assert "\n" not in str(caught.value) and str(kept(tmp_path)) in str(caught.value)
    file.write_bytes(whole)
    assert load_retriever(path).search("one", 1) == ["A | one"]


def test_a_text_may_be_a_list_of_sentences(tmp_path):
    write_jsonl(tmp_path / "wiki.jsonl", [{"id": 1, "title": "A", "text": ["One.", " Two."]}])
    assert load_retriever(tmp_path / "wiki.jsonl").passages == ("A | One. Two.",)
