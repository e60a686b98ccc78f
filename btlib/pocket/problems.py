"""Word problems of one to four steps, in many wordings, with their solutions step by step.

The same generator makes gsm8k-mini (held-out names and seeds) and the word problems of pre-training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from btlib.pocket import words as w


@dataclass(frozen=True)
class Problem:
    """A question, its integer answer, its unit, who it is about, each step as (left, sign, right, result)."""

    question: str
    answer: int
    unit: str
    name: str
    steps: tuple[tuple[int, str, int, int], ...]


OPENINGS = (
    "{n} has {x} {t}.",
    "{n} owns {x} {t}.",
    "{n} starts with {x} {t}.",
    "There are {x} {t} on the table of {n}.",
    "{n} collected {x} {t}.",
    "In the morning {n} counts {x} {t}.",
    "{n} bought {x} {t} at the market.",
    "A drawer of {n} holds {x} {t}.",
)
EVENTS = {
    "+": (
        "{n} buys {k} more.",
        "{o} gives {n} {k} more {t}.",
        "Then {n} finds {k} {t}.",
        "{n} gets another {k} from {o}.",
        "Later {k} {t} are added.",
        "{n} wins {k} more {t}.",
        "A friend brings {k} more.",
        "{n} picks up {k} extra {t}.",
    ),
    "-": (
        "{n} gives {k} to {o}.",
        "{n} loses {k} of them.",
        "{n} sells {k} {t}.",
        "{o} takes {k} of the {t}.",
        "Then {k} {t} break.",
        "{n} throws away {k} {t}.",
        "{n} uses {k} of them.",
        "{k} {t} are given to {o}.",
    ),
    "*": (
        "{o} has {k} times as many.",
        "After a good week the number is {k} times as large.",
        "{n} makes {k} times as many {t}.",
        "Each of the {t} is swapped for {k} {t}.",
        "A machine turns every one of them into {k} {t}.",
    ),
    "/": (
        "{n} shares them equally among {k} friends.",
        "They are split equally into {k} {c}.",
        "{n} puts them in {k} equal {c}.",
        "{n} divides the {t} evenly over {k} {c}.",
    ),
}
OPENING_PRODUCTS = (
    "{n} has {x} {c} with {k} {t} each.",
    "{n} fills {x} {c} with {k} {t} in each.",
    "There are {x} {c}. Each holds {k} {t} of {n}.",
)
ENDINGS = {
    "+": ("How many {t} does {n} have now?", "How many {t} are there now?", "What is the total number of {t}?"),
    "-": ("How many {t} are left?", "How many {t} does {n} have now?", "How many {t} remain?"),
    "*": ("How many {t} is that?", "How many {t} are there then?", "What is the number of {t}?"),
    "/": ("How many {t} are in each part?", "How many {t} is one share?", "How many {t} does each one hold?"),
}


def operand(rng: random.Random, sign: str, total: int, large: float) -> int | None:
    """Draw a second number so that every result is a whole number from 1 to 99; None where none fits.

    It has one digit, and with probability `large` two where it is added or taken away (10 to 30). The facts with one
    digit are about 1,500: few enough for an LM of this size to learn, too many to be guessed.
    """
    two = rng.random() < large
    if sign == "+":
        top = min(99 - total, 30 if two else 9)
        return rng.randint(10 if two else 2, top) if top >= (10 if two else 2) else None
    if sign == "-":
        top = min(total - 1, 30 if two else 9)
        return rng.randint(10 if two else 1, top) if top >= (10 if two else 1) else None
    if sign == "*":
        return rng.choice([k for k in (2, 3, 4, 5) if total * k <= 60] or [None])
    return rng.choice([k for k in (2, 3, 4, 5) if total % k == 0 and k < total <= 60] or [None])


def apply(total: int, sign: str, k: int) -> int:
    return {"+": total + k, "-": total - k, "*": total * k, "/": total // k}[sign]


def make_problem(rng: random.Random, held: bool, steps: int | None = None, large: float = 0.15) -> Problem:
    """Draw a problem of `steps` steps (1 to 4, mostly few); `held` draws people whom pre-training leaves out.

    `large` is the share of two-digit numbers among those that are added or taken away.
    """
    names = [g for g in w.GIVEN if (g in w.PROBLEM_GIVEN_HELD_OUT) is held]
    count = steps or rng.choice((1, 1, 2, 2, 2, 3, 3, 4))
    name, other = rng.sample(names, 2)
    thing, container = rng.choice(w.THINGS), rng.choice(w.CONTAINERS)
    done: list[tuple[int, str, int, int]] = []
    text: list[str] = []

    def say(template: str, **numbers: int) -> None:
        text.append(template.format(n=name, o=other, t=thing, c=container, **numbers))

    if rng.random() < 0.3:
        x, k = rng.randint(2, 6), rng.randint(2, 10)
        total, sign = x * k, "*"
        done.append((x, "*", k, total))
        say(rng.choice(OPENING_PRODUCTS), x=x, k=k)
    else:
        total, sign = rng.randint(3, 30), "+"
        say(rng.choice(OPENINGS), x=total)
    while len(done) < count:
        sign = rng.choice("++--*/")
        k = operand(rng, sign, total, large)
        if k is None:
            continue
        result = apply(total, sign, k)
        done.append((total, sign, k, result))
        say(rng.choice(EVENTS[sign]), k=k)
        total = result
    say(rng.choice(ENDINGS[sign]))
    return Problem(" ".join(text), total, thing, name, tuple(done))


# Hidden conventions of a document: how the reasoning goes, how the answer is written.
SAID = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
REASONINGS = ("equations", "words", "jump")
ANSWERS = ("bare", "backwards", "unit", "backwards", "sentence", "backwards")


def reasoning(problem: Problem, style: str) -> str:
    """Write the solution: "equations" and "words" go step by step, "jump" skips to the answer."""
    if style == "jump":
        return "The answer follows from the story."
    if style == "equations":
        return ". ".join(f"{a} {s} {b} = {r}" for a, s, b, r in problem.steps) + "."
    parts = [f"{a} {SAID[s]} {b} is {r}" for a, s, b, r in problem.steps]
    return "First, " + ". Then, ".join(parts) + "."


def answer(problem: Problem, style: str) -> str:
    """Write the answer: bare "12", with its unit, as a sentence, or backwards ("12 = 15 - 3")."""
    if style == "bare":
        return str(problem.answer)
    if style == "unit":
        return f"{problem.answer} {problem.unit}"
    if style == "sentence":
        return f"The number of {problem.unit} is {problem.answer}."
    a, s, b, r = problem.steps[-1]
    return f"{r} = {a} {s} {b}"
