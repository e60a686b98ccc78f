"""Causal attention for pre-training on a CPU, where PyTorch's fused kernel is slow in the backward pass.

Blocks of queries see the keys up to their own end only, which spares almost half of the products, and a few heads at a
time, so that their scores stay in the cache. The probabilities are kept for the backward pass. Scores and softmax are
fp32, probabilities and products with them in the dtype of the queries, as in the fused kernel.
`python tests/benchmarks/bench_pretrain.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import AttentionInterface

NAME = "btlib-causal"
QUERIES, SCORES = 128, 2**19  # queries of a block; its scores over all of its heads


class Causal(torch.autograd.Function):
    """Attention of q, k and v (heads, time, size), each position over itself and those before."""

    @staticmethod
    def forward(ctx, q, k, v, scale: float):
        out, kept = torch.empty_like(q), []
        later = torch.full((q.shape[1], q.shape[1]), float("-inf")).triu(1)
        for heads, some, seen in _blocks(*q.shape[:2]):
            keys = k[heads, seen].float().mT
            scores = torch.baddbmm(later[some, seen], q[heads, some].float(), keys, alpha=scale)
            kept.append(scores.softmax(-1).to(q.dtype))
            out[heads, some] = kept[-1] @ v[heads, seen]
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *kept = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (heads, some, seen) in zip(kept, _blocks(*q.shape[:2]), strict=True):
            dv[heads, seen] += p.mT @ grad[heads, some]
            dp = grad[heads, some] @ v[heads, seen].mT
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)  # what autograd calls for a softmax
            dq[heads, some] = ds @ k[heads, seen]
            dk[heads, seen] += ds.mT @ q[heads, some]
        return dq.mul_(ctx.scale), dk.mul_(ctx.scale), dv, None


def _blocks(heads: int, time: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the heads of a block, its queries, and the keys that its last query sees."""
    together = max(1, SCORES // (time * min(time, QUERIES)))
    for first in range(0, heads, together):
        for start in range(0, time, QUERIES):
            end = min(time, start + QUERIES)
            yield slice(first, first + together), slice(start, end), slice(0, end)


def _attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """What transformers calls: query (batch, heads, time, size), key and value maybe with fewer heads, no padding."""
    batch, heads, time, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    q, k, v = (x.to(dtype).repeat_interleave(heads // x.shape[1], 1).flatten(0, 1) for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):  # or the fp32 products would be bf16 again
        out = Causal.apply(q, k, v, scale)
    return out.view(batch, heads, time, size).transpose(1, 2), None


AttentionInterface.register(NAME, _attention)
