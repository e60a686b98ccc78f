"""Task families of pre-training: each call draws one document's task, its hidden conventions and its examples.

A document is a task with conventions that it keeps through all its demonstrations: how the reasoning goes, how the
answer is written, what a search query looks like. Zero-shot the conventions must be guessed: they lean on the wording
of a document's first question, as habits do. Demonstrations show them, whatever the wording of what follows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from btlib.pocket import problems as p
from btlib.pocket import worlds


@dataclass(frozen=True)
class Drawn:
    """A task of one document: signature parts, and examples of which the last one is the document's target."""

    family: str
    inputs: tuple[str, ...]
    output: str
    instruction: str  # "" is DSPy's own default instruction
    description: str  # of the output field
    examples: tuple[dict, ...]  # fields -> values, with "reasoning" where the task has one
    labelled_fields: tuple[str, ...]  # fields of a demonstration that comes straight from a training set
    max_full: int = 6
    reasons: bool = True
    best_guess: str = ""  # the target as a perfect reader would write it who has seen no demonstration
    best_reading: str = ""  # the same with demonstrations, where even they leave a doubt


# Which wording leans to which convention is a draw like any other. This number of it was chosen so that the wordings of
# a mini task lean to what the task wants in one case of six: enough right traces to begin with, and much to learn.
HABITS = 408


@lru_cache(maxsize=4096)
def leaning(text: str, styles: tuple[str, ...]) -> str:
    """Return the convention that this wording leans to."""
    return random.Random(f"{HABITS} {text}").choice(styles)


def habit(rng: random.Random, text: str, styles: tuple[str, ...], strength: float = 0.8) -> str:
    """Draw a convention; with probability `strength` the one that this wording leans to: a habit."""
    return leaning(text, styles) if rng.random() < strength else rng.choice(styles)


QUERY_STYLES = ("entity", "question", "entity", "keywords")
ANSWER_STYLES = ("bare", "sentence", "bare", "it")
NAMED = {
    "entity": "Search for the name of one page.",
    "question": "Search with the whole question.",
    "keywords": "Search with keywords, without names.",
    "bare": "Answer with the bare name or number.",
    "sentence": "Answer in a whole sentence.",
    "it": "Start the answer with It is.",
    "equations": "Reason in equations.",
    "words": "Reason in words, step by step.",
    "jump": "Do not reason.",
    "unit": "Answer with the number and its unit.",
    "backwards": "Answer with the last equation, result first.",
}


def _instruct(rng: random.Random, inputs: Sequence[str], output: str, styles: Sequence[str]) -> str:
    """Name the conventions in the instruction of one document in seven, so that instructions steer too."""
    if rng.random() > 0.14:
        return ""
    default = f"Given the fields {', '.join(f'`{i}`' for i in inputs)}, produce the fields `{output}`."
    return " ".join([default, *(NAMED[s] for s in styles)])


def _first(question: str) -> str:
    return " ".join(question.split()[:2])


def _passages(rng: random.Random, world: worlds.World, gold: Sequence[str], near: str, count: int) -> list[str]:
    """Mix gold pages with distractors, most of which share a word with the entity searched for, as BM25 would find."""
    shared = set(near.split())
    others = [t for t in world.pages if t not in gold]
    close = [t for t in others if shared & set((t + " " + world.pages[t]).replace(",", "").replace(".", "").split())]
    titles = list(gold)
    while len(titles) < count and others:
        title = rng.choice(close if close and rng.random() < 0.7 else others)
        others.remove(title)
        close = [c for c in close if c != title]
        titles.append(title)
    if rng.random() < 0.5:
        rng.shuffle(titles)
    return [world.passage(t) for t in titles]


def query(rng: random.Random, count: int) -> Drawn:
    """Draw a search-query task: (context, question) -> search_query, first hop (no context) or second."""
    world = worlds.make_world(
        rng, rng.randint(5, 9), rng.randint(4, 8), rng.randint(3, 5), held=False, pool=rng.choice((6, 12, None))
    )
    questions = [worlds.ask(rng, world) for _ in range(count)]
    wording = "query " + _first(questions[0].question)
    style = habit(rng, wording, QUERY_STYLES)
    steps = rng.random() < 0.65
    hop = rng.choice((0, 1, 1, None))
    inputs, output = ("context", "question"), "search_query"
    if rng.random() < 0.3:
        inputs, output = (
            (rng.choice(("passages", "documents", "notes")), rng.choice(("question", "task"))),
            rng.choice(("query", "search_query", "lookup")),
        )
    examples, said = [], {}
    for q in questions:
        second = rng.random() < 0.6 if hop is None else hop == 1
        found = second and rng.random() < 0.9
        target = q.bridge if found else q.entity
        context: list[str] = []
        if second:
            context = _passages(rng, world, [q.entity] if found else [], q.entity, rng.choice((2, 3, 3)))
            if not found:
                context = [c for c in context if not c.startswith(q.entity)]
        if steps:
            text = f"{q.facts[0].sentence} Now find {q.bridge}." if found else f"First find {q.entity}."
        else:
            text = "We need to search."
        said = {"entity": target, "question": q.question, "keywords": q.keywords}
        examples.append({inputs[0]: context, inputs[1]: q.question, "reasoning": text, output: said[style]})
    instruction = _instruct(rng, inputs, output, [style])
    guess = said[style if instruction else leaning(wording, QUERY_STYLES)]
    full = rng.choice((3, 3, 6))
    return Drawn("query", inputs, output, instruction, "", tuple(examples), (), full, best_guess=guess)


def answer(rng: random.Random, count: int) -> Drawn:
    """Draw a reading task: (context, question) -> answer over two hops, with distractors in the context."""
    world = worlds.make_world(
        rng, rng.randint(5, 9), rng.randint(4, 8), rng.randint(3, 5), held=False, pool=rng.choice((6, 12, None))
    )
    questions = [worlds.ask(rng, world) for _ in range(count)]
    wording = "answer " + _first(questions[0].question)
    style = habit(rng, wording, ANSWER_STYLES)
    steps = rng.random() < 0.7
    inputs, output = ("context", "question"), "answer"
    if rng.random() < 0.3:
        inputs, output = (
            (rng.choice(("passages", "documents", "notes")), rng.choice(("question", "task"))),
            rng.choice(("answer", "response")),
        )
    examples, said = [], {}
    for q in questions:
        context = _passages(rng, world, [q.entity, q.bridge], q.bridge, rng.choice((2, 3, 4, 5, 6)))
        text = f"{q.facts[0].sentence} {q.facts[1].sentence}" if steps else "The passages tell."
        said = {"bare": q.answer, "sentence": q.facts[1].sentence, "it": f"It is {q.answer}."}
        examples.append({inputs[0]: context, inputs[1]: q.question, "reasoning": text, output: said[style]})
    instruction = _instruct(rng, inputs, output, [style])
    guess = said[style if instruction else leaning(wording, ANSWER_STYLES)]
    shown = (inputs[1], output)
    return Drawn("answer", inputs, output, instruction, "", tuple(examples), shown, max_full=3, best_guess=guess)


def problem(rng: random.Random, count: int) -> Drawn:
    """Draw a word-problem task: question -> answer, one to four steps."""
    drawn = [p.make_problem(rng, held=False) for _ in range(count)]
    how = habit(rng, "reasoning " + drawn[0].unit, p.REASONINGS)
    wording = "answer " + drawn[0].question.split(". ")[-1][:12]
    said = habit(rng, wording, p.ANSWERS)
    inputs, output = ("question",), "answer"
    if rng.random() < 0.3:
        inputs, output = (rng.choice(("problem", "story", "task")),), rng.choice(("answer", "result", "solution"))
    examples = [{inputs[0]: q.question, "reasoning": p.reasoning(q, how), output: p.answer(q, said)} for q in drawn]
    instruction = _instruct(rng, inputs, output, [how, said])
    guess = p.answer(drawn[-1], said if instruction else leaning(wording, p.ANSWERS))
    shown = (inputs[0], output)
    return Drawn("problem", inputs, output, instruction, "", tuple(examples), shown, best_guess=guess)
