"""Attention for many requests in one forward pass of an unchanged Hugging Face model.

The model sees one packed sequence of tokens, (1, tokens). What belongs together is known only here: the `Pass` travels
through the model's forward as an extra keyword, and the registered attention function hands each layer's queries, keys
and values to it. The answer of a request is two attentions merged by their log-sum-exps: over the prefix that the
requests of a group share (the system message and the demonstrations; its keys and values exist once) and over the
request's own tokens.

Same answer in any batch: packed tokens and a group's queries are padded to a multiple of 8 and key lengths to a
multiple of 32, because CPU kernels round differently at other lengths.
"""

from __future__ import annotations

import functools

import torch
from transformers import AttentionInterface

NAME = "btlib"


def pad_to(n: int, multiple: int) -> int:
    """Return n rounded up to a multiple."""
    return -(-n // multiple) * multiple


def plain(q, k, v, *, scale: float, mask=None, causal: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its log-sum-exp: q (b, h, m, d), k and v (b, h, n, d) -> (b, h, m, d) and (b, h, m) in fp32."""
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + mask.float()
    if causal:
        later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    return torch.matmul((scores - lse.unsqueeze(-1)).exp().to(v.dtype), v), lse


@functools.cache
def _flash_cpu():
    """Return PyTorch's fused CPU attention, which also gives the log-sum-exp, or None if this build's differs."""
    try:
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        q, k, v = torch.randn(3, 2, 2, 32, 16, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(1, 1, 1, 32)
        mask[..., 30:] = float("-inf")
        for arguments in ({"mask": mask}, {"causal": True}):
            wanted = plain(q, k, v, scale=0.3, **arguments)
            got = op(q, k, v, 0.0, arguments.get("causal", False), attn_mask=arguments.get("mask"), scale=0.3)
            if not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(wanted, got, strict=True)):
                return None
        return op
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None


def attend(q, k, v, *, scale: float, mask=None, causal: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `plain`, by the fused CPU kernel where there is one."""
    op = _flash_cpu() if q.device.type == "cpu" else None
    if op is None:
        return plain(q, k, v, scale=scale, mask=mask, causal=causal)
    return op(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)


def tail_mask(lengths: list[int], width: int, like: torch.Tensor) -> torch.Tensor:
    """Return (len(lengths), 1, 1, width) of 0 where a key is real and -inf behind its row's length."""
    real = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    mask = torch.zeros(real.shape).masked_fill(~real, float("-inf"))
    return mask[:, None, None].to(like.device, like.dtype)


class Prefix:
    """The keys and values of a prefix, one tensor (1, heads, padded length, size) a layer; filled by its own pass."""

    def __init__(self, ids: list[int], device: torch.device):
        self.length = len(ids)
        padded = pad_to(len(ids), 32)
        self.ids = torch.tensor([ids + ids[-1:] * (padded - len(ids))], device=device)
        self.positions = torch.arange(padded, device=device).unsqueeze(0)
        self.keep = torch.zeros(8, dtype=torch.long, device=device)  # its logits are of no use
        self.k: list[torch.Tensor] = []
        self.v: list[torch.Tensor] = []
        self.mask: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.k + self.v)

    def attend(self, layer: int, q, k, v, scale: float) -> torch.Tensor:
        """Attend within the prefix (all of it in this pass) and keep its keys and values."""
        self.k.append(k.contiguous())
        self.v.append(v.contiguous())
        if layer == 0 and k.shape[2] > self.length:
            self.mask = tail_mask([self.length], k.shape[2], k)
        groups = q.shape[1] // k.shape[1]
        out, _ = attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), scale=scale, causal=True)
        return out.transpose(1, 2)


class Shared:
    """Which packed tokens see which prefix; gathers a group's queries so that its prefix is read once.

    The queries of a key head's group of heads stand together: (key heads, rows, size), where a prefix's rows are
    (heads of the group, its tokens). One gather makes this of all the tokens, and one takes it back.
    """

    def __init__(self, prefixes: list[Prefix | None], total: int, device: torch.device):
        members: dict[int, list[int]] = {}
        found = {id(p): p for p in prefixes if p is not None}
        for token, prefix in enumerate(prefixes):
            if prefix is not None:
                members.setdefault(id(prefix), []).append(token)
        self.groups = []
        for key, tokens in members.items():
            padded = tokens + [tokens[0]] * (pad_to(len(tokens), 8) - len(tokens))
            self.groups.append((found[key], torch.tensor(padded, device=device), len(tokens)))
        bare = [token for token, prefix in enumerate(prefixes) if prefix is None]
        self.bare = torch.tensor(bare, device=device) if bare else None
        self.total, self.device = total, device
        self._made_for, self._there, self._back = (0, 0), torch.empty(0), torch.empty(0)

    def _indices(self, heads: int, kv: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where each row of (key heads, rows) comes from in (tokens, heads), and the way back, both flat."""
        if self._made_for != (heads, kv):
            each = torch.arange(heads // kv, device=self.device)  # the heads that read one key head
            key_heads = torch.arange(kv, device=self.device).unsqueeze(1)
            first, apart = torch.zeros(2, self.total, dtype=torch.long, device=self.device)
            rows, start = [], 0
            for _, tokens, real in self.groups:
                rows.append((tokens * heads + each.unsqueeze(1)).flatten())
                first[tokens[:real]] = torch.arange(start, start + real, device=self.device)
                apart[tokens[:real]] = len(tokens)
                start += len(rows[-1])
            self._there = (torch.cat(rows) + key_heads * len(each)).flatten()
            self._back = (first.view(-1, 1, 1) + key_heads * start + apart.view(-1, 1, 1) * each).flatten()
            self._made_for = heads, kv
        return self._there, self._back

    def attend(self, layer: int, x: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """x (tokens, heads, size) -> (tokens, heads, size) and log-sum-exps (tokens, heads)."""
        heads, size = x.shape[1:]
        kv = self.groups[0][0].k[layer].shape[1]
        there, back = self._indices(heads, kv)
        q = x.reshape(-1, size)[there].view(1, kv, -1, size)
        outs, lses, start = [], [], 0
        for prefix, index, _ in self.groups:
            end = start + len(index) * (heads // kv)
            out, lse = attend(q[:, :, start:end], prefix.k[layer], prefix.v[layer], scale=scale, mask=prefix.mask)
            outs.append(out)
            lses.append(lse)
            start = end
        out = torch.cat(outs, 2).reshape(-1, size)[back].view(-1, heads, size)
        lse = torch.cat(lses, 2).flatten()[back].view(-1, heads)
        if self.bare is not None:
            lse[self.bare] = float("-inf")  # what stands there is another token's
        return out, lse


def merge(shared: Shared, layer: int, x: torch.Tensor, own: torch.Tensor, own_lse: torch.Tensor, scale: float):
    """Join the attention over the own tokens, (tokens, heads, size), with the one over the prefix."""
    if not shared.groups:
        return own
    out, lse = shared.attend(layer, x, scale)
    weight = torch.sigmoid(lse - own_lse).unsqueeze(-1)
    return torch.lerp(own.float(), out.float(), weight).to(x.dtype)


def _attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, btlib_pass=None, **kwargs):
    if btlib_pass is None:
        raise RuntimeError("this model belongs to a btlib engine; load another copy to call it directly")
    for feature in ("sliding_window", "softcap", "s_aux"):
        if kwargs.get(feature) is not None:
            raise ValueError(f"attention with {feature} is not supported by btlib's engine")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return btlib_pass.attend(module.layer_idx, query, key, value, scale), None


AttentionInterface.register(NAME, _attention)
