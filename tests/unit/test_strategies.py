"""Strategies: their names, and the fold over their steps."""

import dataclasses

import pytest
from fakes import fake_lm, field, reply, write_gsm8k

from btlib.errors import BtlibError
from btlib.steps.prompts import EmptyTraceSet
from btlib.presets import Split, load_preset
from btlib.steps.strategies import STRATEGIES, label, parse_strategy, run_strategy, strategy_name, strategy_slug
from btlib.tasks import load_task


def test_eight_strategies_each_after_its_prefixes():
    assert len(set(STRATEGIES)) == 8
    for i, steps in enumerate(STRATEGIES):
        assert all(steps[:k] in STRATEGIES[:i] for k in range(len(steps)))
    assert len({steps for steps in STRATEGIES if steps}) == 7  # seven optimization steps, not thirteen
    assert sum(map(len, STRATEGIES)) == 13


def test_names():
    steps = ("p", "w", "p")
    assert (strategy_name(steps), strategy_slug(steps), label(steps)) == ("p -> w -> p", "p-w-p", "Π→Θ→Π")
    assert (strategy_name(()), strategy_slug(()), label(())) == ("", "vanilla", "Vanilla Zero-shot")


@pytest.mark.parametrize("steps", STRATEGIES)
def test_every_spelling_is_read_back(steps):
    for text in (strategy_name(steps), strategy_slug(steps), label(steps), strategy_name(steps).replace(" ", "")):
        assert parse_strategy(text) == steps


@pytest.mark.parametrize("text", ["x", "p -> w -> w", "pw", "p -> ", "->", "w-w-w"])
def test_what_is_no_strategy_lists_the_eight(text):
    with pytest.raises(BtlibError, match="choose from vanilla, p, w, p -> p, w -> w, p -> w, w -> p, p -> w -> p"):
        parse_strategy(text)


def right_once_tuned(model, prompt):
    words = field(prompt, "question").rstrip("?").split()
    right = "tuned" in model or int(words[2]) % 2
    return reply(reasoning="add", answer=str(int(words[2]) + int(words[4])) if right else "99999")


@pytest.fixture
def setting(tmp_path):
    write_gsm8k(tmp_path)
    split = Split(train=12, dev=4, test=6, bootstrap=5, validation=6)
    preset = dataclasses.replace(load_preset("smoke"), splits={"gsm8k": split}, num_threads=4)
    return load_task("gsm8k", tmp_path, split=split), preset


def test_the_fold_yields_every_prefix(setting, tmp_path):
    task, preset = setting
    lm = fake_lm(right_once_tuned)
    prefixes = list(run_strategy(task, lm, "p -> w -> p", preset, 0, tmp_path / "out"))
    assert [prefix.steps for prefix in prefixes] == [(), ("p",), ("p", "w"), ("p", "w", "p")]
    assert [prefix.record and prefix.record.kind for prefix in prefixes] == [None, "p", "w", "p"]
    assert [prefix.state.lm.model for prefix in prefixes] == [lm.model] * 2 + [lm.model + "+tuned1"] * 2
    demos = [len(prefix.state.program.prog.predict.demos) for prefix in prefixes]
    assert demos[0] == demos[2] == 0  # the prompts go back to vanilla before weights are judged
    assert lm.provider.jobs[0].kwargs["output_dir"] == str(tmp_path / "out" / "p-w" / "adapter")


def test_a_cell_without_correct_traces_ends_the_fold_after_its_prefixes(setting, tmp_path):
    task, preset = setting
    seen = []
    with pytest.raises(EmptyTraceSet):
        for prefix in run_strategy(task, fake_lm(lambda model, prompt: "no"), ("w", "p"), preset, 0, tmp_path):
            seen.append(prefix.steps)
    assert seen == [()]


def test_an_unknown_strategy_is_refused_before_any_work(setting, tmp_path):
    task, preset = setting
    with pytest.raises(BtlibError, match="unknown strategy"):
        next(run_strategy(task, fake_lm(right_once_tuned), ("w", "w", "w"), preset, 0, tmp_path))
