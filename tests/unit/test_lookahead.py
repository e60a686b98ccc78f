"""Look-ahead: BFRS gives the same result from the same LM calls, with more of them at the same time."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter

import dspy
import pytest
from fakes import FakeEngine, fake_lm, field, reply
from test_optimize import SPLIT, even_only, numbers, right

from btlib.lm import load_lm
from btlib.presets import Split, load_preset
from btlib.steps import optimize_prompts, vanilla_state
from btlib.tasks import load_task


@pytest.fixture
def preset():
    return dataclasses.replace(
        load_preset("smoke"), splits={"gsm8k": SPLIT}, num_threads=4, num_candidate_programs=3, max_labeled_demos=4
    )


def seldom(model, prompt):
    """Right for one number in five: most candidates have to try many examples."""
    return right(prompt) if numbers(prompt)[0] % 5 == 0 else reply(reasoning="guess", answer="99999")


def never(model, prompt):
    return reply(reasoning="guess", answer="99999")


def one_call_fails(model, prompt):
    if numbers(prompt)[0] == 8:
        raise RuntimeError("one engine error")
    return even_only(model, prompt)


def outcome(state, record):
    """All that a search finds, and what it costs."""
    demos = [[dict(demo) for demo in predictor.demos] for predictor in state.program.predictors()]
    timing = {"seconds", "occupancy", "lm_seconds"}
    return demos, {k: v for k, v in record.to_dict().items() if k not in timing}


@pytest.mark.parametrize("script", [even_only, seldom, never])
def test_same_demonstrations_scores_calls_and_costs(sums, preset, script):
    found = []
    for ahead in (False, True):
        lm = fake_lm(script)
        first = optimize_prompts(vanilla_state(sums, lm), sums, preset, ahead=ahead)
        second = optimize_prompts(first[0], sums, preset, ahead=ahead)  # a compiled teacher that all share
        asked = Counter(tuple(turns) for _, turns in lm.engine.prompts)
        found.append((outcome(*first), outcome(*second), asked))
    assert found[0] == found[1]
    assert found[0][0][1]["total"] > 0 and len(set(found[0][0][1]["validation_scores"])) > (script is even_only)


def test_a_failing_call_changes_nothing_but_is_asked_again(sums, preset):
    plain, ahead = (
        optimize_prompts(vanilla_state(sums, fake_lm(one_call_fails)), sums, preset, ahead=each)
        for each in (False, True)
    )
    (demos, record), (demos_ahead, record_ahead) = outcome(*plain), outcome(*ahead)
    assert demos == demos_ahead and record == record_ahead  # a call without an answer has no usage to count


class SlowEngine(FakeEngine):
    """Take a while to answer, and keep how many requests were in flight at once: for T, and in all."""

    watched: frozenset[str] = frozenset()

    def complete(self, request):
        mine = ["all"] + ["T"] * (field(request.messages[-1].text, "question") in self.watched)
        with self.lock:
            self.now.update(mine)
            self.most |= self.now
        time.sleep(0.02)
        with self.lock:
            self.now.subtract(mine)
        return super().complete(request)


def test_bootstrapping_runs_in_parallel_within_the_number_of_threads(sums, preset):
    most, others = [], threading.active_count()  # other tests' engines may still be there
    preset = dataclasses.replace(preset, num_threads=8)
    for ahead in (False, True):
        lm = fake_lm(seldom, engine=SlowEngine)
        lm.engine.now, lm.engine.most = Counter(), Counter()
        lm.engine.watched = frozenset(example.question for example in sums.train[: SPLIT.bootstrap])
        optimize_prompts(vanilla_state(sums, lm), sums, preset, ahead=ahead)
        most.append(lm.engine.most)
    assert most[0]["T"] == 1 < most[1]["T"]
    assert most[1]["all"] <= 8
    assert threading.active_count() < others + 10


def test_without_a_cache_nothing_is_run_ahead(sums, preset):
    lm = fake_lm(even_only)
    _, record = optimize_prompts(vanilla_state(sums, lm.copy(cache=False)), sums, preset)
    wanted = record.total + SPLIT.validation * len(record.validation_scores)
    assert record.lm_calls == lm.engine.calls.total() == wanted


def test_the_embedded_lm_finds_the_same(preset):
    """In the real engine too, where requests of all candidates share batches."""
    split = Split(train=24, dev=2, test=2, bootstrap=4, validation=3)
    task = load_task("iris", split=split)
    preset = dataclasses.replace(preset, splits={"iris": split}, num_candidate_programs=1, max_tokens=8)
    lm = load_lm("pocket", preset)
    found = []
    for ahead in (False, True):
        dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
        state, record = optimize_prompts(vanilla_state(task, lm), task, preset, ahead=ahead)
        demos, counts = outcome(state, record)
        del counts["tokens_reused"]  # depends on what the prefix cache holds from before
        found.append((demos, counts, record))
    assert found[0][:2] == found[1][:2]
    assert found[1][2].occupancy > found[0][2].occupancy > 1 and found[0][2].lm_seconds > 0
