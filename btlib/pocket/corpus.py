"""Pre-training documents: a task of some family, formatted by DSPy's own ChatAdapter, with 0 to 6 demonstrations.

DSPy formats every message, so the documents follow it when it changes. Demonstrations that come straight from a
training set ("Not supplied for this particular example.") stand first, as DSPy orders them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import dspy
from dspy.adapters import ChatAdapter

from btlib.pocket import classes, families, skills
from btlib.pocket.families import Drawn

FAMILIES = {
    "query": (families.query, 0.16),
    "answer": (families.answer, 0.16),
    "problem": (families.problem, 0.28),
    "classes": (classes.classify, 0.28),
    "lookup": (skills.lookup, 0.05),
    "rule": (skills.rule, 0.05),
    "arithmetic": (skills.arithmetic, 0.10),
    "echo": (skills.echo, 0.04),
}
# Copying comes late and all at once, and most else waits for it: the first documents drill it.
EARLY, EARLY_WEIGHTS = 16_000, {"echo": 0.15, "lookup": 0.12, "rule": 0.12}
DEMOS = (0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 5, 6, 6, 6)
BLIND = {"classes": 0.45}  # a further share without demonstrations, where guessing is a lesson of its own
ADAPTER = ChatAdapter(use_json_adapter_fallback=False)


@dataclass(frozen=True)
class Document:
    """One pre-training document: chat messages, the last one the target turn, and where it comes from."""

    family: str
    demos: int
    messages: tuple[dict[str, str], ...]
    target: str  # the value of the target's output field
    output: str
    readable: bool  # whether a perfect reader is right, who knows the habits but not this document's conventions


@lru_cache(maxsize=4096)
def signature(
    inputs: tuple[str, ...], output: str, instruction: str, description: str, reasons: bool
) -> type[dspy.Signature]:
    """Build a DSPy signature as a program would; with `reasons`, as dspy.ChainOfThought extends it."""
    fields = {name: (str, dspy.InputField()) for name in inputs}
    fields[output] = (str, dspy.OutputField(desc=description) if description else dspy.OutputField())
    made = dspy.Signature(fields, instruction) if instruction else dspy.Signature(f"{', '.join(inputs)} -> {output}")
    if instruction == "" and description:
        made = dspy.Signature(fields)
    return dspy.ChainOfThought(made).predict.signature if reasons else made


def draw(rng: random.Random, family: str, demos: int) -> tuple[Drawn, int]:
    """Draw a task with `demos` demonstrations, and say how many of them are labelled only (no reasoning)."""
    drawn = FAMILIES[family][0](rng, demos + 1)
    labelled = 0
    if demos and drawn.labelled_fields and drawn.reasons:
        labelled = rng.choice((0, 0, demos, rng.randint(0, demos), demos // 2))
    return drawn, max(labelled, demos - drawn.max_full) if drawn.labelled_fields else 0


def to_document(drawn: Drawn, labelled: int) -> Document:
    """Format a drawn task: labelled demonstrations first, then full ones, then the target's question and answer."""
    made = signature(drawn.inputs, drawn.output, drawn.instruction, drawn.description, drawn.reasons)
    full = drawn.examples[:-1]
    if not drawn.labelled_fields:
        full = full[: drawn.max_full]
    demos = [
        {k: v for k, v in e.items() if k in drawn.labelled_fields} if i < labelled else dict(e, augmented=True)
        for i, e in enumerate(full)
    ]
    target = drawn.examples[-1]
    messages = ADAPTER.format(made, demos, {k: target[k] for k in drawn.inputs})
    outputs = {k: target[k] for k in made.output_fields}
    messages.append({"role": "assistant", "content": ADAPTER.format_assistant_message_content(made, outputs)})
    said = str(target[drawn.output])
    readable = ((drawn.best_reading if demos else drawn.best_guess) or said) == said
    return Document(drawn.family, len(demos), tuple(messages), said, drawn.output, readable)


def documents(seed: int, start: int = 0, family: str | None = None, demos: int | None = None) -> Iterator[Document]:
    """Yield documents without end; document i depends on (seed, i) alone, so that a run can be resumed at any i."""
    names, weights = list(FAMILIES), [weight for _, weight in FAMILIES.values()]
    index = start
    while True:
        rng = random.Random(f"{seed}:{index}:{family}:{demos}")
        other = EARLY_WEIGHTS if index < EARLY else {}
        name = family or rng.choices(names, [other.get(n, w) for n, w in zip(names, weights, strict=True)])[0]
        count = 0 if rng.random() < BLIND.get(name, 0) else rng.choice(DEMOS)
        count = count if demos is None else demos
        yield to_document(*draw(rng, name, count))
        index += 1
