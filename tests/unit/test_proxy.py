"""Companies' proxies: a server on this machine is reached without one, and one that is in the way is named."""

from __future__ import annotations

import os
import sys

import dspy
import pytest
from servers import serve
from test_colbert import hits
from test_server import StandIn

from btlib.errors import BtlibError
from btlib.lm import load_lm
from btlib.lm.server import Server
from btlib.search.colbert import ColBERT
from btlib.support.proxy import is_here, proxy_of

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
DEAD = "http://me:secret@127.0.0.1:9"  # nobody listens there


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what a test leaves is undone
        monkeypatch.setenv(name.lower(), "")
        monkeypatch.delenv(name)
        monkeypatch.delenv(name.lower())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("BTLIB_CACHE", str(tmp_path))
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)


@pytest.mark.parametrize(
    "proxies",
    [
        {"HTTP_PROXY": DEAD},
        {"http_proxy": DEAD, "no_proxy": "intranet"},
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"ALL_PROXY": "nonsense://x"},
    ],
)
def test_a_server_on_this_machine_answers_whatever_the_proxy(monkeypatch, tmp_path, proxies):
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    with serve(StandIn("some/lm")) as http:
        Server("openai/some/lm", http.url).check()
        assert "3" in load_lm("openai/some/lm", api_base=http.url)("1 2")[0]
    with serve(hits) as http:
        assert ColBERT(http.url, cache=tmp_path).search("one", 1) == ["one 1 | text"]
    kept = {name: os.environ[name] for name in proxies if name.lower() != "no_proxy"}
    assert kept == {name: value for name, value in proxies.items() if name in kept}  # others still go through it
    assert os.environ["NO_PROXY"].split(",")[:1] == ([proxies["no_proxy"]] if "no_proxy" in proxies else ["127.0.0.1"])


def test_without_a_proxy_the_environment_stays_as_it_was():
    before = dict(os.environ)
    with serve(StandIn("some/lm")) as http:
        load_lm("openai/some/lm", api_base=http.url)
    assert {name: os.environ.get(name) for name in NAMES} == {name: before.get(name) for name in NAMES}


def test_a_proxy_that_is_in_the_way_is_named_without_its_password(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    said = r"through the proxy http://127.0.0.1:9: set NO_PROXY=server.test if it is not to be used"
    with pytest.raises(BtlibError, match=said) as caught:
        Server("openai/some/lm", "http://server.test/v1").check()
    assert "secret" not in str(caught.value)
    with pytest.raises(BtlibError, match=said):
        ColBERT("http://server.test/", cache=tmp_path, attempts=1).search("one", 1)
    monkeypatch.setenv("NO_PROXY", "server.test")
    assert proxy_of("http://server.test/v1") == "" != proxy_of("http://other.test")


def test_a_proxy_that_answers_in_a_servers_place_is_named(monkeypatch):
    with serve(lambda *_: (403, "blocked")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(BtlibError, match=r"403: blocked, through the proxy http://127.0.0.1"):
            Server("openai/some/lm", "http://server.test/v1").check()


def test_a_socks_proxy_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test:1080")
    with pytest.raises(BtlibError, match="cannot go through the proxy socks5://proxy.test:1080, only .* http://"):
        Server("openai/some/lm", "http://server.test/v1")
    monkeypatch.setitem(sys.modules, "socksio", None)  # not installed
    said = r"\(ALL_PROXY\) cannot be used \(.*socksio.*install `httpx\[socks\]`"
    with pytest.raises(BtlibError, match=said) as caught:
        ColBERT("http://server.test/", cache=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True), ("127.0.0.1", True), ("127.1.2.3", True),
        ("0.0.0.0", True), ("[::1]", True), ("10.0.0.1", False), ("localhost.test", False), ("server", False),
    ],
)  # fmt: skip
def test_what_this_machine_is_called(host, here):
    assert is_here(f"http://{host}:8000/v1") == here
