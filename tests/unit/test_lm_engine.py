"""The engine: the same answers as `generate`, whatever the batch; adapters, seeds, errors, bounds."""

from __future__ import annotations

import asyncio
import copy
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest
import torch
from dspy.lm15 import (
    Config,
    ContextLengthError,
    InvalidRequestError,
    Message,
    ProviderError,
    Request,
    UnsupportedModelError,
)
from dspy.utils.exceptions import ContextWindowExceededError
from lm_fixtures import random_adapter, tiny_lm_folder
from transformers import AutoModelForCausalLM

from btlib.lm.checkpoint import check
from btlib.lm.engine.engine import Engine
from btlib.lm.engine.lanes import DecodePass, Job
from btlib.lm.engine.memory import Budget, budget, token_bytes
from btlib.lm.engine.scheduler import Scheduler
from btlib.lm.registry import load_lm

SYSTEMS = ["Answer the question. " * 4, "All interactions will be structured in the following way. " * 3, "Be brief."]


def conversations(count: int, seed: int = 0) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    words = "How many apples does Ann have answer question values fields 1 2 3".split()
    return [(SYSTEMS[i % 3], " ".join(draw.choices(words, k=draw.randrange(2, 40)))) for i in range(count)]


def request(engine: Engine, system: str | None, user: str, model: str | None = None, **config) -> Request:
    config = {"max_tokens": 24, **config}
    return Request(
        model=model or engine.model_id, system=system, messages=(Message.user(user),), config=Config(**config)
    )


def answers(engine: Engine, requests: list[Request], threads: int = 32) -> list[str]:
    with ThreadPoolExecutor(threads) as pool:
        return [response.message.text for response in pool.map(engine.complete, requests)]


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


def as_generate(model, seen: dict[Job, list[torch.Tensor]]) -> int:
    """Check that greedy answers are those of transformers' `generate`, and return how many there are.

    The logits before each new token are the reference's up to rounding (a ten thousandth of the largest; millionths
    were seen), and the token is the reference's best, or as good up to rounding. Answers without such a close call are
    the same to the last token.
    """
    certain = 0
    for job, rows in seen.items():
        with torch.no_grad():
            wanted = model(torch.tensor([job.ids + job.new])).logits[0, len(job.ids) - 1 : -1]
        close = 1e-4 * wanted.abs().max()
        assert torch.stack(rows).shape == wanted.shape and (torch.stack(rows) - wanted).abs().max() < close
        best = wanted.topk(2).values.T
        assert (wanted.gather(1, torch.tensor(job.new).unsqueeze(1)).squeeze(1) >= best[0] - 2 * close).all()
        if (best[0] - best[1] > 2 * close).all():
            out = model.generate(input_ids=torch.tensor([job.ids]), max_new_tokens=job.limit, do_sample=False)
            assert out[0, len(job.ids) :].tolist() == job.new
            certain += 1
    assert certain >= len(seen) / 2
    return len(seen)


@pytest.fixture(scope="module")
def reference(folder):
    """The same LM as transformers runs it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_lm_folder(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def engine(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    yield engine
    engine.close()


def test_greedy_is_what_generate_gives(engine, reference, monkeypatch):
    seen = recorded(monkeypatch)
    got = answers(engine, [request(engine, s, u, temperature=0.0) for s, u in conversations(16)])
    assert as_generate(reference, seen) == 16
    assert sorted(got) == sorted(engine.chat.decode(job.new) for job in seen) and len(set(got)) > 8


def test_plain_attention_of_other_devices_gives_the_same(folder, reference, monkeypatch):
    monkeypatch.setattr("btlib.lm.engine.attention._flash_cpu", lambda: None)
    other = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    seen = recorded(monkeypatch)
    answers(other, [request(other, s, u) for s, u in conversations(8)])
    assert as_generate(reference, seen) == 8
    other.close()


def test_a_prompt_without_shared_prefix_is_what_generate_gives(engine, reference, monkeypatch):
    seen = recorded(monkeypatch)
    asked = [(None, "Ann"), (None, ""), (None, "How many?")]  # of an empty one, the template's own tokens
    answers(engine, [request(engine, *each) for each in asked])
    assert as_generate(reference, seen) == 3 and not any(job.prefix_length for job in seen)


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


def together(monkeypatch, engine, count: int) -> None:
    """Let nothing in before `count` requests have come, so that what meets does not depend on the machine's load."""
    admit = engine.scheduler._admit

    def when_all_are_here():
        while engine.counters()["requests"] < count:
            time.sleep(0.001)
        return admit()

    monkeypatch.setattr(engine.scheduler, "_admit", when_all_are_here)


def test_same_answers_with_hundreds_of_rows(tmp_path, monkeypatch):
    """Two hundred rows at once, some without a shared prefix among them, against seven at a time."""
    checkpoint = check("tiny", tiny_lm_folder(tmp_path))
    asked = [(None if i % 9 == 0 else system, f"{i} {user}") for i, (system, user) in enumerate(conversations(200))]
    found = []
    for slots in (256, 7):
        engine = Engine(checkpoint, device="cpu", dtype="float32", slots=slots)
        requests = [request(engine, s, u, temperature=1.0, max_tokens=2 + i % 5) for i, (s, u) in enumerate(asked)]
        together(monkeypatch, engine, len(requests))
        found.append(answers(engine, requests, threads=200))
        most = engine.counters()["rows"] / engine.counters()["steps"]
        engine.close()
        assert most > 100 if slots == 256 else most <= 7
    assert found[0] == found[1]


def test_adapters_in_one_batch_compute_what_peft_does(engine, folder, tmp_path, monkeypatch):
    from peft import PeftModel

    paths = [random_adapter(folder, tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    ids = [engine.model_id, *(engine.add_adapter(path) for path in paths)]
    seen = recorded(monkeypatch)
    asked = [request(engine, s, u, model=ids[i % 3]) for i, (s, u) in enumerate(conversations(12, seed=2))]
    answers(engine, asked)
    assert engine.scheduler.weights.nbytes > 0 and len(seen) == 12
    for model_id, path in zip(ids, [None, *paths], strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = model if path is None else PeftModel.from_pretrained(model, path)
        own = {job: rows for job, rows in seen.items() if job.model_id == model_id}
        assert as_generate(model, own) == 4
    tuned = [job for job in seen if job.model_id != engine.model_id]
    base = answers(engine, [request(engine, s, u) for s, u in conversations(12, seed=2)])
    assert len({engine.chat.decode(job.new) for job in tuned} - set(base)) >= 6


def test_merged_adapters_are_bounded_and_leave_the_base_alone(engine, folder, tmp_path):
    weights = engine.scheduler.weights
    answers(engine, [request(engine, *c, max_tokens=1) for c in conversations(1)])
    before = {name: p.clone() for name, p in weights.model.named_parameters()}
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
    engine = Engine(
        check("tiny", folder), device="cpu", dtype="float32", slots=4, limits=Budget(1 << 30, 100_000, 1 << 30)
    )
    engine.complete(request(engine, SYSTEMS[0], "one"))
    assert engine.counters()["tokens_reused"] == 0
    engine.complete(request(engine, SYSTEMS[0], "two"))
    counters = engine.counters()
    assert 30 < counters["tokens_reused"] < counters["tokens_in"] / 2
    for i in range(12):
        engine.complete(request(engine, f"System {i}. " * 10, "three"))
    assert 0 < engine.counters()["prefix_bytes"] <= 100_000
    engine.close()


def test_rows_stay_within_their_bytes(folder, monkeypatch):
    """Room for 8 rows of the longest request, and 16 are asked for: the others wait."""
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=16)
    asked = [request(engine, s, u) for s, u in conversations(16)]
    unbounded = answers(engine, asked)
    jobs = [engine._submit(each) for each in asked]
    width = max(job.width for job in jobs)
    for job in jobs:  # or rows from before the limit would still be there when the watch begins
        job.future.result(600)
    limit = 12 * width * token_bytes(engine.scheduler.weights.model)
    engine.scheduler.limits = Budget(limit, 1 << 30, 1 << 30)
    kept = []
    advance = Scheduler._advance

    def watch(self, *arguments, **settings):
        lanes = self._lanes.values()
        kept.append((sum(len(lane.jobs) for lane in lanes), sum(t.nbytes for x in lanes for t in x.k + x.v)))
        advance(self, *arguments, **settings)

    monkeypatch.setattr(Scheduler, "_advance", watch)
    together(monkeypatch, engine, engine.counters()["requests"] + len(asked))
    assert answers(engine, asked) == unbounded
    assert 1 < max(rows for rows, _ in kept) < 16 and 0 < max(size for _, size in kept) <= limit
    engine.close()


def test_what_is_kept_is_a_share_of_the_free_memory(monkeypatch):
    monkeypatch.setattr("btlib.lm.engine.memory.free_bytes", lambda device: 8 << 30)
    assert budget(torch.device("cpu")) == Budget(2 << 30, 1 << 30, 1 << 30)
    monkeypatch.undo()
    assert 0 < budget(torch.device("cpu")).rows < 1 << 42


def test_counters_count(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=4)
    model_id, begun = engine.model_id, time.perf_counter()
    responses = [engine.complete(request(engine, s, u)) for s, u in conversations(3)]
    counters = engine.counters()
    assert counters["requests"] == 3 and counters["by_model"] == {model_id: 3} and counters["failed"] == 0
    assert counters["tokens_in"] == sum(r.usage.input_tokens for r in responses)
    assert counters["tokens_out"] == sum(r.usage.output_tokens for r in responses)
    assert 0 < counters["seconds"] <= time.perf_counter() - begun and 0 < counters["occupancy"] <= 4
    engine.close()


def test_seed_decides_the_sample_and_prompt_stands_in_for_it(engine):
    system, user = conversations(1)[0]

    def ask(**config):
        return engine.complete(request(engine, system, user, temperature=2.0, **config)).message.text

    assert ask(seed=1) == ask(seed=1) != ask(seed=2)
    assert ask() == ask() != ask(seed=1)


def test_samples_follow_temperature_and_top_p(engine, folder):
    """First tokens of 600 seeds, against the distribution that transformers would draw from."""
    from transformers import TopPLogitsWarper

    messages = [{"role": "system", "content": SYSTEMS[0]}, {"role": "user", "content": "How many?"}]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = reference(torch.tensor([engine.chat.encode(messages)[0]])).logits[0, -1:]
    chances = TopPLogitsWarper(0.97)(None, logits / 2.0).softmax(-1)[0]
    settings = {"temperature": 2.0, "top_p": 0.97, "max_tokens": 1}
    jobs = [engine._submit(request(engine, SYSTEMS[0], "How many?", seed=seed, **settings)) for seed in range(600)]
    drawn = torch.bincount(torch.tensor([job.future.result(600)[0][0] for job in jobs]), minlength=len(chances))
    assert (chances > 0).sum() > 4 and drawn[chances == 0].sum() == 0
    spread = (600 * chances * (1 - chances)).sqrt()
    assert ((drawn - 600 * chances).abs() <= 4.5 * spread + 1).all()


def test_rollouts_and_n_give_other_samples(folder):
    lm = load_lm(str(folder), device="cpu", dtype="float32").copy(temperature=2.0, max_tokens=12, cache=False)
    first = lm("How many?")
    assert first == lm("How many?")
    assert lm("How many?", rollout_id=1) == lm.copy(rollout_id=1)("How many?") != first
    assert len(set(lm("How many?", n=3))) == 3
    assert lm("How many?", rollout_id=1, seed=3) != lm("How many?", rollout_id=2, seed=3)
    assert len(set(lm("How many?", n=3, seed=3))) == 3


def test_awaited_calls_are_the_same_rollouts(folder):
    lm = load_lm(str(folder), device="cpu", dtype="float32").copy(temperature=2.0, max_tokens=12, cache=False)

    async def ask(**settings):
        return await lm.acall("How many?", **settings)

    async def ask_all():
        return await asyncio.gather(*(ask(rollout_id=rollout) for rollout in (1, 2, 3, 1)), ask(n=3), ask())

    one, two, three, again, several, plain = asyncio.run(ask_all())
    assert one == again and len({text for (text,) in (one, two, three, plain)}) == 4 and len(set(several)) == 3
    assert one == lm("How many?", rollout_id=1) and several == lm("How many?", n=3) and plain == lm("How many?")


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


def test_a_template_that_makes_no_token_of_a_prompt_is_an_error(engine, monkeypatch):
    monkeypatch.setattr(engine.chat.tokenizer, "chat_template", "{{ messages[-1]['content'] }}")
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        engine.complete(Request(model=engine.model_id, messages=(Message.user(""),), config=Config()))


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


def test_failure_in_a_shared_step_fails_the_request_that_causes_it(folder, monkeypatch):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    asked = [request(engine, s, u) for s, u in conversations(6)]
    before = answers(engine, asked)
    poison = engine.chat.encode(
        [{"role": "system", "content": SYSTEMS[2]}, {"role": "user", "content": asked[2].messages[0].text}]
    )[0]
    forward = Scheduler._forward

    def fail(self, batch):
        if isinstance(batch, DecodePass) and any(job.ids == poison for job in batch.lane.jobs):
            raise RuntimeError("out of luck")
        return forward(self, batch)

    monkeypatch.setattr(Scheduler, "_forward", fail)
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(engine.complete, each) for each in asked]
    errors = [future.exception() for future in futures]
    assert "out of luck" in str(errors.pop(2)) and errors == [None] * 5
    del futures[2], before[2]
    assert [future.result().message.text for future in futures] == before and engine.counters()["failed"] == 1
    engine.close()


def test_a_request_that_takes_too_long_is_given_up(folder, monkeypatch):
    forward = Scheduler._forward
    monkeypatch.setattr(Scheduler, "_forward", lambda self, batch: time.sleep(0.03) or forward(self, batch))
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=1, timeout=0.05)
    with ThreadPoolExecutor(2) as pool:  # one is being generated, one waits for its row
        late = [pool.submit(engine.complete, request(engine, *c, max_tokens=480)) for c in conversations(3)[2:] * 2]
        late += [pool.submit(engine.complete, request(engine, "Be brief.", "many", max_tokens=480))]
    assert all("no answer within 0.05 s" in str(future.exception()) for future in late)
    engine.timeout = None
    assert engine.complete(request(engine, "Be brief.", "Ann?")).message.text
    assert engine.counters()["tokens_out"] < 24 + 240  # 24 of the last one: the work on 480 of the others stopped
    engine.close()


def test_a_cancelled_request_leaves_the_others_alone(folder):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=1)
    first = engine._submit(request(engine, "Be brief.", "Ann?", max_tokens=100))
    cancelled, other = (engine._submit(request(engine, *c)) for c in conversations(2))
    assert cancelled.future.cancel()
    again = engine._submit(request(engine, *conversations(1)[0]))  # equal to the cancelled one
    assert all(job.future.result(600)[0] for job in (first, other, again))
    engine.close()


def test_failure_outside_the_model_leaves_nobody_waiting(folder, monkeypatch):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=2)

    def fail(*_):
        raise RuntimeError("no pick")

    with monkeypatch.context() as patch:
        patch.setattr("btlib.lm.engine.scheduler.pick", fail)
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(engine.complete, request(engine, *c)) for c in conversations(3)]
            assert all(isinstance(future.exception(timeout=600), ProviderError) for future in futures)
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
            time.sleep(0.001)
        engine.close()
        errors = [future.exception() for future in futures]
    assert all(isinstance(error, ProviderError) for error in errors if error) and any(errors)


def test_equal_requests_in_flight_are_computed_once(folder, monkeypatch):
    engine = Engine(check("tiny", folder), device="cpu", dtype="float32", slots=8)
    together(monkeypatch, engine, 6)
    got = answers(engine, [request(engine, *conversations(1)[0], max_tokens=20)] * 6)
    counters = engine.counters()
    assert len(set(got)) == 1 and counters["requests"] == 6
    assert counters["repeated"] == 5 and 0 < counters["tokens_out"] <= 20
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


def test_a_program_can_end_while_requests_are_running(folder):
    """An engine thread that is alive at the interpreter's end would abort the process."""
    script = f"""
import threading, time
from pathlib import Path
from dspy.lm15 import Config, Message, Request
from btlib.lm.checkpoint import check
from btlib.lm.engine.engine import Engine
engine = Engine(check("tiny", Path({str(folder)!r})), device="cpu", dtype="float32", slots=2)
request = Request(model=engine.model_id, messages=(Message.user("Ann?"),), config=Config(max_tokens=480))
threading.Thread(target=engine.complete, args=(request,), daemon=True).start()
while not engine.counters()["steps"]:
    time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "terminate" not in done.stderr
