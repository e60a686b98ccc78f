"""Run ahead, in parallel, what BFRS runs one after another; DSPy's response cache hands it the answers.

BFRS takes its candidates one by one, and for each it runs a teacher over the training examples, one by one, until
enough traces are right. A batched LM idles meanwhile. Here every candidate has a thread that does the same beforehand,
and the optimizer that follows is DSPy's own, unmodified: it asks the same questions and finds them answered, so its
result cannot differ. Nothing is run ahead that the search would not run itself, so the LM does no more work than
without. Beside the paper's algorithm; notebook 03 teaches what is searched.
"""

from __future__ import annotations

import contextvars
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock, Semaphore
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFewShotWithRandomSearch, LabeledFewShot
from dspy.utils.callback import BaseCallback

from btlib.lm.adapter import ForgivingChatAdapter
from btlib.steps.bootstrap import Metric
from btlib.steps.state import copy_program

_log = logging.getLogger(__name__)
Examples = Sequence[dspy.Example]


def can_look_ahead(lm: dspy.LM) -> bool:
    """Tell whether the LM's answers are kept in DSPy's cache; without it everything would be computed twice."""
    return bool(lm.cache and (dspy.cache.enable_memory_cache or dspy.cache.enable_disk_cache))


def look_ahead(
    search: BootstrapFewShotWithRandomSearch,
    student: dspy.Module,
    teacher: dspy.Module | None,
    trainset: Examples,
    valset: Examples,
) -> int:
    """Ask all that `search.compile(student, teacher=teacher, trainset=..., valset=...)` will ask; fill DSPy's cache.

    Runs under the current DSPy settings, with an adapter of its own, so that failed parses are counted once, and with
    at most `search.num_threads` LM calls at a time. Returns how many bootstrap tries were made. A failure is
    left to the search itself, which meets it again.
    """
    ahead = _Tries(search.metric, threads=len(trainset))
    seeds = range(-3, search.num_candidate_sets)
    chains = {seed: _chain(search, seed, student, teacher, trainset) for seed in seeds if seed >= -1}
    callbacks = [*dspy.settings.callbacks, _Gate(search.num_threads or dspy.settings.num_threads)]
    reading = getattr(dspy.settings.adapter, "reading", "strict")
    own = dspy.context(adapter=ForgivingChatAdapter(reading=reading), callbacks=callbacks)
    with own, ahead.pool, ThreadPoolExecutor(len(seeds)) as candidates:

        def candidate(seed: int) -> None:
            try:
                if seed in chains:
                    ahead.bootstrap(*chains[seed])
                search.compile(student, teacher=teacher, trainset=trainset, valset=valset, restrict=[seed])
            except Exception as error:
                _log.debug("look-ahead of candidate %s: %s", seed, error)

        for future in [_submit(candidates, candidate, seed) for seed in seeds]:
            future.result()
    return len(ahead.futures)


def _chain(
    search: BootstrapFewShotWithRandomSearch,
    seed: int,
    student: dspy.Module,
    teacher: dspy.Module | None,
    trainset: Examples,
) -> tuple[dspy.Module, list[dspy.Example], int]:
    """Return what DSPy bootstraps a candidate with: its teacher, the examples in their order, the traces it needs."""
    examples, size = list(trainset), search.max_num_samples
    if seed >= 0:
        random.Random(seed).shuffle(examples)
        size = random.Random(seed).randint(search.min_num_samples, search.max_num_samples)
    if teacher is None or not getattr(teacher, "_compiled", False):
        base = student if teacher is None else teacher
        teacher = LabeledFewShot(k=search.max_labeled_demos).compile(base.reset_copy(), trainset=examples)
    return teacher, examples, size


class _Gate(BaseCallback):
    """Let so many LM calls through at a time: each candidate evaluates with threads of its own."""

    def __init__(self, calls: int):
        self.free = Semaphore(calls)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.free.acquire()

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.free.release()


class _Tries:
    """Runs of a teacher on an example, each made once."""

    def __init__(self, metric: Metric, threads: int):
        self.metric = metric
        self.pool = ThreadPoolExecutor(threads)
        self.futures: dict[tuple[int, int], Future[bool]] = {}
        self.lock = Lock()

    def bootstrap(self, teacher: dspy.Module, examples: Examples, need: int) -> None:
        """Try the examples in order until `need` traces are right, as many at once as certainly have to be tried.

        Where n more right traces are needed, the next n examples will be tried whatever comes of them.
        """
        rest = iter(examples)
        while need and (wave := list(islice(rest, need))):
            need -= sum([future.result() for future in [self.start(teacher, example) for example in wave]])

    def start(self, teacher: dspy.Module, example: dspy.Example) -> Future[bool]:
        with self.lock:  # candidates share a teacher that is compiled already
            key = id(teacher), id(example)
            if key not in self.futures:
                self.futures[key] = _submit(self.pool, self._try, teacher, example)
            return self.futures[key]

    def _try(self, teacher: dspy.Module, example: dspy.Example) -> bool:
        """Run the teacher as BootstrapFewShot does: without a demonstration of the example itself."""
        program = copy_program(teacher)
        for predictor in program.predictors():
            predictor.demos = [demo for demo in predictor.demos if demo != example]
        try:
            with dspy.context(trace=[]):
                prediction = program(**example.inputs())
                return bool(self.metric(example, prediction, dspy.settings.trace))
        except Exception:
            return False


def _submit(pool: ThreadPoolExecutor, work: Callable, *arguments: object) -> Future:
    """Start work in another thread under the DSPy settings of this one."""
    return pool.submit(contextvars.copy_context().run, work, *arguments)
