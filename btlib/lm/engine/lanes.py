"""The requests that are being generated: their rows of keys and values, and the two kinds of passes that fill them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from btlib.lm.engine.attention import Prefix, Shared, attend, merge, pad_to, tail_mask


@dataclass(eq=False)
class Job:
    """One request. `prefix_length` of its `ids` are shared with others; `limit` is the number of new tokens at most."""

    model_id: str
    ids: list[int]
    prefix_length: int
    limit: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    future: Future = field(default_factory=Future)
    prefix: Prefix | None = None
    new: list[int] = field(default_factory=list)
    waiters: int = 1  # callers that still want the answer
    abandoned: bool = False
    alone: bool = False  # once a batch with it failed

    @property
    def key(self) -> tuple:
        """What decides the answer: two jobs with the same key have the same one."""
        settings = (self.limit, self.temperature, self.top_p, self.top_k, self.seed, self.stop)
        return self.model_id, tuple(self.ids), settings

    @property
    def own_ids(self) -> list[int]:
        """The prompt behind the shared prefix."""
        return self.ids[self.prefix_length :]

    @property
    def own_length(self) -> int:
        """Own tokens whose keys and values are stored once the newest token has been fed: the next write goes there."""
        return len(self.ids) - self.prefix_length + len(self.new) - 1

    @property
    def width(self) -> int:
        """Own tokens that a row of this request holds at most, in steps of 32."""
        return pad_to(len(self.ids) - self.prefix_length + self.limit, 32)


def rows_for(jobs: int) -> int:
    """Return how many rows a lane has for a number of jobs: a power of two, at least 8."""
    return max(8, 1 << (jobs - 1).bit_length())


def kept_tokens(jobs: list[Job]) -> int:
    """Return for how many tokens the lanes of these jobs have room at most, whatever is answered."""
    widths: dict[str, list[int]] = {}
    for job in jobs:
        widths.setdefault(job.model_id, []).append(job.width)
    return sum(rows_for(len(each)) * max(each) for each in widths.values())


class Lane:
    """The rows of one model id. Row i of each layer's (rows, heads, width, size) tensors belongs to `jobs[i]`.

    The tensors are exactly as wide as the longest row needs (in steps of 32), since a batched product over a slice of
    a wider tensor took four times as long. They are made by the first pass that writes them.
    """

    def __init__(self, layers: int):
        self.jobs: list[Job] = []
        self.width = 0
        self.k: list[torch.Tensor | None] = [None] * layers
        self.v: list[torch.Tensor | None] = [None] * layers

    def fit(self, rows: int, width: int) -> None:
        """Make room for `rows` rows of `width` tokens; give room back when 64 tokens or more are unused."""
        width = pad_to(width, 32)
        if self.width - 64 < width <= self.width and (self.k[0] is None or rows <= self.k[0].shape[0]):
            return
        self.width, kept = width, len(self.jobs)
        for tensors in (self.k, self.v):
            for layer, old in enumerate(tensors):
                if old is not None:
                    new = old.new_zeros(rows_for(rows), old.shape[1], width, old.shape[3])
                    shared = min(width, old.shape[2])
                    new[:kept, :, :shared] = old[:kept, :, :shared]
                    tensors[layer] = new

    def store(self, layer: int, rows: slice, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write the first tokens of new rows: k and v (rows, heads, tokens, size)."""
        for tensors, new in ((self.k, k), (self.v, v)):
            if tensors[layer] is None:
                tensors[layer] = new.new_zeros(rows_for(rows.stop), new.shape[1], self.width, new.shape[3])
            tensors[layer][rows, :, : new.shape[2]] = new

    def remove(self, row: int) -> None:
        """Drop a finished row; the last row takes its place, so that the rows in use stay together."""
        last = len(self.jobs) - 1
        if row < last:
            for tensors in (self.k, self.v):
                for tensor in tensors:
                    tensor[row] = tensor[last]
        self.jobs[row] = self.jobs[last]
        self.jobs.pop()


def in_passes(jobs: list[Job], tokens: int) -> list[list[Job]]:
    """Split new jobs into passes of one model id and, padded, at most so many own prompt tokens."""
    passes: dict[str, list[list[Job]]] = {}
    for job in jobs:
        chunks = passes.setdefault(job.model_id, [[]])
        longest = max(len(other.own_ids) for other in [*chunks[-1], job])
        if chunks[-1] and longest * (len(chunks[-1]) + 1) > tokens:
            chunks.append([])
        chunks[-1].append(job)
    return [chunk for chunks in passes.values() for chunk in chunks]


class PromptPass:
    """Feed the own prompt tokens of new rows, packed behind one another."""

    def __init__(self, lane: Lane, jobs: list[Job], device: torch.device):
        lengths = [len(job.own_ids) for job in jobs]
        self.lane, self.rows = lane, slice(len(lane.jobs), len(lane.jobs) + len(jobs))
        self.longest = pad_to(max(lengths), 32)
        total = pad_to(sum(lengths), 8)
        ids, positions, spread, back, ends = [], [], [], [], []
        for row, (job, length) in enumerate(zip(jobs, lengths, strict=True)):
            spread += [len(ids) + min(i, length - 1) for i in range(self.longest)]
            back += [row * self.longest + i for i in range(length)]
            ids += job.own_ids
            positions += range(job.prefix_length, len(job.ids))
            ends.append(len(ids) - 1)
        pad = [0] * (total - len(ids))
        self.ids, self.positions = (
            torch.tensor([ids + pad], device=device),
            torch.tensor([positions + pad], device=device),
        )
        self.spread, self.back = torch.tensor(spread, device=device), torch.tensor(back + pad, device=device)
        self.keep = torch.tensor(ends + [ends[0]] * (pad_to(len(ends), 8) - len(ends)), device=device)
        owners = [job.prefix for job, length in zip(jobs, lengths, strict=True) for _ in range(length)]
        self.shared = Shared(owners, total, device)
        lane.fit(self.rows.stop, max([self.longest, lane.width] if lane.jobs else [self.longest]))

    def attend(self, layer: int, q, k, v, scale: float) -> torch.Tensor:
        rows = self.rows.stop - self.rows.start
        x = q[0].transpose(0, 1)
        own_q, own_k, own_v = (
            t[0].transpose(0, 1)[self.spread].view(rows, self.longest, t.shape[1], t.shape[3]).transpose(1, 2)
            for t in (q, k, v)
        )
        self.lane.store(layer, self.rows, own_k, own_v)
        groups = q.shape[1] // k.shape[1]
        own_k, own_v = own_k.repeat_interleave(groups, 1), own_v.repeat_interleave(groups, 1)
        out, lse = attend(own_q.contiguous(), own_k, own_v, scale=scale, causal=True)
        out = out.transpose(1, 2).reshape(rows * self.longest, *x.shape[1:])[self.back]
        lse = lse.transpose(1, 2).reshape(rows * self.longest, -1)[self.back]
        return merge(self.shared, layer, x, out, lse, scale).unsqueeze(0)


class DecodePass:
    """Feed the newest token of every row of a lane."""

    def __init__(self, lane: Lane, device: torch.device):
        jobs = lane.jobs
        self.n, self.lane, total = len(jobs), lane, pad_to(len(jobs), 8)
        lengths = [job.own_length for job in jobs]
        lane.fit(self.n, max(lengths) + 1)
        pad = [0] * (total - self.n)
        self.ids = torch.tensor([[job.new[-1] for job in jobs] + pad], device=device)
        positions = [job.prefix_length + length for job, length in zip(jobs, lengths, strict=True)]
        self.positions = torch.tensor([positions + pad], device=device)
        self.keep = torch.arange(total, device=device)
        self.at = torch.arange(self.n, device=device), torch.tensor(lengths, device=device)
        self.mask = tail_mask([length + 1 for length in lengths], lane.width, torch.empty(0, device=device))
        self.shared = Shared([job.prefix for job in jobs], total, device)

    def attend(self, layer: int, q, k, v, scale: float) -> torch.Tensor:
        n, (heads, size) = self.n, q.shape[1::2]
        all_k, all_v = self.lane.k[layer], self.lane.v[layer]
        rows, at = self.at
        all_k[rows, :, at] = k[0, :, :n].transpose(0, 1)
        all_v[rows, :, at] = v[0, :, :n].transpose(0, 1)
        kv, width = k.shape[1], self.lane.width
        x = q[0].transpose(0, 1)
        # Batched products of three dimensions: the fused kernel took ten times as long for one query a row.
        scores = torch.bmm(
            x[:n].reshape(n * kv, heads // kv, size), all_k[:n].view(n * kv, width, size).transpose(1, 2)
        )
        scores = scores.float().view(n, kv, -1, width).mul_(scale).add_(self.mask)
        weights = torch.softmax(scores, dim=-1)
        lse = scores.amax(dim=-1) - weights.amax(dim=-1).log()  # cheaper than a logsumexp, which runs exp once more
        weights = weights.to(q.dtype).view(n * kv, -1, width)
        own, own_lse = x.new_zeros(x.shape), x.new_zeros(x.shape[:2], dtype=torch.float32)
        own[:n] = torch.bmm(weights, all_v[:n].view(n * kv, width, size)).view(n, heads, size)
        own_lse[:n] = lse.view(n, heads)
        return merge(self.shared, layer, x, own, own_lse, scale).unsqueeze(0)
