"""Bootstrapping: what is kept, what is counted, and the file of traces."""

import dspy
import pytest
from fakes import fake_lm, field, reply, write_gsm8k, write_hotpotqa

from btlib.errors import BtlibError
from btlib.lm import ForgivingChatAdapter
from btlib.steps import TraceSet, bootstrap_traces, gold_by_hop, intermediate_quality, verdict
from btlib.tasks import load_task


def total(prompt):
    words = field(prompt, "question").rstrip("?").split()
    return int(words[2]), str(int(words[2]) + int(words[4]))


def moody(model, prompt):
    """Right for even numbers; every third answer cannot be parsed, in one of three ways; every fifth call fails."""
    number, answer = total(prompt)
    if number % 5 == 4:
        raise RuntimeError("engine failure")
    if number % 3 == 0:
        return ["gibberish", "", f"[[ ## reasoning ## ]]\nhm\n\n[[ ## completed ## ]] {answer}"][number // 3 % 3]
    return reply(reasoning="add", answer=answer if number % 2 == 0 else "99999")


@pytest.fixture
def sums(tmp_path):
    write_gsm8k(tmp_path)
    return load_task("gsm8k", tmp_path)


def run(task, script, adapter=None):
    program = task.program()
    program.set_lm(fake_lm(script))
    with dspy.context(adapter=adapter or ForgivingChatAdapter()):
        return program, bootstrap_traces(program, task.train, task.metric, num_threads=4)


def test_correct_traces_are_kept_and_the_rest_is_counted(sums):
    program, traces = run(sums, moody)
    by_id = {trace.example_id: trace for trace in traces.traces}
    assert [trace.example_id for trace in traces.traces] == [example.id for example in sums.train]
    assert {name for name, trace in by_id.items() if trace.score} == {"train-2", "train-8", "train-10"}
    assert {name for name, trace in by_id.items() if trace.failed_parse} == {"train-0", "train-3", "train-6"}
    assert {name for name, trace in by_id.items() if trace.error} == {"train-4", "train-9"}
    assert (traces.kept, traces.total, traces.failed_parses) == (3, 12, 3)
    call = by_id["train-2"].calls[0]
    assert call.module == "prog.predict" and call.inputs == {"question": "What is 2 plus 5?"}
    assert call.outputs == {"reasoning": "add", "answer": "7"} == by_id["train-2"].outputs


def test_dspys_own_adapter_keeps_no_failed_parse_either(sums):
    """DSPy scores a failed parse -1, which is truthy; and a partial one ends its bootstrapping."""
    _, traces = run(sums, moody, dspy.ChatAdapter(use_json_adapter_fallback=False))
    assert {trace.example_id for trace in traces.traces if trace.score} == {"train-2", "train-8", "train-10"}


def test_progress_is_shown_only_when_asked_for(sums, capfd):
    program, _ = run(sums, moody)
    assert capfd.readouterr().out == ""
    with dspy.context(adapter=ForgivingChatAdapter()):
        bootstrap_traces(program, sums.train[:2], sums.metric, progress=True)
    assert "Average Metric" in capfd.readouterr().out


def test_the_program_is_left_alone(sums):
    program, _ = run(sums, moody)
    assert "forward" not in vars(program)  # DSPy puts one there, bound to the program that was traced
    assert program.prog.predict.demos == []


def test_a_program_that_always_fails_is_an_error(sums):
    def broken(model, prompt):
        raise RuntimeError("no")

    with pytest.raises(BtlibError, match="failed on all 12 examples"):
        run(sums, broken)
    with pytest.raises(BtlibError, match="no examples"):
        bootstrap_traces(sums.program(), [], sums.metric)


def test_a_verdict_needs_the_full_score_and_no_empty_field():
    example, pred = dspy.Example(), dspy.Prediction()
    assert verdict(lambda *a: 1.0)(example, pred) is True
    assert verdict(lambda *a: 0.3)(example, pred) is False  # truthy: DSPy would keep it
    assert verdict(lambda *a: -1)(example, pred) is False
    full, empty = dspy.Prediction(answer="x"), dspy.Prediction(answer=" ")
    assert verdict(lambda *a: True)(example, pred, [(None, {}, full)]) is True
    assert verdict(lambda *a: True)(example, pred, [(None, {}, empty), (None, {}, full)]) is False


def test_traces_survive_the_file(sums, tmp_path):
    _, traces = run(sums, moody)
    path = tmp_path / "traces.jsonl"
    traces.to_jsonl(path)
    assert TraceSet.from_jsonl(path) == traces
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


@pytest.mark.parametrize(
    "line, message",
    [
        ("{}", "line 1: field 'example_id'"),
        ('{"example_id": "a", "calls": [{"x": 1}], "outputs": {}, "score": true, "failed_parse": false}', "'calls'"),
        ("{", "line 1: no valid JSON"),
    ],
)
def test_a_broken_file_of_traces_is_named(tmp_path, line, message):
    path = tmp_path / "traces.jsonl"
    path.write_text(line)
    with pytest.raises(BtlibError, match=f"traces.jsonl, (line|row) 1.*{message.split(': ')[-1]}"):
        TraceSet.from_jsonl(path)


def hops(model, prompt):
    """Find both gold passages for even films, only the first for odd ones, and write no first query for film 4."""
    number = int(field(prompt, "question").rstrip("?").rpartition("Film")[2])
    if "`[[ ## search_query ## ]]`" not in prompt:
        return reply(reasoning="so", answer=f"Mentor{number}")
    first = "«" not in prompt.partition("[[ ## question ## ]]")[0]
    if number == 4 and first:
        return "gibberish"
    return reply(reasoning="look", search_query=f"Film{number}" if first or number % 2 else f"Director{number}")


def test_right_answers_and_right_queries_are_counted_apart(tmp_path):
    write_hotpotqa(tmp_path)
    task = load_task("hotpotqa", tmp_path, passages_per_hop=1)
    _, traces = run(task, hops)
    by_id = {trace.example_id: trace for trace in traces.traces}
    gold = {example.id: example.gold_titles for example in task.train}
    assert [call.module for call in by_id["q2"].calls] == [name for name, _ in task.program().named_predictors()]
    assert gold_by_hop(by_id["q2"], gold["q2"]) == [[True, False], [True, True]]
    assert gold_by_hop(by_id["q1"], gold["q1"]) == [[True, False], [True, False]]
    # The answer to q4 is right, and one of its queries was never written.
    assert by_id["q4"].outputs["answer"] == "Mentor4" and not by_id["q4"].score
    assert traces.kept == 7 and traces.failed_parses == 1
    assert intermediate_quality(traces, task.train) == {
        "correct": {"traces": 7, "all_gold_found": 3},
        "wrong": {"traces": 1, "all_gold_found": 0},
    }
