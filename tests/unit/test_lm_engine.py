"""The engine: the same answers as `generate`, whatever the batch; adapters, seeds, errors, bounds."""

from __future__ import annotations

import copy
import random
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest
import torch
from dspy.lm15 import Config, ContextLengthError, Message, ProviderError, Request, UnsupportedModelError
from dspy.utils.exceptions import ContextWindowExceededError
from lm_fixtures import random_adapter, tiny_lm_folder
from transformers import AutoModelForCausalLM

from btlib.lm.checkpoint import check
from btlib.lm.engine import Engine
from btlib.lm.lanes import Job
from btlib.lm.registry import load_lm
from btlib.lm.scheduler import Scheduler

SYSTEMS = ["Answer the question. " * 4, "All interactions will be structured in the following way. " * 3, "Be brief."]


def conversations(count: int, seed: int = 0) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    words = "How many apples does Ann have answer question values fields 1 2 3".split()
    return [(SYSTEMS[i % 3], " ".join(draw.choices(words, k=draw.randrange(2, 40)))) for i in range(count)]


def request(engine: Engine, system: str, user: str, model: str | None = None, **config) -> Request:
    config = {"max_tokens": 24, **config}
    return Request(
        model=model or engine.model_id, system=system, messages=(Message.user(user),), config=Config(**config)
    )


def answers(engine: Engine, requests: list[Request], threads: int = 32) -> list[str]:
    with ThreadPoolExecutor(threads) as pool:
        return [response.message.text for response in pool.map(engine.complete, requests)]


def generated(model, engine: Engine, system: str, user: str, new: int = 24) -> str:
    ids, _ = engine.chat.encode([{"role": "system", "content": system}, {"role": "user", "content": user}])
    out = model.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False)[0, len(ids) :].tolist()
    return engine.chat.decode(out)


def recorded(monkeypatch) -> dict[Job, list[torch.Tensor]]:
    """Return a dict that every engine fills from now on: the logits of each new token, by request."""
    seen: dict[Job, list[torch.Tensor]] = {}
    advance = Scheduler._advance

    def record(self, model_id, logits, first_row):
        for row, job in enumerate(self._lanes[model_id].jobs[first_row:]):
            seen.setdefault(job, []).append(logits[row].clone())
        advance(self, model_id, logits, first_row)

    monkeypatch.setattr(Scheduler, "_advance", record)
    return seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_lm_folder(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def engine(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    yield engine
    engine.close()


def test_greedy_is_what_generate_gives(engine, folder):
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = conversations(16)
    got = answers(engine, [request(engine, s, u, temperature=0.0) for s, u in asked])
    assert got == [generated(reference, engine, s, u) for s, u in asked]
    assert len(set(got)) > 8


def test_plain_attention_of_other_devices_gives_the_same(engine, folder, monkeypatch):
    asked = [request(engine, s, u) for s, u in conversations(8)]
    fused = answers(engine, asked)
    monkeypatch.setattr("btlib.lm.attention._flash_cpu", lambda: None)
    other = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    assert answers(other, asked) == fused
    other.close()


def test_a_prompt_without_shared_prefix_is_what_generate_gives(engine, folder):
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    short = Request(model=engine.model_id, messages=(Message.user("Ann"),), config=Config(max_tokens=24))
    ids, prefix = engine.chat.encode([{"role": "user", "content": "Ann"}])
    assert prefix < 16
    out = reference.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    assert engine.complete(short).message.text == engine.chat.decode(out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heads", [(4, 2), (8, 8)])
def test_same_logits_in_any_order_and_slot_count(tmp_path, monkeypatch, dtype, heads):
    """Bit for bit, for every new token of every request."""
    size = {"num_attention_heads": heads[0], "num_key_value_heads": heads[1], "hidden_size": 128}
    checkpoint = check("tiny", tiny_lm_folder(tmp_path, **size))
    asked = conversations(9, seed=1)
    seen = recorded(monkeypatch)
    runs = []
    for slots, order in ((1, 1), (3, -1), (9, 1)):
        engine = Engine(checkpoint, device="cpu", dtype=dtype, slots=slots)
        seen.clear()
        answers(engine, [request(engine, s, u, temperature=1.0, max_tokens=16) for s, u in asked][::order])
        engine.close()
        runs.append({job.key: [row.numpy().tobytes() for row in rows] for job, rows in seen.items()})
    assert len(runs[0]) == 9 and max(len(rows) for rows in runs[0].values()) == 16
    assert all(run == runs[0] for run in runs[1:])


def test_adapters_in_one_batch_compute_what_peft_does(engine, folder, tmp_path, monkeypatch):
    """Logits rather than answers: merged weights round otherwise than PEFT's sum, and a random LM has close calls."""
    from peft import PeftModel

    paths = [random_adapter(folder, tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    ids = [engine.model_id, *(engine.add_adapter(path) for path in paths)]
    seen = recorded(monkeypatch)
    asked = [request(engine, s, u, model=ids[i % 3]) for i, (s, u) in enumerate(conversations(12, seed=2))]
    answers(engine, asked)
    assert engine.scheduler.weights.nbytes > 0 and len(seen) == 12
    logits = {}
    for model_id, path in zip(ids, [None, *paths], strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = model if path is None else PeftModel.from_pretrained(model, path)
        for job, rows in seen.items():
            if job.model_id == model_id:
                with torch.no_grad():
                    wanted = model(torch.tensor([job.ids + job.new])).logits[0, len(job.ids) - 1 : -1]
                logits[job] = torch.stack(rows), wanted
    assert len(logits) == 12
    for got, wanted in logits.values():
        assert got.shape == wanted.shape and (got - wanted).abs().max() < 1e-3 * wanted.abs().max()
    base = answers(engine, [request(engine, s, u) for s, u in conversations(12, seed=2)])
    assert len(set(base) - {engine.chat.decode(job.new) for job in logits}) >= 6


def test_merged_adapters_are_bounded_and_leave_the_base_alone(engine, folder, tmp_path):
    weights = engine.scheduler.weights
    before = {name: p.clone() for name, p in weights.model.named_parameters()}
    answers(engine, [request(engine, *c) for c in conversations(1)])
    one = None
    for seed in range(4):
        model_id = engine.add_adapter(random_adapter(folder, tmp_path / str(seed), seed=10 + seed))
        engine.complete(request(engine, "Be brief.", "Ann?", model=model_id))
        one = one or weights.nbytes
        weights.max_bytes = 2 * one
    assert weights.nbytes <= 2 * one
    answers(engine, [request(engine, *c, max_tokens=1) for c in conversations(1)])
    after = dict(weights.model.named_parameters())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_prefix_cache_is_shared_and_bounded(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=4, prefix_bytes=100_000)
    engine.complete(request(engine, SYSTEMS[0], "one"))
    assert engine.counters()["tokens_reused"] == 0
    engine.complete(request(engine, SYSTEMS[0], "two"))
    counters = engine.counters()
    assert 30 < counters["tokens_reused"] < counters["tokens_in"] / 2
    for i in range(12):
        engine.complete(request(engine, f"System {i}. " * 10, "three"))
    assert 0 < engine.counters()["prefix_bytes"] <= 100_000
    engine.close()


def test_counters_count(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=4)
    model_id = engine.model_id
    responses = [engine.complete(request(engine, s, u)) for s, u in conversations(3)]
    counters = engine.counters()
    assert counters["requests"] == 3 and counters["by_model"] == {model_id: 3} and counters["failed"] == 0
    assert counters["tokens_in"] == sum(r.usage.input_tokens for r in responses)
    assert counters["tokens_out"] == sum(r.usage.output_tokens for r in responses)
    assert 0 < counters["seconds"] < 60 and 0 < counters["occupancy"] <= 4
    engine.close()


def test_seed_decides_the_sample_and_prompt_stands_in_for_it(engine):
    system, user = conversations(1)[0]

    def ask(**config):
        return engine.complete(request(engine, system, user, temperature=2.0, **config)).message.text

    assert ask(seed=1) == ask(seed=1) != ask(seed=2)
    assert ask() == ask() != ask(seed=1)


def test_rollouts_and_n_give_other_samples(folder):
    lm = load_lm(str(folder), device="cpu", dtype="float32").copy(temperature=2.0, max_tokens=12, cache=False)
    first = lm("How many?")
    assert first == lm("How many?")
    assert lm("How many?", rollout_id=1) == lm.copy(rollout_id=1)("How many?") != first
    assert len(set(lm("How many?", n=3))) == 3


def test_max_tokens_and_end_of_context(engine):
    response = engine.complete(request(engine, "Be brief.", "Ann?", max_tokens=3))
    assert response.usage.output_tokens == 3 and response.finish_reason == "length"
    long = request(engine, "Be brief.", "1 " * 240, max_tokens=500)
    response = engine.complete(long)
    assert response.usage.input_tokens + response.usage.output_tokens <= 512


def test_stop_string_cuts_the_answer(engine):
    system, user = conversations(1)[0]
    whole = engine.complete(request(engine, system, user)).message.text
    stop = whole[4:7]
    response = engine.complete(request(engine, system, user, stop=(stop,)))
    assert response.message.text == whole[: whole.find(stop)] and response.finish_reason == "stop"


def test_prompt_longer_than_the_context_fails_alone(engine, folder):
    good, bad = request(engine, "Be brief.", "Ann?"), request(engine, "Be brief.", "1 " * 600)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(engine.complete, bad), pool.submit(engine.complete, good)
        assert second.result().message.text
        with pytest.raises(ContextLengthError, match="context 512"):
            first.result()
    with pytest.raises(ContextWindowExceededError):
        load_lm(str(folder), device="cpu", dtype="float32")("1 " * 600)


def test_failure_in_the_model_fails_that_request_only(folder, monkeypatch):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    poison = engine.chat.tokenizer.convert_tokens_to_ids("?")
    embed = engine.scheduler.weights.model.get_input_embeddings()

    def fail(module, inputs):
        if (inputs[0] == poison).sum() >= 3:
            raise RuntimeError("out of luck")

    embed.register_forward_pre_hook(fail)
    asked = [request(engine, "Be brief.", user, max_tokens=1) for user in ("Ann", "????", "apples", "many")]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(engine.complete, each) for each in asked]
    assert [future.exception() is None for future in futures] == [True, False, True, True]
    with pytest.raises(ProviderError, match="out of luck"):
        futures[1].result()
    assert engine.counters()["failed"] == 1
    engine.close()


def test_failure_outside_the_model_leaves_nobody_waiting(folder, monkeypatch):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=2)

    def fail(*_):
        raise RuntimeError("no pick")

    with monkeypatch.context() as patch:
        patch.setattr("btlib.lm.scheduler.pick", fail)
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(engine.complete, request(engine, *c)) for c in conversations(3)]
            assert all(isinstance(future.exception(timeout=60), ProviderError) for future in futures)
    assert engine.complete(request(engine, "Be brief.", "Ann?")).message.text
    engine.close()


def test_closed_engine_says_so(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=2)
    engine.complete(request(engine, "Be brief.", "Ann?"))
    engine.close()
    engine.close()
    with pytest.raises(ProviderError, match="closed"):
        engine.complete(request(engine, "Be brief.", "Ann?"))


def test_close_fails_what_is_still_running(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=1)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(engine.complete, request(engine, *c, max_tokens=400)) for c in conversations(4)]
        while engine.counters()["requests"] < 4:
            pass
        engine.close()
        errors = [future.exception() for future in futures]
    assert all(isinstance(error, ProviderError) for error in errors if error) and any(errors)


def test_equal_requests_in_flight_are_computed_once(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    got = answers(engine, [request(engine, *conversations(1)[0], max_tokens=100)] * 6)
    counters = engine.counters()
    assert len(set(got)) == 1 and counters["requests"] == 6
    assert counters["repeated"] >= 1 and counters["tokens_out"] < 6 * 100
    engine.close()


def test_unknown_model_id_lists_the_known(engine):
    with pytest.raises(UnsupportedModelError, match=engine.model_id):
        engine.complete(request(engine, "Be brief.", "Ann?", model="other@123"))


def test_one_engine_for_all_copies(folder):
    lm = load_lm(str(folder), device="cpu", dtype="float32")
    assert copy.deepcopy(lm.engine) is lm.engine
    assert load_lm(str(folder), device="cpu", dtype="float32").engine is lm.engine
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    assert program.deepcopy().lm.engine is lm.engine


def test_async_calls_work(folder):
    import asyncio

    lm = load_lm(str(folder), device="cpu", dtype="float32").copy(cache=False, max_tokens=8)
    assert asyncio.run(lm.acall("How many?")) == lm("How many?")
