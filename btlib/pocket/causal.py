"""Causal attention for training on a CPU, where PyTorch's fused kernel is slow in the backward pass.

Blocks of queries see the keys up to their own end only, which spares up to half of the products, and a few heads at a
time, so that their scores stay in the cache. The probabilities are kept for the backward pass. Scores and softmax are
fp32, probabilities and products with them in the dtype of the queries, as in the fused kernel.
`python tests/benchmarks/bench_pretrain.py` compares the two. `btlib pretrain` trains with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "btlib-causal"
QUERIES, SCORES = 128, 2**19  # queries of a block; its scores over all of its heads


def causal_attention(q, k, v, scale: float) -> torch.Tensor:
    """q (batch, heads, n, size), k and v (batch, maybe fewer heads, n, size) -> (batch, heads, n, size).

    Each query sees itself and all before it. On a GPU PyTorch's own kernels.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else v.dtype
    q, k, v = (x.to(dtype) for x in (q, k, v))
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    with torch.autocast("cpu", enabled=False):  # or the fp32 products would be bf16 again
        return _Causal.apply(*(x.flatten(0, 1) for x in (q, k, v)), scale).view_as(q)


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, scale: float):
        out, kept, (count, n, _) = torch.empty_like(q), [], q.shape
        later = torch.full((n, n), float("-inf")).triu(1)
        for heads, some, seen in _blocks(count, n):
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


def _blocks(heads: int, n: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the heads of a block, its queries, and the keys that its last query sees."""
    together = max(1, SCORES // (n * min(n, QUERIES)))
    for first in range(0, heads, together):
        for start in range(0, n, QUERIES):
            end = min(n, start + QUERIES)
            yield slice(first, first + together), slice(start, end), slice(0, end)


def _attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """What transformers calls for the attention called `NAME`: no padding on the left, no sliding window."""
    out = causal_attention(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, _attention)
