"""Teach copying first: lists of words that come twice, of growing length and distance.

Everything that the embedded LM is for needs a token to be found again and what followed it to be copied (an induction
head). On documents alone that came late; these lists started it (data/pocket-lm/README.md). Their lengths vary, because
a list of one length can be repeated by attending a fixed number of tokens back, which is of no use.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from btlib.pocket import words as w
from btlib.pocket.batches import autocast

ROWS, LONGEST = 64, 24


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


def row(rng: random.Random, words: WordList, length: int, gap: int) -> tuple[list[int], int]:
    """Draw a list, other words, and the list again from some place on; returns ids and where the copy starts."""

    def token() -> int:
        if rng.random() < 0.8:
            return rng.choice(words.spaced)
        return rng.choice(words.digits) if rng.random() < 0.5 else rng.randrange(10, words.size)

    first = [token() for _ in range(length)]
    between = [rng.choice(words.spaced) for _ in range(gap)] + [rng.choice(words.separators)]
    again = first[rng.randrange(0, max(1, length - 4)) :]
    if rng.random() < 0.5:  # as at the start of a line
        again = [words.bare.get(again[0], again[0]), *again[1:]]
    return first + between + again, length + len(between)


def drill(
    model, optims: list, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, share=list, rank=0, ranks=1
) -> list:
    """Train on lists, longer and further apart as copying succeeds; returns the accuracy of each step (0 to 1).

    Stops after `steps` steps, or as soon as the longest lists are copied. `share(numbers)` averages the gradients over
    the processes, each of which draws its own lists, and returns the numbers' means.
    """
    rng, words = random.Random(f"drill:{seed}:{rank}"), word_list(tokenizer)
    longest, gap, recent, seen = 8, 0, 0.0, []
    while len(seen) < steps and not (longest >= LONGEST and recent > 0.85):
        rows = [row(rng, words, rng.randint(4, longest), rng.randint(0, gap)) for _ in range(ROWS // ranks)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([r + [0] * (width - len(r)) for r, _ in rows])
        keep = torch.tensor([[start < j < len(r) for j in range(1, width)] for r, start in rows])
        ids, keep = ids.to(model.device), keep.to(model.device)
        with autocast(model.device.type):
            logits = model.lm_head(model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][keep])
        targets = ids[:, 1:][keep]
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()
        seen += share([(logits.argmax(-1) == targets).float().mean().item()])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        recent = 0.9 * recent + 0.1 * seen[-1]
        if recent > 0.75 and longest < LONGEST:
            longest, gap, recent = longest + 2, min(gap + 2, 16), 0.9 * recent
    return seen
