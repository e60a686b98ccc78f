"""Training rows packed into one sequence, without padding, where what rows have in common is computed once
(notebooks/04_bft_lora).

The rows of a module start with the same tokens: its system message. Since a token sees only what stands before it, its
hidden states are the same in all of them, and so are the keys and values that the rest of each row reads. A pack holds
such a beginning once, and behind it what each row has of its own:

    shared beginning | rest of row 1 | rest of row 2 | ... | next group's beginning | ...

Positions count on from the beginning in every row. No row sees another one's own tokens, so losses and gradients are
those of the rows one by one (tests/unit/test_lm_rows.py). The vocabulary is looked up for targets only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from btlib.errors import BtlibError
from btlib.lm.chat import Row

NAME = "btlib-rows"
_SHORTEST = 16  # tokens; to share fewer than these costs more copying than it saves


def share(rows: Sequence[Row], shortest: int = _SHORTEST) -> list[tuple[list[Row], int]]:
    """Part rows into groups with a beginning in common, so that the fewest tokens are left to compute.

    Returns the rows of each group and the length of their beginning: 0 for a row by itself. A beginning ends before
    the token that predicts a row's first target.
    """
    rows = sorted(rows, key=lambda row: row.ids)
    room = [max(row.target.index(True) - 1, 0) for row in rows]
    common = [len(os.path.commonprefix([a.ids, b.ids])) for a, b in pairwise(rows)]
    # best[n]: tokens saved by the best groups of the first n rows, their last group's start, and its beginning.
    best = [(0, 0, 0)]
    for end in range(1, len(rows) + 1):
        found, length = (best[end - 1][0], end - 1, 0), room[end - 1]
        for start in range(end - 2, -1, -1):
            length = min(length, room[start], common[start])
            if length < shortest:
                break
            found = max(found, (best[start][0] + length * (end - start - 1), start, length))
        best.append(found)
    groups, end = [], len(rows)
    while end:
        _, start, length = best[end]
        groups.append((rows[start:end], length))
        end = start
    return groups[::-1]


class Group:
    """Where a group's tokens lie in the pack, and its attention."""

    def __init__(self, start: int, beginning: int, lengths: list[int], device: torch.device):
        self.beginning = slice(start, start + beginning)
        self.own = slice(start + beginning, start + beginning + sum(lengths))
        self.rows, self.width = len(lengths), max(lengths)
        self.mask = torch.ones(self.width, beginning + self.width, dtype=torch.bool, device=device).tril(beginning)
        self.spread = self.back = None
        if min(lengths) < self.width:
            spread, back, at = [], [], 0
            for row, length in enumerate(lengths):
                spread += [at + min(i, length - 1) for i in range(self.width)]
                back += range(row * self.width, row * self.width + length)
                at += length
            self.spread, self.back = torch.tensor(spread, device=device), torch.tensor(back, device=device)

    def attend(self, q, k, v, scale: float) -> list[torch.Tensor]:
        """q, k and v (heads, tokens of the pack, size) -> (heads, tokens, size) of the beginning and of the rows."""
        if self.rows == 1:
            return [_attend(*(x[None, :, self.own] for x in (q, k, v)), scale, causal=True)[0]]
        parts = [x[None, :, self.beginning] for x in (q, k, v)]
        first = _attend(*parts, scale, causal=True)[0]
        q, k, v = (self._by_row(x[:, self.own]) for x in (q, k, v))
        k, v = (
            torch.cat([part.expand(self.rows, -1, -1, -1), x], 2) for part, x in zip(parts[1:], (k, v), strict=True)
        )
        out = _attend(q, k, v, scale, mask=self.mask).transpose(0, 1).flatten(1, 2)
        return [first, out if self.back is None else out.index_select(1, self.back)]

    def _by_row(self, x: torch.Tensor) -> torch.Tensor:
        """(heads, own tokens, size) -> (rows, heads, longest row, size); a shorter row repeats its last token."""
        x = x if self.spread is None else x.index_select(1, self.spread)
        return x.unflatten(1, (self.rows, self.width)).transpose(0, 1)


def _attend(q, k, v, scale: float, *, mask: torch.Tensor | None = None, causal: bool = False) -> torch.Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


class Pack:
    """Rows as one sequence: `ids` and `positions` (1, tokens), `keep` the positions that predict a target, `labels`
    those targets. `shared=False` computes every row's beginning by itself, as dropout asks for.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device | str = "cpu", shared: bool = True):
        ids: list[int] = []
        positions: list[int] = []
        keep: list[int] = []
        labels: list[int] = []
        self.groups = []
        self.longest = max(_inputs(row) for row in rows)
        for members, beginning in share(rows) if shared else [([row], 0) for row in rows]:
            start = len(ids)
            ids += members[0].ids[:beginning]
            positions += range(beginning)
            for row in members:
                offset, end = len(ids) - beginning, _inputs(row)
                predicting = [t for t in range(beginning, end) if row.target[t + 1]]
                keep += [offset + t for t in predicting]
                labels += [row.ids[t + 1] for t in predicting]
                ids += row.ids[beginning:end]
                positions += range(beginning, end)
            self.groups.append(Group(start, beginning, [_inputs(row) - beginning for row in members], device))
        self.ids, self.positions = torch.tensor([ids], device=device), torch.tensor([positions], device=device)
        self.keep, self.labels = torch.tensor(keep, device=device), torch.tensor(labels, device=device)

    def __len__(self) -> int:
        """Tokens that go through the model."""
        return self.ids.shape[1]

    def loss(self, model) -> torch.Tensor:
        """Return the sum of the targets' losses, from a model whose attention is `NAME`."""
        out = model(
            input_ids=self.ids, position_ids=self.positions, logits_to_keep=self.keep, use_cache=False, btlib_pack=self
        )
        return F.cross_entropy(out.logits[0].float(), self.labels, reduction="sum")


def _inputs(row: Row) -> int:
    """Return how many tokens of a row are fed: those before its last target."""
    return len(row.ids) - 1 - row.target[::-1].index(True)


def _attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, btlib_pack=None, **kwargs):
    if (kwargs.get("sliding_window") or btlib_pack.longest) < btlib_pack.longest:
        raise BtlibError(f"rows of {btlib_pack.longest} tokens are longer than the LM's sliding window; shorten them")
    for feature in ("softcap", "s_aux"):
        if kwargs.get(feature) is not None:
            raise BtlibError(f"attention with {feature} is not supported by train_lora; choose another LM")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = query[0], key[0], value[0]
    parts = [part for group in btlib_pack.groups for part in group.attend(q, k, v, scale)]
    return torch.cat(parts, 1).transpose(0, 1)[None], None


AttentionInterface.register(NAME, _attention)
