"""An LM on a server: Π by HTTP alone, Θ trained here and handed over; against a stand-in, and `transformers serve`."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import dspy
import httpx
import pytest
from dspy.utils.exceptions import LMError
from fakes import reply, write_gsm8k
from lm_fixtures import random_adapter, tiny_lm_folder
from run_fixtures import data_folder
from servers import serve

from btlib.__main__ import main
from btlib.errors import BtlibError
from btlib.lm import ForgivingChatAdapter, load_lm, server
from btlib.lm.server import Server, ServerProvider
from btlib.presets import Split, load_preset
from btlib.runs import execute, make_spec
from btlib.steps import optimize_prompts, vanilla_state
from btlib.tasks import load_task, split_for

ROWS = [{"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "12"}]} for i in range(4)]


class StandIn:
    """What a server says: chat completions that add two numbers, /v1/models, and adapters where it takes them."""

    def __init__(self, *names, takes_adapters=True):
        self.names, self.takes_adapters, self.loads = list(names), takes_adapters, []
        self.down = False

    def __call__(self, method, path, given):
        if self.down:
            return 500, {"error": {"message": "out of order"}}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in self.names]}
        if path == "/v1/load_lora_adapter" and self.takes_adapters:
            return self.load(method, given)
        if path == "/v1/chat/completions":
            return self.chat(given)
        return 404, {"detail": "Not Found"}

    def load(self, method, given):
        if method == "GET":
            return 405, {"detail": "Method Not Allowed"}
        if not os.path.exists(f"{given['lora_path']}/adapter_model.safetensors"):
            return 404, {"error": {"message": f"No adapter found for {given['lora_path']}"}}
        self.names.append(given["lora_name"])
        self.loads.append(given)
        return 200, f"Success: LoRA adapter '{given['lora_name']}' added successfully."

    def chat(self, given):
        if given["model"] not in self.names:
            return 404, {"error": {"message": f"The model `{given['model']}` does not exist.", "code": 404}}
        text = given["messages"][-1]["content"]
        text = text if isinstance(text, str) else text[0]["text"]
        numbers = [int(word) for word in text.replace("?", " ").split() if word.isdigit()]
        tuned, shown = given["model"] != self.names[0], len(given["messages"]) > 2
        right = len(numbers) > 1 and numbers[-2] < 6 + 6 * tuned + 6 * shown
        answer = reply(reasoning="Add them.", answer=str(sum(numbers[-2:]) if right else -1))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "model": given["model"],
            "choices": [choice],
            "usage": usage,
        }


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_CACHE", str(tmp_path / "cache"))
    for name in (*server.VARIABLES, "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)  # no answers of another test's server
    return tmp_path / "cache"


def test_prompts_need_http_only(cache, tmp_path):
    preset = replace(load_preset("smoke"), num_threads=4)
    with serve(StandIn("some/lm")) as http:
        lm = load_lm("openai/some/lm", preset, api_base=http.url)  # /v1 is added
        write_gsm8k(tmp_path, 24, 12, 24)
        task = load_task("gsm8k", tmp_path, split_for(preset, "gsm8k"))
        state, record = optimize_prompts(vanilla_state(task, lm), task, preset)
        assert record.kept > 0 and state.program.predictors()[0].demos
        assert record.lm_calls > 0 and record.tokens_in == 20 * record.lm_calls
        asked = [given for _, path, given in http.asked if path == "/v1/chat/completions"]
    assert all(given["model"] == "some/lm" and given["temperature"] in (0.1, 1.0) for given in asked)
    assert all(isinstance(given["seed"], int) for given in asked)
    assert {given["top_p"] for given in asked} == {preset.top_p}
    assert not lm.failed


def test_a_servers_answers_that_are_cut_or_empty_are_told_apart_and_end_nothing(cache):
    ends = {"cut": "length", "hidden": "length", "null": "stop", "blank": "stop"}
    contents = {"cut": "[[ ## reasoning ## ]]\nAdd", "hidden": None, "null": None, "blank": ""}

    def script(method, path, given):
        text = str(given["messages"][-1]["content"])
        name = next(name for name in ends if f"{name}?" in text)
        message = {"role": "assistant", "content": contents[name], "reasoning_content": "Let me see"}
        choice = {"index": 0, "finish_reason": ends[name], "message": message}
        return 200, {"id": "1", "object": "chat.completion", "model": given["model"], "choices": [choice]}

    with serve(script) as http:
        lm, adapter = load_lm("openai/some/lm", load_preset("smoke"), api_base=http.url), ForgivingChatAdapter()
        with dspy.context(lm=lm, adapter=adapter):
            predict = dspy.ChainOfThought("question -> answer")
            for _ in range(2):  # the second time from DSPy's cache
                assert [predict(question=f"{name}?").answer for name in ends] == [""] * 4
        assert len(http.asked) == 4 and adapter.unreadable == {"cut": 4, "empty": 4}


def seeds(http) -> list[int]:
    return [given["seed"] for _, path, given in http.asked if path == "/v1/chat/completions"]


def test_every_request_carries_a_seed_and_rollouts_their_own(cache):
    with serve(StandIn("some/lm")) as http:
        lm = load_lm("openai/some/lm", api_base=http.url).copy(cache=False)
        lm("1 2"), lm("1 2", seed=7), lm("1 2", rollout_id=1), lm("1 2", rollout_id=2)
        assert len(lm("1 2", n=3)) == 3
        told = seeds(http)
        assert told[:2] == [0, 7] and len(set(told)) == len(told) == 7

        async def all_again():
            for more in ({}, {"seed": 7}, {"rollout_id": 1}, {"rollout_id": 2}, {"n": 3}):
                await lm.acall("1 2", **more)

        asyncio.run(all_again())
        assert seeds(http) == told * 2
        assert lm.counters() is None
        assert lm.server() == {"url": f"{http.url}/v1", "model": "some/lm", "lists": ["some/lm"]}


@pytest.mark.parametrize("call", [lambda lm: lm("1 2"), lambda lm: asyncio.run(lm.acall("1 2"))])
def test_a_server_that_is_gone_is_noted_and_asked_no_more(cache, call, monkeypatch):
    monkeypatch.setattr(server, "RETRIES", 0)
    stand_in = StandIn("some/lm")
    with serve(stand_in) as http:
        lm = load_lm("openai/some/lm", api_base=http.url).copy(cache=False)
        call(lm)
        assert lm.failed == ""
        stand_in.down = True
        with pytest.raises(LMError, match="out of order"):
            call(lm)
        assert "out of order" in lm.failed and lm.copy().failed == lm.failed
        asked = len(http.asked)
        stand_in.down = False
        with pytest.raises(BtlibError, match="out of order"):
            call(lm)
        assert len(http.asked) == asked


def test_inputs_that_cannot_work_are_one_line(cache, monkeypatch):
    with pytest.raises(BtlibError, match="its URL is needed: --api-base"):
        load_lm("openai/some/lm")
    with pytest.raises(BtlibError, match="got 'localhost:8000'"):
        load_lm("openai/some/lm", api_base="localhost:8000")
    with serve(StandIn("a/b", "c/d")) as http:
        monkeypatch.setenv("BTLIB_API_BASE", f"{http.url}/v1")
        Server("openai/a/b").check()
        with pytest.raises(BtlibError, match=r"answer as 'x' \(404: The model `x` does not exist.\); it lists a/b"):
            Server("openai/x").check()
    with pytest.raises(BtlibError, match="no server answers at .*ConnectError") as caught:
        Server("openai/a/b").check()
    assert "\n" not in str(caught.value)


def test_a_server_that_refuses_max_tokens_is_asked_with_the_runs_own_name_for_it(cache):
    class Newer(StandIn):
        def chat(self, given):
            if "max_tokens" in given:
                return 400, {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}}
            return super().chat(given)

    with serve(Newer("some/lm")) as http:
        lm = load_lm("openai/some/lm", load_preset("smoke"), api_base=http.url).copy(cache=False)
        lm.provider.engine.check()
        lm("1 2")
        asked = [given for _, path, given in http.asked if path == "/v1/chat/completions"]
    assert [given["max_completion_tokens"] for given in asked] == [1, load_preset("smoke").max_tokens]


def test_the_key_comes_from_the_environment_and_the_record_holds_no_password(cache, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    found = Server("openai/a", "http://me:secret@127.0.0.1:9/v1")
    assert found.key == "sk-1"
    found.models = lambda: ["a"]
    assert found.describe() == {"url": "http://127.0.0.1:9/v1", "model": "a", "lists": ["a"]}


def test_the_local_checkpoint_of_a_servers_lm(tmp_path, monkeypatch):
    there = tiny_lm_folder(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BTLIB_DATA", str(tmp_path / "data"))
    for name in (there.name, str(there)):
        assert ServerProvider(Server(f"openai/{name}", "http://127.0.0.1:9")).base().folder == there
    with pytest.raises(BtlibError, match="unknown LM 'nothing'"):
        ServerProvider(Server("openai/nothing", "http://127.0.0.1:9")).base()


def finetune(lm, out):
    settings = {"rank": 2, "alpha": 4, "epochs": 1, "learning_rate": 1e-3, "batch_size": 4, "output_dir": str(out)}
    done = lm.finetune(ROWS, None, settings).result()
    if isinstance(done, Exception):
        raise done
    return done


def test_weights_are_tuned_here_and_handed_to_the_server(cache, tmp_path):
    name = f"openai/{tiny_lm_folder(tmp_path)}"
    stand_in = StandIn(name.removeprefix("openai/"))
    with serve(stand_in) as http:
        lm = load_lm(name, api_base=http.url)
        tuned = finetune(lm, tmp_path / "adapter")
        (load,) = stand_in.loads
        assert tuned.model == f"openai/{load['lora_name']}" != lm.model
        assert load["lora_path"] == str(cache / "adapters" / load["lora_name"])
        assert tuned.training_report.rows == 4 and (tmp_path / "adapter" / "adapter_config.json").exists()
        assert tuned.weights_folder == tmp_path / "adapter"
        assert lm.training_report is None and lm.weights_folder is None
        with dspy.context(adapter=ForgivingChatAdapter()):
            program = dspy.Predict("question -> answer")
            program.set_lm(tuned)
            assert program(question="What is 8 plus 3?").answer == "11"
        assert http.asked[-1][2]["model"] == load["lora_name"]
        # Another process finds the adapter loaded already.
        again = load_lm(name, adapter=tmp_path / "adapter", api_base=http.url)
        assert again.model == tuned.model and again.weights_folder == tmp_path / "adapter"
        assert len(stand_in.loads) == 1


def test_a_server_that_takes_no_adapter_is_told_how_to_restart_and_nothing_is_trained_twice(
    cache, tmp_path, monkeypatch
):
    name = f"openai/{tiny_lm_folder(tmp_path)}"
    stand_in = StandIn(name.removeprefix("openai/"), takes_adapters=False)
    with serve(stand_in) as http:
        with pytest.raises(BtlibError, match="takes no adapter while it runs") as caught:
            finetune(load_lm(name, api_base=http.url), tmp_path / "one" / "adapter")
        (place,) = (path for path in (cache / "adapters").iterdir() if path.is_dir())
        text = str(caught.value)
        assert str(place) in text and f"--lora-modules {place.name}={place}" in text and "\n" not in text
        assert "--max-lora-rank 2" in text and f"LORA_ADAPTERS={place.name}={place}" in text
        stand_in.names.append(place.name)  # restarted with it
        monkeypatch.setattr(server, "train_lora", None)
        tuned = finetune(load_lm(name, api_base=http.url), tmp_path / "two" / "adapter")
    assert tuned.model == f"openai/{place.name}"
    assert tuned.training_report.rows == 4
    assert (tmp_path / "two" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_server_that_answers_to_any_name_is_not_believed(cache, tmp_path):
    class Careless(StandIn):
        def chat(self, given):
            return super().chat(given | {"model": self.names[0]})

    adapter = random_adapter(tiny_lm_folder(tmp_path), tmp_path / "adapter")
    with serve(Careless("some/lm", takes_adapters=False)) as http:
        with pytest.raises(BtlibError, match="takes no adapter"):
            load_lm("openai/some/lm", adapter=adapter, api_base=http.url)


def test_a_refused_adapter_gives_the_servers_own_words(cache, tmp_path):
    class Blind(StandIn):
        def load(self, method, given):
            return super().load(method, {**given, "lora_path": "/elsewhere"})

    adapter = random_adapter(tiny_lm_folder(tmp_path), tmp_path / "adapter")
    with serve(Blind("some/lm")) as http:
        with pytest.raises(BtlibError, match=r"404: No adapter found for /elsewhere\); it must see that folder"):
            load_lm("openai/some/lm", adapter=adapter, api_base=http.url)


@pytest.fixture
def grid(cache, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BTLIB_DATA", str(data_folder(tmp_path / "data")))
    name = f"openai/{tiny_lm_folder(tmp_path)}"
    stand_in = StandIn(name.removeprefix("openai/"))
    with serve(stand_in) as http:
        monkeypatch.setenv("BTLIB_API_BASE", f"{http.url}/v1")
        yield stand_in, http, lambda strategy: make_spec("gsm8k", name, strategy, 0, "smoke")


def test_a_run_on_a_server_says_which_and_goes_on_from_its_prefix(grid, tmp_path):
    stand_in, http, spec = grid
    run = execute(spec("w -> p"), tmp_path / "runs")
    assert run.record["sources"] == {
        "data": "mini",
        "server": {"url": f"{http.url}/v1", "model": stand_in.names[0], "lists": stand_in.names},
    }
    assert run.record["weights"] == f"openai/{stand_in.names[1]}" and len(stand_in.loads) == 1
    assert (run.folder / "adapter" / "adapter_model.safetensors").is_file()
    split = json.loads((run.folder / "split.json").read_text())
    assert {part: len(ids) for part, ids in split.items()} == {"train": 24, "dev": 12, "test": 24}
    assert run.score > execute(spec(""), tmp_path / "runs").score


def test_a_server_that_goes_leaves_no_run(grid, tmp_path, monkeypatch):
    stand_in, _, spec = grid
    monkeypatch.setattr(server, "RETRIES", 0)
    answer = stand_in.chat

    def some(given):
        return (500, {"error": {"message": "out of memory"}}) if "11 plus" in str(given) else answer(given)

    monkeypatch.setattr(stand_in, "chat", some)
    with pytest.raises(BtlibError, match="out of memory.*the run is not kept"):
        execute(spec(""), tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("run.json"))


def test_a_grid_passes_the_servers_url_on(cache, monkeypatch, tmp_path, capsys):
    passed = []

    def start(notebook, target, parameters, *_):
        passed.append(parameters)
        raise BtlibError("seen")

    monkeypatch.setattr("btlib.grid.run.start_notebook", start)
    before = dict(os.environ)
    with serve(StandIn("some/lm")) as http:
        grid = ["grid", "--preset", "smoke", "--tasks", "iris", "--runs", str(tmp_path), "--api-base", http.url]
        assert main([*grid, "--models", "openai/other"]) == 2  # asked before anything runs
        assert "it lists some/lm" in capsys.readouterr().err and not passed
        assert main([*grid, "--models", "openai/some/lm"]) == 2 and "seen" in capsys.readouterr().err
    assert [parameters["API_BASE"] for parameters in passed] == [http.url]
    assert dict(os.environ) == before and not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
def test_prompts_are_optimized_on_transformers_serve(cache, tmp_path):
    """A real server with the embedded LM; start to end in about a minute on a free core."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from btlib.support.paths import data_dir

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = data_dir() / "pocket-lm"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"],
        stdout=log,
        stderr=log,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{url}/health").is_success:
                    break
            except httpx.HTTPError:
                assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.5)
        iris = Split(train=6, dev=1, test=4, bootstrap=3, validation=3)
        preset = replace(load_preset("smoke"), splits={"iris": iris}, num_candidate_programs=1, num_threads=2)
        task = load_task("iris", "mini", iris)
        lm = load_lm(f"openai/{folder}", preset, api_base=url)
        lm.provider.engine.check()
        state, record = optimize_prompts(vanilla_state(task, lm), task, preset)
        assert record.lm_calls > 0 and record.tokens_in > 0 and record.tokens_out > 0 and not lm.failed
        assert len(record.validation_scores) == 4 and len(state.program.predictors()) == 1
        with pytest.raises(BtlibError, match="takes no adapter while it runs"):
            lm.provider.engine._load("some-adapter", _adapter(tmp_path))
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _adapter(folder):
    (folder / "adapter_config.json").write_text('{"r": 2}')
    return folder
