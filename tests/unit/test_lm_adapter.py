"""The forgiving adapter: unparsable answers become empty fields and are counted, never raised, never asked again."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest
from fakes import FakeEngine

from btlib.lm import ForgivingChatAdapter


class Solve(dspy.Signature):
    """Solve it."""

    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    answer: str = dspy.OutputField()


class Count(dspy.Signature):
    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    answer: int = dspy.OutputField()


GOOD = "[[ ## reasoning ## ]]\nadd\n\n[[ ## answer ## ]]\n12\n\n[[ ## completed ## ]]"


@pytest.mark.parametrize(
    ("completion", "fields", "failed"),
    [
        (GOOD, {"reasoning": "add", "answer": "12"}, 0),
        ("[[ ## reasoning ## ]]\nadd", {"reasoning": "add", "answer": ""}, 1),
        ("[[ ## answer ## ]] 12", {"reasoning": "", "answer": "12"}, 1),
        ("nonsense", {"reasoning": "", "answer": ""}, 1),
        ("", {"reasoning": "", "answer": ""}, 1),
    ],
)
def test_missing_fields_are_empty(completion, fields, failed):
    adapter = ForgivingChatAdapter()
    assert adapter.parse(Solve, completion) == fields
    assert adapter.failed_parses == failed


def test_unreadable_value_is_none_and_spares_the_other_fields():
    adapter = ForgivingChatAdapter()
    assert adapter.parse(Count, GOOD) == {"reasoning": "add", "answer": 12}
    assert adapter.parse(Count, GOOD.replace("12", "twelve")) == {"reasoning": "add", "answer": None}
    assert adapter.failed_parses == 1


def test_parses_like_the_chat_adapter_where_that_one_can():
    assert ForgivingChatAdapter().parse(Solve, GOOD) == dspy.ChatAdapter().parse(Solve, GOOD)


def test_a_bad_answer_costs_one_call_and_no_exception():
    engine = FakeEngine(lambda model, prompt: "nonsense")
    adapter = ForgivingChatAdapter()
    with dspy.context(lm=dspy.LM("fake", engine=engine, cache=False), adapter=adapter):
        prediction = dspy.Predict(Solve)(question="?")
    assert prediction.answer == "" and engine.calls["fake"] == 1 and adapter.failed_parses == 1


def test_counter_is_shared_by_copies_exact_under_threads_and_resets():
    adapter = ForgivingChatAdapter()
    copies = [copy.deepcopy(adapter) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: copies[i % 8].parse(Solve, "nonsense"), range(200)))
    assert adapter.failed_parses == 200
    assert adapter.reset() == 200 and adapter.failed_parses == 0


DEMOS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 1?", "reasoning": "Add.", "answer": "3"}]


def test_prompts_are_those_of_the_chat_adapter_and_changes_are_seen():
    adapter, plain, demos = ForgivingChatAdapter(), dspy.ChatAdapter(), [dspy.Example(**demo) for demo in DEMOS]
    for signature in (Solve, Solve.with_instructions("Solve it well.")):
        for inputs in ({"question": "1 + 2?"}, {"question": "2 + 2?"}):
            messages = adapter.format(signature, demos, inputs)
            assert messages == plain.format(signature, demos, inputs)
            messages[1]["content"] = "changed by the caller"
    demos[1]["answer"] = 3  # a number now
    assert adapter.format(Solve, demos, inputs) == plain.format(Solve, demos, inputs)
    demos[0]["question"] = "0 + 2?"
    assert adapter.format(Solve, demos, inputs) == plain.format(Solve, demos, inputs)
    assert adapter.format(Solve, demos[:1], inputs) == plain.format(Solve, demos[:1], inputs)


def test_what_calls_share_is_formatted_once(monkeypatch):
    asked = []
    real = dspy.ChatAdapter.format_user_message_content

    def count(self, signature, inputs, *args, **kwargs):
        asked.append(inputs["question"])
        return real(self, signature, inputs, *args, **kwargs)

    monkeypatch.setattr(dspy.ChatAdapter, "format_user_message_content", count)
    adapter = ForgivingChatAdapter()
    for number in range(5):
        adapter.format(Solve, copy.deepcopy(DEMOS), {"question": f"{number} + 2?"})
    assert asked == ["1 + 1?", "2 + 1?", *(f"{number} + 2?" for number in range(5))]
