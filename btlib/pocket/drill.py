"""Drill three skills in dense lists, before all else: copying, then classification, then sums.

Everything that the embedded LM is for needs a token to be found again and what followed it to be copied (an induction
head). On documents alone that came late; lists of words that come twice started it (data/pocket-lm/README.md). Their
lengths vary, because a list of one length can be repeated by attending a fixed number of tokens back, which is of no
use. Classification builds on it: a digit like this one was followed by which label? A document has at most seven labels
to learn from; a list of digits and labels teaches a label every dozen tokens. Sums are what word problems waited for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from btlib.pocket import classes, corpus
from btlib.pocket import problems as p
from btlib.pocket import words as w
from btlib.pocket.batches import MAX_TOKENS, autocast

ROWS = {"copying": 64, "classes": 64, "sums": 64}  # a step, over all processes
TOP = {"copying": 8, "classes": 5, "sums": 3}  # levels of difficulty, from 0


@dataclass(frozen=True)
class WordList:
    """Token ids of words without and with their leading space, and of what may stand between a list and its copy."""

    bare: dict[int, int]  # id with space -> id without
    spaced: tuple[int, ...]
    digits: tuple[int, ...]
    separators: tuple[int, ...]
    size: int


def word_list(tokenizer: PreTrainedTokenizerFast) -> WordList:
    """Collect the tokens that the drill draws from."""

    def one(text: str) -> int:
        return tokenizer.encode(text)[0]

    words = (*w.GIVEN, *w.SURNAMES, *w.STEMS, *w.SUFFIXES, *w.NOUNS, *w.ADJECTIVES, *w.THINGS, *w.JOBS, *w.PRODUCTS)
    bare = {one(" " + word): one(word) for word in words}
    separators = tuple(one(s) for s in ("\n", " is", " |", ".", " and", " by"))
    return WordList(bare, tuple(bare), tuple(one(d) for d in "0123456789"), separators, len(tokenizer))


def copy_row(rng: random.Random, words: WordList, level: int) -> tuple[list[int], list[bool]]:
    """Draw a list, other words, and the list again from some place on; returns ids, and which are to be learned."""

    def token() -> int:
        if rng.random() < 0.8:
            return rng.choice(words.spaced)
        return rng.choice(words.digits) if rng.random() < 0.5 else rng.randrange(10, words.size)

    first = [token() for _ in range(rng.randint(4, 8 + 2 * level))]
    between = [rng.choice(words.spaced) for _ in range(rng.randint(0, 2 * level))] + [rng.choice(words.separators)]
    again = first[rng.randrange(0, max(1, len(first) - 4)) :]
    if rng.random() < 0.5:  # as at the start of a line
        again = [words.bare.get(again[0], again[0]), *again[1:]]
    learned = [False] * (len(first) + len(between) + 1) + [True] * (len(again) - 1)
    return first + between + again, learned


SPREADS = ((0.0, 0.0), (0.0, 0.04), (0.02, 0.08), (0.03, 0.12), (0.04, 0.16), (0.05, 0.2))  # by level


def class_row(rng: random.Random, tokenizer: PreTrainedTokenizerFast, level: int) -> tuple[list[int], list[bool]]:
    """Draw a list of leading digits and the labels after them; a label that the list has had before is to be learned.

    In an LM's own sentence the label follows the digit, so that what copies a name after a name can find it. Rows grow
    from bare pairs of exact digits to classes that overlap, in sentences, after the features as a prompt lists them.
    """
    if rng.random() < 0.3:  # what was easy stays known
        level = rng.randint(0, level)
    labels = w.label_words(rng, 2 if level < 2 else rng.choice((2, 3, 3, 4)))
    features = classes.feature_names(rng, 1 if level < 5 else rng.randint(1, 3))
    key, sentence = rng.choice(features), level > 2 or (level == 2 and rng.random() < 0.5)
    spreads = SPREADS[min(level, len(SPREADS) - 1)]
    shapes = {f: classes.shape(rng, len(labels), f == key, spreads, whole=False) for f in features}
    ids, learned, seen = [], [], set()
    for _ in range(rng.randint(6, 10 if sentence else 16)):
        index = rng.randrange(len(labels))
        values = {f: classes.value(rng, shapes[f], index) for f in features}
        text = "".join(f"[[ ## {f} ## ]]\n{v}\n\n" for f, v in values.items()) if level > 4 else ""
        before, after = (f"For a {key} of at least ", " fits best.\n\n") if sentence else ("", "\n\n")
        start = tokenizer.encode(text + before + values[key][0])
        label = tokenizer.encode(" " + labels[index])
        end = tokenizer.encode(after)
        ids += [*start, *label, *end]
        learned += [False] * len(start) + [index in seen] + [False] * (len(label) - 1 + len(end))
        seen.add(index)
    return ids, learned


def sum_row(rng: random.Random, tokenizer: PreTrainedTokenizerFast, level: int) -> tuple[list[int], list[bool]]:
    """Draw chains of sums as solutions write them; the results are to be learned. Larger numbers with each level."""
    ids, learned, done = [], [], 0
    while done < 8:
        total, length, words = rng.randint(2, 60), rng.randint(1, 4), rng.random() < 0.4
        for i in range(length):
            sign = rng.choice("++--*/")
            k = p.operand(rng, sign, total, 0.25 * level)
            if k is None:
                continue
            result = p.apply(total, sign, k)
            if words:
                start = "First, " if i == 0 else " Then, "
                before, after = f"{start}{total} {p.SAID[sign]} {k} is ", "."
            else:
                before, after = f"{' ' * (i > 0)}{total} {sign} {k} = ", "."
            for text, flag in ((before, False), (str(result), True), (after, False)):
                piece = tokenizer.encode(text)
                ids += piece
                learned += [flag] * len(piece)
            total, done = result, done + 1
        ids += tokenizer.encode("\n\n")
        learned += [False] * (len(ids) - len(learned))
    return ids, learned


def guess_row(
    rng: random.Random, tokenizer: PreTrainedTokenizerFast, leaning: float = classes.LEANING
) -> tuple[list[int], list[bool]]:
    """Draw a document without demonstrations up to the label that it guesses, which alone is to be learned.

    A document has one such label among dozens of tokens that are easier; on documents alone the habit did not come.
    With a low `leaning` it becomes less sure, and stays: an LM that is sure of its guesses learns nothing from those
    that happen to be right.
    """
    while True:
        messages = corpus.to_document(drawn := classes.classify(rng, 1, leaning), 0).messages
        said, mark = messages[-1]["content"], f" {drawn.examples[0][drawn.output]} fits best."
        if mark in said:
            prompt = tokenizer.apply_chat_template(list(messages[:-1]), tokenize=False, add_generation_prompt=True)
            ids = tokenizer.encode(prompt + said[: said.index(mark)])
            return [*ids, tokenizer.encode(mark)[0]], [False] * len(ids) + [True]


def read_row(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[bool]]:
    """Draw a classification with demonstrations, of which the labels that came before are to be learned, and no more.

    They are what in-context learning is about, and a few among hundreds of tokens. Without such rows the rows of
    guessing won: a label that an earlier demonstration shows for the very digit was copied in two cases of three.
    """
    while True:
        document = corpus.to_document(*corpus.draw(rng, "classes", rng.choice((2, 3, 4, 6))))
        ids: list[int] = []
        learned: list[bool] = []
        shown: set[str] = set()
        for message in document.messages:
            said, label = message["content"], ""
            if message["role"] == "assistant" and (found := re.search(r" (\S+) fits best\.", said)):
                label, said = found.group(1), said[: found.start()]
            start = tokenizer.encode(f"<|{message['role']}|>{said}")
            end = tokenizer.encode(message["content"][len(said) :] + "<|end|>")
            ids += start + end
            learned += [False] * len(start) + [label in shown] + [False] * (len(end) - 1)
            shown |= {label} - {""}
        if any(learned) and len(ids) <= MAX_TOKENS:
            return ids, learned


def lesson(model, drawn: list[tuple[list[int], list[bool]]]) -> tuple[torch.Tensor, float]:
    """Return the mean cross-entropy over the tokens to be learned, and the share (0 to 1) that is guessed right."""
    width = max(len(ids) for ids, _ in drawn)
    ids = torch.tensor([r + [0] * (width - len(r)) for r, _ in drawn])
    keep = torch.tensor([learned[1:] + [False] * (width - len(learned)) for _, learned in drawn])
    ids, keep = ids.to(model.device), keep.to(model.device)
    with autocast(model.device.type):
        logits = model.lm_head(model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][keep])
    targets = ids[:, 1:][keep]
    right = (logits.argmax(-1) == targets).float().mean().item()
    return torch.nn.functional.cross_entropy(logits.float(), targets), right


def drill(
    model,
    optims: list,
    draw: Callable[[random.Random, int], tuple[list[int], list[bool]]],
    seed: str,
    steps: int,
    rows: int = 16,
    share: Callable[[list[float]], list[float]] = list,
    top: int = 8,
    goal: float = 0.85,
) -> list[float]:
    """Train on rows that `draw(rng, level)` makes, harder as they succeed; returns the accuracy of each step (0 to 1).

    Stops after `steps` steps, or as soon as `goal` is reached at the top level. `share(numbers)` averages the gradients
    over the processes, each of which draws rows of its own, and returns the numbers' means.
    """
    rng, level, recent, seen = random.Random(seed), 0, 0.0, []
    while len(seen) < steps and not (level == top and recent > goal):
        mean, right = lesson(model, [draw(rng, level) for _ in range(rows)])
        mean.backward()
        seen += share([right])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        recent = 0.9 * recent + 0.1 * seen[-1]
        if recent > 0.75 and level < top:
            level, recent = level + 1, 0.9 * recent
    return seen
