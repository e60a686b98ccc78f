"""Choose the next token so that the choice depends on the request alone, never on its neighbours in the batch.

Each token uses one number in [0, 1) that is a hash of (the request's seed, the position of the token), and inverts the
cumulative distribution at it. No generator carries state from one token or request to another.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import torch

_HEAD = 32  # most nuclei hold fewer tokens than this; only the rows that hold more pay for a longer list
# Of the wide rows, so many at once. A number's last bit depends on whether a kernel takes it in a full vector; this
# does not depend on its row while rows are multiples of 32 wide and the numbers too few for threads to share them.
_TOGETHER = 32


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
    rows = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    chosen = logits.argmax(dim=-1).tolist() if len(rows) < len(logits) else [0] * len(rows)
    if not rows:
        return chosen
    device = logits.device
    scaled = logits if len(rows) == len(chosen) else logits[rows]
    scaled = scaled / torch.tensor([temperatures[row] for row in rows], device=device).unsqueeze(1)
    settings = [torch.tensor([each[row] for row in rows], device=device) for each in (top_ps, top_ks, uniforms)]
    if odd := -scaled.shape[1] % 32:
        scaled = torch.nn.functional.pad(scaled, (0, odd), value=float("-inf"))
    total = torch.logsumexp(scaled, dim=-1, keepdim=True)
    for row, token in zip(rows, _draw(scaled, total, *settings, width=_HEAD), strict=True):
        chosen[row] = token
    return chosen


def _draw(
    scaled: torch.Tensor,
    total: torch.Tensor,
    top_ps: torch.Tensor,
    top_ks: torch.Tensor,
    uniforms: torch.Tensor,
    width: int,
) -> list[int]:
    """Invert each row's distribution over its `width` most likely tokens; rows whose nucleus is wider take more.

    `total` is each row's log-sum-exp, (rows, 1).
    """
    size = scaled.shape[1]
    width = min(width, size)
    values, tokens = scaled.topk(width, dim=-1)
    cumulative = (values - total).exp().cumsum(dim=-1)
    # The nucleus ends at the first token with which it reaches top_p, or behind top_k of them.
    last = (cumulative < top_ps.unsqueeze(1)).sum(dim=-1).clamp(max=width - 1)
    last = torch.where(top_ks > 0, torch.minimum(last, top_ks - 1), last)
    last = torch.minimum(last, torch.isfinite(values).sum(dim=-1) - 1).clamp(min=0)  # never a padding column
    targets = uniforms.unsqueeze(1) * cumulative.gather(1, last.unsqueeze(1))
    ranks = torch.minimum((cumulative <= targets).sum(dim=-1), last)
    drawn = tokens.gather(1, ranks.unsqueeze(1)).squeeze(1).tolist()
    if width < size:
        wide = (cumulative[:, -1] < top_ps) & ((top_ks == 0) | (top_ks > width))
        for rows in wide.nonzero().squeeze(1).split(_TOGETHER):
            settings = [each[rows] for each in (scaled, total, top_ps, top_ks, uniforms)]
            for row, token in zip(rows.tolist(), _draw(*settings, width=16 * width), strict=True):
                drawn[row] = token
    return drawn
