"""Choose the next token so that the choice depends on the request alone, never on its neighbours in the batch.

Each token uses one number in [0, 1) that is a hash of (the request's seed, the position of the token), and inverts the
cumulative distribution at it. No generator carries state from one token or request to another.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import torch

_HEAD = 32  # most nuclei hold fewer tokens than this; only the rows that hold more pay for a full sort


def request_seed(seed: int | None, prompt_ids: Sequence[int]) -> int:
    """Return a 64-bit seed made of the prompt and, where there is one, the request's own seed.

    The prompt is part of it so that two examples of one run do not see the same random numbers.
    """
    text = f"{'' if seed is None else seed}|{','.join(map(str, prompt_ids))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) that belongs to the token at `position` (0 is the first new token)."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2.0**53


def pick(
    logits: torch.Tensor,
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    top_ks: Sequence[int],
    uniforms: Sequence[float],
) -> list[int]:
    """Return one token id for each row of `logits` (rows, vocabulary), in fp32.

    Temperature 0 takes the largest logit. Otherwise the nucleus is the smallest set of most likely tokens that together
    reach `top_p` (and at most `top_k` of them; 0 means no such limit), and the row's uniform number picks one of it.
    """
    chosen = logits.argmax(dim=-1).tolist()
    rows = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if not rows:
        return chosen
    scale = torch.tensor([temperatures[row] for row in rows], device=logits.device).unsqueeze(1)
    scaled = (logits if len(rows) == len(chosen) else logits[rows]) / scale
    total = torch.logsumexp(scaled, dim=-1, keepdim=True)
    values, tokens = scaled.topk(min(_HEAD, scaled.shape[1]), dim=-1)
    head = (values - total).exp().cumsum(dim=-1).cpu()
    tokens = tokens.cpu()
    for i, row in enumerate(rows):
        cumulative, candidates = head[i], tokens[i]
        wide = float(cumulative[-1]) < top_ps[row] and not 0 < top_ks[row] <= _HEAD
        if wide and len(cumulative) < scaled.shape[1]:
            ordered, candidates = scaled[i].sort(descending=True, stable=True)
            cumulative, candidates = (ordered - total[i]).exp().cumsum(dim=-1).cpu(), candidates.cpu()
        chosen[row] = int(candidates[_invert(cumulative, top_ps[row], top_ks[row], uniforms[row])])
    return chosen


def _invert(cumulative: torch.Tensor, top_p: float, top_k: int, number: float) -> int:
    """Return the rank that `number` falls on within the nucleus of an ordered cumulative distribution."""
    last = int(torch.searchsorted(cumulative, min(top_p, float(cumulative[-1]))))
    last = min(last, len(cumulative) - 1, top_k - 1 if top_k > 0 else len(cumulative))
    rank = int(torch.searchsorted(cumulative, number * float(cumulative[last]), right=True))
    return min(rank, last)
