"""Exact match, as DSPy has it, for every gold answer that there can be."""

from __future__ import annotations

import unicodedata

import dspy
from dspy.evaluate import answer_exact_match
from dspy.evaluate.metrics import normalize_text


def exact_match(example: dspy.Example, pred: dspy.Prediction) -> bool:
    """Tell whether the answer is the gold one (or one of a list of them), after DSPy's normalization: case,
    punctuation, articles, spaces. A missing or empty answer is wrong.

    Of some gold answers ("A", "The The", "?") nothing is left by that, and then "...", "the" and "-" would match:
    these are compared by their letters, whatever the case and spaces.
    """
    answer = str(getattr(pred, "answer", None) or "")
    if not answer.strip():
        return False
    golds = example.answer if isinstance(example.answer, list) else [example.answer]
    plain = [gold for gold in golds if normalize_text(gold)]
    bare = [gold for gold in golds if not normalize_text(gold)]
    found = plain and answer_exact_match(dspy.Example(answer=plain), dspy.Prediction(answer=answer))
    return bool(found) or _letters(answer) in map(_letters, bare)


def _letters(text: str) -> str:
    return " ".join(unicodedata.normalize("NFD", text).casefold().split())
