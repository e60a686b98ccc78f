"""Task families of pre-training that no program needs as they are, but all lean on: look-up, copying, rules, sums."""

from __future__ import annotations

import random
from collections.abc import Callable

from btlib.pocket import problems as p
from btlib.pocket import words as w
from btlib.pocket.families import Drawn


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
