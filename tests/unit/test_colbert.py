"""The ColBERTv2 client against a local server that answers in the public server's format."""

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
from servers import serve

from btlib import tasks
from btlib.__main__ import main
from btlib.errors import BtlibError
from btlib.runs import execute, make_spec
from btlib.runs.provenance import check_servers, retriever_fingerprint, sources
from btlib.search import load_retriever
from btlib.search.colbert import ColBERT
from btlib.tasks import load_task


def hits(method, path, given):
    texts = [f"{given['query']} {rank} | text" for rank in range(1, int(given["k"]) + 1)]
    topk = [
        {"text": text, "pid": 7 * rank, "rank": rank, "score": 30.5 - rank, "prob": 1 / rank}
        for rank, text in enumerate(texts, start=1)
    ]
    return 200, {"query": given["query"], "topk": topk}


def test_a_url_is_searched_in_the_servers_format(tmp_path):
    with serve(hits) as server:
        retriever = load_retriever(server.url, cache=tmp_path)
        assert retriever.search("Who? & whö", 2) == ["Who? & whö 1 | text", "Who? & whö 2 | text"]
        assert server.asked == [("GET", "/api/search", {"query": "Who? & whö", "k": "2"})]
        ColBERT(f"{server.url}/wiki17_abstracts", cache=tmp_path).search("a", 1)
        assert server.asked[-1][1] == "/wiki17_abstracts"


def test_a_query_in_the_url_is_part_of_every_request_and_of_the_name(tmp_path):
    with serve(hits) as server:
        wiki, news = (ColBERT(f"{server.url}/api?index={name}", cache=tmp_path) for name in ("wiki", "news"))
        assert wiki.search("one", 1) == news.search("one", 1) == ["one 1 | text"]  # neither took the other's answer
        assert [asked[1:] for asked in server.asked] == [
            ("/api", {"index": name, "query": "one", "k": "1"}) for name in ("wiki", "news")
        ]
        assert wiki.name == f"ColBERTv2 at {server.url}/api?index=wiki"
        bare = ColBERT(f"{server.url}?index=wiki&api_key=s3cret", cache=tmp_path)
        bare.search("one", 1)
        assert server.asked[-1][1:] == (
            "/api/search",
            {"index": "wiki", "api_key": "s3cret", "query": "one", "k": "1"},
        )
        assert bare.name == f"ColBERTv2 at {server.url}/api/search?index=wiki&api_key=..."


@pytest.mark.parametrize("one, other", [("index=wiki", "index=news"), ("wiki", "news"), ("passages=a", "passages=b")])
def test_two_indexes_of_a_server_have_two_fingerprints(one, other):
    prints = [retriever_fingerprint(f"http://host/api?{query}") for query in (one, other, one)]
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize(
    "name", ["key", "api_key", "token", "access_token", "secret", "password", "pwd", "Authorization"]
)
def test_what_is_secret_in_a_url_stands_in_no_record(name):
    url = f"https://me:s3cret@host/api?{name}=s3cret&index=wiki#s3cret"
    assert retriever_fingerprint(url) == {"retriever": f"https://host/api?{name}=...&index=wiki"}
    assert retriever_fingerprint(url) == retriever_fingerprint(url.replace("s3cret", "other"))
    assert "s3cret" not in ColBERT(url).name


def test_an_answer_is_kept_on_disk_and_asked_for_once(tmp_path):
    with serve(hits) as server:
        first = ColBERT(server.url, cache=tmp_path).search("one", 3)
        assert ColBERT(server.url, cache=tmp_path).search("one", 3) == first
        assert ColBERT(server.url, cache=tmp_path).search("one", 1) == first[:1]
        assert len(server.asked) == 2  # k is part of the question
    assert ColBERT(server.url, cache=tmp_path, attempts=1).search("one", 3) == first  # the server is gone
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(json.loads(path.read_text())["passages"] for path in files) and len(files) == 2


def test_a_damaged_cache_file_is_asked_for_again(tmp_path):
    with serve(hits) as server:
        retriever = ColBERT(server.url, cache=tmp_path)
        first = retriever.search("one", 1)
        (file,) = (path for path in tmp_path.rglob("*.json"))
        file.write_text("{")
        assert retriever.search("one", 1) == first and json.loads(file.read_text())


def test_passing_faults_are_tried_again_and_others_are_not(tmp_path):
    statuses = iter([503, 429, 200])

    def flaky(method, path, given):
        status = next(statuses)
        return hits(method, path, given) if status == 200 else (status, "busy")

    with serve(flaky) as server:
        retriever = ColBERT(server.url, cache=tmp_path, pause=0.01)
        assert len(retriever.search("one", 2)) == 2 and len(server.asked) == 3 and not retriever.failed
    with serve(lambda *_: (404, "no such page")) as server:
        retriever = ColBERT(server.url, cache=tmp_path, pause=0.01)
        with pytest.raises(BtlibError, match="404.*tried 1 times"):
            retriever.search("one", 2)
        assert len(server.asked) == 1 and "404" in retriever.failed


def test_a_server_that_does_not_answer_is_one_line(tmp_path):
    done = threading.Event()

    def silent(method, path, given):
        done.wait(30)
        return hits(method, path, given)

    with serve(silent) as server:
        patient = ColBERT(server.url, cache=tmp_path, timeout=0.2, attempts=2, pause=0.01)
        with pytest.raises(BtlibError, match=r"Timeout.*tried 2 times\); check the URL, or search a file") as caught:
            patient.search("one", 1)
        assert "\n" not in str(caught.value) and "Timeout" in patient.failed
        done.set()
    with pytest.raises(BtlibError, match="ColBERTv2 at http://127.0.0.1.*ConnectError") as caught:
        ColBERT(server.url.replace("//", "//me:secret@"), cache=tmp_path, attempts=2, pause=0.01).search("one", 1)
    assert "secret" not in str(caught.value)


OTHER_ANSWERS = ["<html>", "[]", {"error": True, "message": "busy"}, {"topk": [{"pid": 1}]}, {"topk": [{"text": 3}]}]


@pytest.mark.parametrize("body", OTHER_ANSWERS)
def test_an_answer_in_another_format_is_one_line(tmp_path, body):
    with serve(lambda *_: (200, body)) as server:
        with pytest.raises(BtlibError, match=r"not a ColBERTv2 server's.*tried 2 times\); check the URL") as caught:
            ColBERT(server.url, cache=tmp_path, attempts=2, pause=0.01).search("one", 1)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("body", OTHER_ANSWERS)
def test_a_busy_server_that_says_so_with_status_200_loses_no_run(tmp_path, body):
    answers = iter([body, None])

    def busy_once(method, path, given):
        answer = next(answers)
        return hits(method, path, given) if answer is None else (200, answer)

    with serve(busy_once) as server:
        retriever = ColBERT(server.url, cache=tmp_path, pause=0.01)
        assert retriever.search("one", 1) == ["one 1 | text"] and not retriever.failed
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("x " * 1500, " ".join(["x"] * 64)),
        ("one\n two", "one\n two"),  # a short one goes out as it was written
        ("x" * 9000, "x" * 2000),
        ("首都" * 500, ("首都" * 500)[:222]),  # nine bytes a letter in a URL
    ],
)
def test_a_query_of_any_length_is_found_and_cut_ones_are_counted(tmp_path, query, sent):
    def strict(method, path, given):
        return hits(method, path, given) if len(given["query"]) <= 2000 else (414, "URI Too Long")

    with serve(strict) as server:
        retriever = ColBERT(server.url, cache=tmp_path)
        assert retriever.search(query, 1) == [f"{sent} 1 | text"]
        assert retriever.shortened == (sent != query) and not retriever.failed


def test_a_runs_record_counts_the_queries_that_were_cut(world, tmp_path, monkeypatch):
    load = tasks.load_for
    retriever = SimpleNamespace(name="a server", shortened=3)
    monkeypatch.setattr(tasks, "load_for", lambda *names: replace(load(*names), retriever=retriever))
    run = execute(make_spec("gsm8k", "pocket", "", 0, "smoke"), tmp_path / "runs")
    assert run.record["sources"] == {"data": "mini", "retriever": "a server", "queries_shortened": 3}


def test_a_refused_query_is_told_without_the_query_and_the_key(tmp_path):
    with serve(lambda *_: (414, "URI Too Long")) as server:
        with pytest.raises(BtlibError, match=r"does not answer \(414 .*tried 1 times") as caught:
            ColBERT(f"{server.url}?api_key=s3cret", cache=tmp_path).search("word " * 60, 1)
    assert "word word" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_an_empty_query_finds_nothing_and_copies_share_the_client(tmp_path):
    with serve(hits) as server:
        retriever = ColBERT(server.url, cache=tmp_path)
        assert retriever.search("  ", 3) == [] and server.asked == []
        assert copy.deepcopy([retriever])[0] is retriever
    with pytest.raises(BtlibError, match="bad URL"):
        ColBERT("http://")


def test_many_threads_at_once(tmp_path):
    with serve(hits) as server:
        retriever = ColBERT(server.url, cache=tmp_path)
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda i: retriever.search(f"q{i % 5}", 1), range(60)))
    assert found == [[f"q{i % 5} 1 | text"] for i in range(60)]


def test_a_run_that_lost_its_server_is_refused_and_one_that_kept_it_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_CACHE", str(tmp_path))
    with serve(hits) as server:
        task = load_task("hotpotqa", retriever=server.url)
        assert len(task.program().retriever.search("a", 3)) == 3
        assert sources(task, None)["retriever"] == f"ColBERTv2 at {server.url}/api/search"
        check_servers(task, None)
    task.retriever._attempts = 1
    with pytest.raises(BtlibError):
        task.retriever.search("b", 3)
    with pytest.raises(BtlibError, match="does not answer.*the run is not kept, the same command"):
        check_servers(task, None)


def test_the_grid_asks_the_server_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BTLIB_CACHE", str(tmp_path))
    with serve(lambda *_: (404, "no such page")) as server:
        arguments = ["--preset", "smoke", "--tasks", "hotpotqa", "--runs", str(tmp_path / "runs")]
        assert main(["grid", *arguments, "--retriever", f"{server.url}/wiki"]) == 2
        assert len(server.asked) == 1
    assert f"ColBERTv2 at {server.url}/wiki does not answer" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert main(["grid", *arguments, "--retriever", str(tmp_path / "none.tsv"), "--dry-run"]) == 2
    assert "none.tsv" in capsys.readouterr().err
