"""The two steps, and the traps of DSPy's optimizers that they must not fall into (each test says which)."""

import dataclasses

import dspy
import pytest
from dspy.teleprompt import BootstrapFewShot, LabeledFewShot
from dspy.teleprompt.teleprompt import Teleprompter
from fakes import CountingEngine, FakeEngine, FakeProvider, fake_lm, field, reply, write_gsm8k, write_hotpotqa
from lm_fixtures import tiny_lm_folder

from btlib.errors import BtlibError
from btlib.presets import Split, load_preset
from btlib.steps import (
    STEPS,
    EmptyTraceSet,
    State,
    TraceSet,
    evaluate,
    finetune_weights,
    optimize_prompts,
    prediction_rows,
    vanilla_state,
)
from btlib.tasks import load_task

SPLIT = Split(train=30, dev=4, test=6, bootstrap=12, validation=12)


def numbers(prompt):
    words = field(prompt, "question").rstrip("?").split()
    return int(words[2]), int(words[4])


def right(prompt):
    return reply(reasoning="add them", answer=str(sum(numbers(prompt))))


def even_only(model, prompt):
    """Right for even numbers, wrong for odd ones; no parsable answer for each third number.

    Tuning cures all of it. Demonstrations with reasoning, that is bootstrapped ones, make each third number right.
    """
    if "tuned" in model or ("add them" in prompt.shown and numbers(prompt)[0] % 3 == 0):
        return right(prompt)
    if numbers(prompt)[0] % 3 == 0:
        return "no fields at all"
    return right(prompt) if numbers(prompt)[0] % 2 == 0 else reply(reasoning="guess", answer="99999")


@pytest.fixture
def preset():
    splits = {"gsm8k": SPLIT, "hotpotqa": Split(train=8, dev=2, test=4, bootstrap=4, validation=4)}
    return dataclasses.replace(load_preset("smoke"), splits=splits, num_threads=4)


def questions(messages):
    """The questions of a prompt's demonstrations (few-shot turns), without the one asked."""
    return [field(turn, "question") for turn in messages[:-1] if "[[ ## question ## ]]\nWhat" in turn]


def test_prompts_are_searched_on_t_and_v_and_nothing_else(sums, preset):
    lm = fake_lm(even_only)
    state, record = optimize_prompts(vanilla_state(sums, lm), sums, preset)
    asked = {field(turns[-1], "question") for _, turns in lm.engine.prompts}
    t = {example.question for example in sums.train[:12]}
    v = {example.question for example in sums.train[12:24]}
    assert v <= asked <= t | v and not t & v
    demos = state.program.prog.predict.demos
    assert {demo.question for demo in demos} <= t
    assert 1 <= len(demos) <= preset.max_labeled_demos
    assert record.kind == "p" and 0 < record.kept < record.total
    assert len(record.validation_scores) == 3 + preset.num_candidate_programs
    assert record.failed_parses > 0 and record.seconds["search"] > 0
    assert record.lm_calls == sum(lm.engine.calls.values())
    assert (record.tokens_in, record.tokens_out) == (10 * record.lm_calls, 5 * record.lm_calls)
    assert record.to_dict()["validation_scores"] == list(record.validation_scores)


def test_trap_1_a_search_after_tuning_runs_on_the_tuned_weights(sums, preset, tmp_path):
    lm, decoy = fake_lm(even_only), fake_lm(even_only)
    state, _ = finetune_weights(vanilla_state(sums, lm), sums, preset, tmp_path)
    before = lm.engine.calls.copy()
    with dspy.context(lm=decoy):  # where BFRS would search by itself
        state, _ = optimize_prompts(state, sums, preset)
        result = evaluate(state, sums.test, sums.metric, preset)
    tuned = lm.model + "+tuned1"
    assert set((lm.engine.calls - before).keys()) == {tuned} and not decoy.engine.calls
    assert {predictor.lm.model for predictor in state.program.predictors()} == {state.lm.model} == {tuned}
    assert result.score == 100


def test_trap_2_no_failed_parse_is_trained_on(sums, preset, tmp_path):
    def script(model, prompt):
        if numbers(prompt)[0] == 5:
            raise RuntimeError("one engine error")  # ends BootstrapFinetune with "not enough values to unpack"
        if numbers(prompt)[0] == 7:  # a partial parse, with the right answer: the reasoning is missing
            return f"[[ ## answer ## ]]\n{sum(numbers(prompt))}\n\n[[ ## completed ## ]]"
        return even_only(model, prompt)

    lm = fake_lm(script)
    _, record = finetune_weights(vanilla_state(sums, lm), sums, preset, tmp_path)
    (job,) = lm.provider.jobs
    trained = {numbers(row["messages"][-2]["content"])[0] for row in job.rows}
    assert trained == {n for n in range(30) if n % 2 == 0 and n % 3}
    assert all("add them" in row["messages"][-1]["content"] for row in job.rows)
    assert (record.kept, record.total, record.failed_parses) == (10, 30, 11)
    assert (record.training_rows, record.training_tokens) == (10, 1000)


def test_trap_2_a_missing_query_is_not_trained_on_even_with_a_right_answer(tmp_path, preset):
    write_hotpotqa(tmp_path)
    task = load_task("hotpotqa", tmp_path)

    def script(model, prompt):
        number = field(prompt, "question").rstrip("?").rpartition("Film")[2]
        if "`[[ ## search_query ## ]]`" in prompt:
            return "gibberish" if number == "4" else reply(reasoning="look", search_query=f"Film{number}")
        return reply(reasoning="so", answer=f"Mentor{number}")

    lm = fake_lm(script)
    state, record = finetune_weights(vanilla_state(task, lm), task, preset, tmp_path)
    (job,) = lm.provider.jobs  # one data set for all three modules
    assert (record.kept, record.total, record.training_rows, len(job.rows)) == (7, 8, 21, 21)
    assert not any("Film4?" in row["messages"][-2]["content"] for row in job.rows)
    assert sum("`[[ ## search_query ## ]]`" in row["messages"][-2]["content"] for row in job.rows) == 14
    assert {predictor.lm.model for predictor in state.program.predictors()} == {lm.model + "+tuned1"}


def test_trap_2_no_demonstration_comes_from_a_failed_parse(sums, preset):
    def partial(model, prompt):
        """The right answer without the reasoning, for even numbers; demonstrations of any kind help with the rest."""
        if numbers(prompt)[0] % 2 and not prompt.shown:
            return reply(reasoning="guess", answer="99999")
        return f"[[ ## answer ## ]]\n{sum(numbers(prompt))}\n\n[[ ## completed ## ]]"

    state, record = optimize_prompts(vanilla_state(sums, fake_lm(partial)), sums, preset)
    demos = state.program.prog.predict.demos
    assert record.validation_scores[0] < record.validation_scores[1] == 100
    assert record.kept == 0 < record.total and demos
    assert not any(demo.get("augmented") for demo in demos)


def test_trap_3_unparsable_answers_and_failed_calls_do_not_end_an_evaluation(sums, preset):
    def script(model, prompt):
        if numbers(prompt)[0] < 15:
            return "no fields at all"
        if numbers(prompt)[0] < 30:
            raise RuntimeError("engine failure")
        return right(prompt)

    lm = fake_lm(script)
    result = evaluate(vanilla_state(sums, lm), sums.test, sums.metric, preset)
    assert (result.score, result.failed_parses, result.errors) == (50.0, 15, 15)
    assert result.unreadable == {"no marker": 15}
    assert lm.engine.calls[lm.model] == 60  # no second call in JSON for an answer that cannot be parsed
    rows = prediction_rows(sums.test, result, sums.metric)
    assert [row["id"] for row in rows] == [example.id for example in sums.test]
    assert [row["correct"] for row in rows] == [i >= 30 for i in range(60)]
    assert rows[40]["outputs"] == {"reasoning": "add them", "answer": rows[40]["gold"]}
    assert rows[40]["inputs"] == {"question": sums.test[40].question}


def test_the_presets_reading_holds_in_every_step(sums, preset, tmp_path):
    def nearly(model, prompt):
        return right(prompt).replace("[[ ## answer ## ]]", "**Answer:**")

    lenient = dataclasses.replace(preset, reading="lenient")
    for each, score, unreadable in ((preset, 0, 24), (lenient, 100, 0)):
        state = vanilla_state(sums, fake_lm(nearly))
        result = evaluate(state, sums.test[:24], sums.metric, each)
        assert (result.score, result.unreadable.get("near miss", 0)) == (score, unreadable)
        _, record = optimize_prompts(state, sums, each)
        assert (record.kept > 0, "near miss" in record.unreadable) == (score > 0, score == 0)
        assert sum(record.unreadable.values()) == record.failed_parses == sum(record.to_dict()["unreadable"].values())
    _, record = finetune_weights(state, sums, lenient, tmp_path)
    assert record.kept == record.total and record.unreadable == {}
    with pytest.raises(EmptyTraceSet) as caught:
        finetune_weights(state, sums, preset, tmp_path / "strict")
    assert caught.value.record.unreadable == {"near miss": len(sums.train)}


def test_trap_3_failed_calls_do_not_end_a_search(sums, preset):
    survivor = numbers(f"[[ ## question ## ]]\n{sums.train[13].question}")[0]

    def script(model, prompt):
        if numbers(prompt)[0] != survivor:
            raise RuntimeError("engine failure")
        return right(prompt)

    _, record = optimize_prompts(vanilla_state(sums, fake_lm(script)), sums, preset)
    assert record.kept == 0 and record.validation_scores[0] == pytest.approx(100 / 12, abs=0.01)


def test_an_evaluation_in_which_everything_fails_is_an_error(sums, preset, capsys):
    def broken(model, prompt):
        raise RuntimeError("the engine is gone")

    with pytest.raises(Exception, match="cancelled due to errors"):
        evaluate(vanilla_state(sums, fake_lm(broken)), sums.test[:8], sums.metric, preset)
    assert "the engine is gone" in capsys.readouterr().err
    with pytest.raises(BtlibError, match="no examples"):
        evaluate(vanilla_state(sums, fake_lm(right)), (), sums.metric, preset)


def test_trap_4_a_training_that_fails_is_an_error_and_not_a_result(sums, preset, tmp_path):
    lm = fake_lm(even_only, provider=FakeProvider(error=MemoryError("out of memory")))
    with pytest.raises(MemoryError, match="out of memory"):
        finetune_weights(vanilla_state(sums, lm), sums, preset, tmp_path)


def test_trap_5_and_7_a_second_search_is_taught_by_the_first_ones_program(sums, preset):
    lm = fake_lm(even_only)
    first, _ = optimize_prompts(vanilla_state(sums, lm), sums, preset)
    teaching = first.program.prog.predict.demos
    assert teaching
    first.program._compiled = False  # as after loading from a file
    lm.engine.prompts.clear()
    second, record = optimize_prompts(first, sums, preset)
    t = {example.question for example in sums.train[:12]}
    taught = [turns for _, turns in lm.engine.prompts if field(turns[-1], "question") in t]
    assert taught and record.total
    for turns in taught:
        # DSPy leaves out a labelled demonstration of the question itself, but not a bootstrapped one.
        asked = field(turns[-1], "question")
        expected = [demo.question for demo in teaching if demo.get("augmented") or demo.question != asked]
        assert sorted(questions(turns)) == sorted(expected)
    assert second.program is not first.program


def test_a_zero_shot_winner_teaches_as_it_is(sums, preset):
    """The first search may find that no demonstrations are best; the second then starts from there."""

    def zero_shot_only(model, prompt):
        return right(prompt)

    lm = fake_lm(zero_shot_only)
    first, _ = optimize_prompts(vanilla_state(sums, lm), sums, preset)
    assert first.program.prog.predict.demos == []  # all candidates tie, the first one tried wins
    lm.engine.prompts.clear()
    optimize_prompts(first, sums, preset)
    t = {example.question for example in sums.train[:12]}
    taught = [turns for _, turns in lm.engine.prompts if field(turns[-1], "question") in t]
    assert taught and all(questions(turns) == [] for turns in taught)


def test_trap_6_no_correct_trace_stops_before_training(sums, preset, tmp_path):
    lm = fake_lm(lambda model, prompt: reply(reasoning="guess", answer="99999"))
    with pytest.raises(EmptyTraceSet, match="none of 30 traces was correct") as caught:
        finetune_weights(vanilla_state(sums, lm), sums, preset, tmp_path / "run")
    assert lm.provider.jobs == []
    record = caught.value.record
    assert (record.kind, record.kept, record.total, record.lm_calls) == ("w", 0, 30, 30)
    assert caught.value.traces.total == 30
    assert TraceSet.from_jsonl(tmp_path / "run" / "traces.jsonl") == caught.value.traces
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["traces.jsonl"]


def test_trap_8_weights_are_tuned_twice_from_the_tuned_ones(sums, preset, tmp_path):
    lm = fake_lm(even_only)
    once, _ = finetune_weights(vanilla_state(sums, lm), sums, preset, tmp_path / "1")
    twice, record = finetune_weights(once, sums, preset, tmp_path / "2")
    first, second = lm.provider.jobs
    assert (first.model, second.model) == (lm.model, lm.model + "+tuned1")
    assert twice.lm.model == lm.model + "+tuned1+tuned2"
    assert record.kept == 30  # the second round bootstraps with the tuned weights
    assert second.kwargs["output_dir"] == str(tmp_path / "2" / "adapter")


def test_trap_9_the_state_that_a_step_is_given_stays_as_it_was(sums, preset, tmp_path):
    lm = fake_lm(even_only)
    vanilla = vanilla_state(sums, lm)
    prompted, _ = optimize_prompts(vanilla, sums, preset)
    demos = list(prompted.program.prog.predict.demos)
    tuned, _ = finetune_weights(prompted, sums, preset, tmp_path)
    assert vanilla.program.prog.predict.demos == [] and not getattr(vanilla.program, "_compiled", False)
    assert prompted.program.prog.predict.demos == demos and prompted.program.prog.predict.lm is lm
    assert tuned.program is not vanilla.program and tuned.lm is not lm
    assert lm.model == prompted.lm.model and lm.cache is True
    assert "forward" not in vars(vanilla.program) and "forward" not in vars(prompted.program)


def test_trap_10_a_graded_metric_does_not_pass_for_right(sums, preset, tmp_path):
    def graded(example, pred, trace=None):
        return 1.0 if sums.metric(example, pred) else 0.3

    state, task = vanilla_state(sums, fake_lm(even_only)), dataclasses.replace(sums, metric=graded)
    _, record = finetune_weights(state, task, preset, tmp_path)
    assert record.kept == 10
    _, record = optimize_prompts(state, task, preset)
    assert 0 < record.kept < record.total and max(record.validation_scores) < 100
    # A 0.3 is wrong in the score and in the predictions alike.
    result = evaluate(state, task.test, graded, preset)
    right = [row["correct"] for row in prediction_rows(task.test, result, graded)]
    assert result.score == pytest.approx(100 * sum(right) / 60) and sum(right) == 20
    assert all(type(verdict) is bool for verdict in right)


def test_trap_11_a_seed_changes_the_order_of_the_training_set_only(tmp_path, preset):
    write_gsm8k(tmp_path, train=30)
    found = []
    for seed in (0, 1, 0):
        task = load_task("gsm8k", tmp_path, seed=seed)
        lm = fake_lm(even_only)
        state, record = optimize_prompts(vanilla_state(task, lm), task, preset)
        asked = sorted((field(turns[-1], "question"), *questions(turns)) for _, turns in lm.engine.prompts)
        found.append((asked, [dict(demo) for demo in state.program.prog.predict.demos], record.validation_scores))
    assert found[0] == found[2] != found[1]


def test_trap_13_training_rows_have_no_demonstrations_and_the_prompts_go_back(sums, preset, tmp_path):
    lm = fake_lm(even_only)
    prompted, _ = optimize_prompts(vanilla_state(sums, lm), sums, preset)
    lm.engine.prompts.clear()
    tuned, record = finetune_weights(prompted, sums, preset, tmp_path)
    demos = len(prompted.program.prog.predict.demos)  # the traces come from the prompts as they are
    assert demos and {len(questions(turns)) for _, turns in lm.engine.prompts} == {demos}
    (job,) = lm.provider.jobs
    assert {tuple(m["role"] for m in row["messages"]) for row in job.rows} == {("system", "user", "assistant")}
    assert tuned.program.prog.predict.demos == []
    assert not getattr(tuned.program, "_compiled", False)  # it is the vanilla program for the next step
    assert record.kind == "w" and set(record.seconds) == {"bootstrap", "train"}


def test_the_presets_numbers_reach_the_trainer(sums, preset, tmp_path):
    lm = fake_lm(even_only)
    finetune_weights(vanilla_state(sums, lm), sums, preset, tmp_path)
    kwargs = lm.provider.jobs[0].kwargs
    assert (kwargs["rank"], kwargs["alpha"], kwargs["targets"]) == (32, 64, preset.lora_targets)
    assert (kwargs["epochs"], kwargs["learning_rate"], kwargs["batch_size"]) == (2, preset.learning_rate, 8)
    assert kwargs["seed"] == 0  # the run's seed shuffles, it does not draw weights


def test_the_real_trainer_takes_what_the_step_gives_and_trains_on_from_it(tmp_path, preset):
    """Scripted answers, but LoRA on a real (tiny, random) LM; the second step continues from the first adapter."""
    from btlib.lm import load_lm

    write_gsm8k(tmp_path, train=24)
    task = load_task("gsm8k", tmp_path)
    preset = dataclasses.replace(preset, epochs=1, lora_rank=4, lora_alpha=8)
    base = load_lm(str(tiny_lm_folder(tmp_path, max_position_embeddings=4096)), preset)
    scripted = FakeEngine(lambda model, prompt: right(prompt) if numbers(prompt)[0] < 4 else "no")
    once, record = finetune_weights(vanilla_state(task, base.copy(engine=scripted)), task, preset, tmp_path / "one")
    assert (record.kept, record.training_rows) == (4, 4) and record.training_tokens > 1000
    assert (tmp_path / "one" / "adapter" / "adapter_model.safetensors").exists()
    assert once.lm.model.startswith(base.model + "+")
    twice, again = finetune_weights(once, task, dataclasses.replace(preset, epochs=2), tmp_path / "two")
    # The same rows, twice as often: tokens are those of one pass.
    assert again.training_tokens == record.training_tokens == twice.lm.training_report.tokens
    assert set(scripted.calls) == {base.model, once.lm.model}  # the second traces come from the tuned weights
    assert twice.lm.model not in (base.model, once.lm.model)
    base.engine.close()


def test_each_example_is_asked_once_for_its_traces(sums, preset, tmp_path):
    """DSPy's optimizer finds every answer in the cache, also for an LM that is told not to use one."""
    for cache in (True, False):
        lm = fake_lm(even_only).copy(cache=cache)
        state, record = finetune_weights(vanilla_state(sums, lm), sums, preset, tmp_path)
        assert record.lm_calls == lm.engine.calls[lm.model] == 30
        assert state.lm.cache is cache


def test_answers_that_change_without_a_cache_are_an_error(sums, preset, tmp_path):
    count = iter(range(10**6))

    def fickle(model, prompt):
        return reply(reasoning=f"try {next(count)}", answer=str(sum(numbers(prompt))))

    cache = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    try:
        with pytest.raises(BtlibError, match="turn DSPy's response cache on"):
            finetune_weights(vanilla_state(sums, fake_lm(fickle)), sums, preset, tmp_path)
    finally:
        dspy.cache = cache


def test_an_engines_own_counters_are_read(sums, preset):
    lm = fake_lm(even_only, engine=CountingEngine)
    evaluate(vanilla_state(sums, lm), sums.test[:5], sums.metric, preset)  # not part of the next count
    result = evaluate(vanilla_state(sums, lm), sums.test[5:15], sums.metric, preset)
    assert (result.lm_calls, result.tokens_in, result.tokens_out, result.tokens_reused) == (10, 70, 30, 20)


def test_an_evaluation_runs_on_the_states_lm_whatever_the_program_holds(sums, preset):
    right_lm, other = fake_lm(even_only), fake_lm(even_only)
    program = vanilla_state(sums, other).program
    evaluate(State(program, right_lm), sums.test[:3], sums.metric, preset)
    assert not other.engine.calls and program.prog.predict.lm is other


def test_steps_print_nothing_and_keep_no_history(sums, preset, tmp_path, capfd):
    lm = fake_lm(even_only)
    state = vanilla_state(sums, lm)
    for letter in "pw":
        state, _ = STEPS[letter].run(state, sums, preset, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert lm.history == []  # it would be copied with every candidate program


def test_too_small_a_training_set_is_an_error(sums, preset):
    small = dataclasses.replace(sums, train=sums.train[:20])
    with pytest.raises(BtlibError, match="has 20 training examples, preset smoke needs 12 to bootstrap and 12"):
        optimize_prompts(vanilla_state(sums, fake_lm(even_only)), small, preset)


class FewestExamples(Teleprompter):
    """Take the fewest labelled demonstrations that are as good as any on the validation set."""

    def __init__(self, metric):
        self.metric, self.given = metric, {}

    def compile(self, student, *, trainset, valset):
        self.given = {"trainset": trainset, "valset": valset}
        candidates = [LabeledFewShot(k=k).compile(student, trainset=trainset) for k in (1, 2, 3)]
        return max(candidates, key=lambda program: sum(self.metric(x, program(**x.inputs())) for x in valset))


def helped(model, prompt):
    """Right after two demonstrations or more."""
    return right(prompt) if len(prompt.shown.split("[[ ## answer ## ]]")) > 2 else reply(reasoning="hm", answer="99999")


def test_another_optimizer_gets_the_verdict_and_both_parts_of_the_training_set(sums, preset):
    made = []

    def optimizer(metric, task, preset):
        made.append(FewestExamples(metric))
        return made[-1]

    lm = fake_lm(helped)
    first, record = optimize_prompts(vanilla_state(sums, lm), sums, preset, optimizer=optimizer)
    assert len(first.program.prog.predict.demos) == 2 and first.lm is lm
    assert made[0].given == {"trainset": list(sums.train[:12]), "valset": list(sums.train[12:24])}
    assert (record.kind, record.lm_calls, record.total, record.validation_scores) == ("p", 36, 0, ())
    # It takes no teacher, so that a second search starts from the vanilla program again.
    second, _ = optimize_prompts(first, sums, preset, optimizer=optimizer)
    assert [dict(demo) for demo in second.program.prog.predict.demos] == [
        dict(demo) for demo in first.program.prog.predict.demos
    ]


@pytest.mark.parametrize(
    "made", [lambda metric: LabeledFewShot(k=4), lambda metric: BootstrapFewShot(metric, max_bootstrapped_demos=2)]
)
def test_an_optimizer_that_validates_nothing_will_do(sums, preset, made):
    lm = fake_lm(even_only)
    state, record = optimize_prompts(vanilla_state(sums, lm), sums, preset, optimizer=lambda metric, *_: made(metric))
    demos = state.program.prog.predict.demos
    assert demos and {demo.question for demo in demos} <= {example.question for example in sums.train[:12]}
    assert record.kept == sum(demo.get("augmented", False) for demo in demos)  # counted as BFRS's tries are
    again, _ = optimize_prompts(state, sums, preset, optimizer=lambda metric, *_: made(metric))  # with a teacher
    assert again.program.prog.predict.demos


def test_another_way_of_training_gets_the_traces_and_returns_the_lm(sums, preset, tmp_path):
    seen = []

    def train(state, task, preset, traces, folder):
        seen.append((state, traces, sorted(path.name for path in folder.iterdir())))
        return state.lm.copy(model=state.lm.model + "+tuned by other means")

    lm = fake_lm(even_only)
    prompted = optimize_prompts(vanilla_state(sums, lm), sums, preset)[0]
    tuned, record = finetune_weights(prompted, sums, preset, tmp_path / "run", train=train)
    ((state, traces, files),) = seen
    assert state.program is prompted.program and files == ["traces.jsonl"] and not lm.provider.jobs
    assert (record.kept, record.training_rows) == (traces.kept, traces.kept) and 0 < traces.kept < 30
    assert tuned.lm.model.endswith("other means") and not tuned.program.prog.predict.demos
    assert evaluate(tuned, sums.test, sums.metric, preset).score == 100
