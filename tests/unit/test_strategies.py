"""Strategies: their names, what may be one, and the fold over their steps."""

import pytest

from btlib.errors import BtlibError
from btlib.grid.plan import plan
from btlib.presets import PRESETS
from btlib.runs import execute, make_spec, read_run
from btlib.steps import STRATEGIES, label, parse_strategy, strategy_name, strategy_slug
from btlib.steps.strategies import in_order

SMOKE = PRESETS["smoke"]


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


@pytest.mark.parametrize("steps", [*STRATEGIES, ("w", "p", "w"), tuple("pwpw"), tuple("wwwww")])
def test_every_spelling_is_read_back(steps):
    for text in (strategy_name(steps), strategy_slug(steps), label(steps), strategy_name(steps).replace(" ", "")):
        assert parse_strategy(text) == steps


@pytest.mark.parametrize("text", ["x", "pw", "p -> ", "->", "-", "p -> x", "w-p-q", "vanilla-p", "p,w", "0"])
def test_what_is_no_strategy_lists_the_eight(text):
    with pytest.raises(
        BtlibError, match="choose from vanilla, p, w, p -> p, w -> w, p -> w, w -> p, p -> w -> p; or any"
    ) as caught:
        parse_strategy(text)
    assert "\n" not in str(caught.value)


def test_others_come_after_the_papers_from_short_to_long():
    others = [tuple("pwpw"), tuple("wpw"), tuple("www"), tuple("ppw")]
    assert in_order([*others, *others, *reversed(STRATEGIES)]) == [
        *STRATEGIES,
        tuple("ppw"),
        tuple("wpw"),
        tuple("www"),
        tuple("pwpw"),
    ]


def test_a_strategy_that_is_not_the_papers_brings_its_prefixes():
    names = [spec.name for spec in plan(SMOKE, ["gsm8k"], strategies=[tuple("wpw"), tuple("pwpw")])]
    assert names == ["", "p", "w", "p -> w", "w -> p", "p -> w -> p", "w -> p -> w", "p -> w -> p -> w"]


def test_a_strategy_that_is_not_the_papers_runs_as_a_fold(world, tmp_path):
    run = execute(make_spec("gsm8k", "pocket", "w -> p -> w", 0, "smoke"), tmp_path)
    assert [step["kind"] for step in run.record["steps"]] == ["w", "p", "w"]
    # Right below 6; with weights below 12, with demonstrations too below 18: those traces teach the second weights.
    chain = [read_run(make_spec("gsm8k", "pocket", name, 0, "smoke"), tmp_path) for name in ("", "w", "w -> p")]
    assert [run.score for run in chain] == [25, 50, 75]
    assert run.record["steps"][2]["kept"] == 18 and run.record["weights"].count("+") == 2
    first, second = world.provider.jobs
    assert first.model == world.lm.model and second.model.startswith(f"{world.lm.model}+")
    assert run.score == 75  # tuned twice, and the prompts are vanilla again
