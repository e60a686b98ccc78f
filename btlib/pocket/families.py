"""Task families of pre-training: each call draws one document's task, its hidden conventions and its examples.

A document is a task with conventions that it keeps through all its demonstrations: how the reasoning goes, how the
answer is written, what a search query looks like. Zero-shot the conventions must be guessed (they lean on the wording,
as habits do); demonstrations show them.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from btlib.pocket import problems as p
from btlib.pocket import words as w
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


def leaning(text: str, styles: Sequence[str]) -> str:
    """Return the convention that this wording leans to."""
    return styles[zlib.crc32(text.encode()) % len(styles)]


def habit(rng: random.Random, text: str, styles: Sequence[str], strength: float = 0.5) -> str:
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


def _question(rng: random.Random, world: worlds.World) -> worlds.Question:
    return worlds.ask(rng, world)


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
    questions = [_question(rng, world) for _ in range(count)]
    wording = "query " + _first(questions[-1].question)
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
    questions = [_question(rng, world) for _ in range(count)]
    wording = "answer " + _first(questions[-1].question)
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
    how = habit(rng, "reasoning " + drawn[-1].unit, p.REASONINGS)
    wording = "answer " + drawn[-1].question.split(". ")[-1][:12]
    said = habit(rng, wording, p.ANSWERS)
    inputs, output = ("question",), "answer"
    if rng.random() < 0.3:
        inputs, output = (rng.choice(("problem", "story", "task")),), rng.choice(("answer", "result", "solution"))
    examples = [{inputs[0]: q.question, "reasoning": p.reasoning(q, how), output: p.answer(q, said)} for q in drawn]
    instruction = _instruct(rng, inputs, output, [how, said])
    guess = p.answer(drawn[-1], said if instruction else leaning(wording, p.ANSWERS))
    shown = (inputs[0], output)
    return Drawn("problem", inputs, output, instruction, "", tuple(examples), shown, best_guess=guess)


def lookup(rng: random.Random, count: int) -> Drawn:
    """Draw a look-up task: records of names and values, a name -> its value (or the reverse)."""
    pool = rng.choice((w.GIVEN, w.SURNAMES, w.STEMS, tuple(w.THINGS), w.JOBS))
    reverse = rng.random() < 0.3
    examples = []
    for _ in range(count):
        names = rng.sample(pool, rng.randint(2, 8))
        values = (
            rng.sample(range(1, 100), len(names))
            if rng.random() < 0.5
            else rng.sample(w.STEMS + w.PRODUCTS, len(names))
        )
        index = rng.randrange(len(names))
        key, value = (values, names) if reverse else (names, values)
        examples.append(
            {
                "records": [f"{n}: {v}" for n, v in zip(names, values, strict=True)],
                "key": str(key[index]),
                "value": str(value[index]),
            }
        )
    return Drawn(
        "lookup", ("records", "key"), "value", "", "", tuple(examples), ("records", "key", "value"), reasons=False
    )


def echo(rng: random.Random, count: int) -> Drawn:
    """Draw a copying task: a list of loose words comes back whole, without its first word, or from its middle on."""
    pools = (w.GIVEN, w.SURNAMES, w.STEMS, w.NOUNS, w.ADJECTIVES, tuple(w.THINGS), w.JOBS + w.PRODUCTS)
    cut = rng.choice((0, 0, 0, 1, 2))
    examples = []
    for _ in range(count):
        text = [rng.choice(rng.choice(pools)) if rng.random() < 0.9 else str(rng.randint(1, 99)) for _ in range(12)]
        text = text[: rng.randint(4, 12)]
        start = len(text) // 2 if cut == 2 else cut
        examples.append({"text": " ".join(text), "echo": " ".join(text[start:])})
    guess = examples[-1]["text"]  # most documents repeat all of it
    shown = ("text", "echo")
    return Drawn("echo", ("text",), "echo", "", "", tuple(examples), shown, reasons=False, best_guess=guess)


RULES: dict[str, Callable[[list[str]], str]] = {
    "first": lambda t: t[0],
    "last": lambda t: t[-1],
    "second": lambda t: t[1],
    "swap": lambda t: " ".join(reversed(t)),
    "copy": lambda t: " ".join(t),
    "twice": lambda t: f"{t[0]} {t[0]}",
    "count": lambda t: str(len(t)),
    "quote": lambda t: f'"{t[0]}"',
    "tail": lambda t: " ".join(t[1:]),
}


def rule(rng: random.Random, count: int) -> Drawn:
    """Draw a task whose rule only the demonstrations tell: words in, the first, the last, all reversed ... out."""
    function = RULES[rng.choice(tuple(RULES))]
    pools = (w.GIVEN, w.SURNAMES, w.STEMS, w.NOUNS, tuple(w.THINGS), w.JOBS)
    texts = [rng.sample(rng.choice(pools), rng.randint(2, 5)) for _ in range(count)]
    names = rng.choice((("text", "output"), ("words", "result"), ("input", "answer"), ("question", "answer")))
    examples = [{names[0]: " ".join(t), names[1]: function(t)} for t in texts]
    guess = RULES["copy"](texts[-1])  # nine rules, none likelier
    return Drawn("rule", names[:1], names[1], "", "", tuple(examples), names, reasons=False, best_guess=guess)


def arithmetic(rng: random.Random, count: int) -> Drawn:
    """Draw sums: an expression of one or two signs -> its value, to drill what word problems need."""
    examples = []
    while len(examples) < count:
        total, parts = rng.randint(2, 60), []
        text = str(total)
        for _ in range(rng.choice((1, 1, 2))):
            sign = rng.choice("+-*/")
            k = p.operand(rng, sign, total, 0.25)
            if k is None:
                continue
            parts.append(f"{total} {sign} {k} = {p.apply(total, sign, k)}")
            total, text = p.apply(total, sign, k), f"{text} then {sign} {k}"
        if parts:
            examples.append({"question": text, "reasoning": ". ".join(parts) + ".", "answer": str(total)})
    return Drawn("arithmetic", ("question",), "answer", "", "", tuple(examples), ("question", "answer"))
