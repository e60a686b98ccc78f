"""From documents to batches: token ids, the weight of each as a target, and batches of like length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from btlib.lm.checkpoint import best_dtype
from btlib.pocket.corpus import Document, documents

POOL = 384  # documents sorted by length together, so that a batch holds hardly any padding
MAX_TOKENS = 832  # longer documents (six demonstrations with long contexts) are left out
OTHER_SHARE, OTHER_WEIGHT = 0.25, 0.25  # tokens outside assistant turns: a sample of them, at a low weight


@dataclass(frozen=True)
class Batch:
    """Right-padded ids (batch, time); flat positions whose next token is a target; that token; its weight."""

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    tokens: int
    pool: int


def autocast(device: str = "cpu") -> torch.autocast:
    """Multiply in bf16 where the hardware does so natively; elsewhere bf16 is several times slower than fp32."""
    return torch.autocast(device, torch.bfloat16, enabled=best_dtype(torch.device(device)) == torch.bfloat16)


def encode(tokenizer: PreTrainedTokenizerFast, batch: list[Document]) -> list[tuple[list[int], list[bool]]]:
    """Encode documents message by message; the flag marks tokens of assistant turns, their end token included."""
    contents = [m["content"] for d in batch for m in d.messages]
    encoded = iter(tokenizer.backend_tokenizer.encode_batch_fast(contents, add_special_tokens=False))
    role = {r: tokenizer.convert_tokens_to_ids(f"<|{r}|>") for r in ("system", "user", "assistant")}
    end, out = tokenizer.eos_token_id, []
    for document in batch:
        ids: list[int] = []
        lesson: list[bool] = []
        for message in document.messages:
            body = next(encoded).ids
            ids += [role[message["role"]], *body, end]
            lesson += [False] + [message["role"] == "assistant"] * (len(body) + 1)
        out.append((ids, lesson))
    return out


def to_batch(rows: list[tuple[list[int], list[bool]]], pad: int, rng: random.Random, pool: int) -> Batch:
    """Pad rows to one length (a multiple of 16) and pick the positions to learn from."""
    longest = (max(len(ids) for ids, _ in rows) + 15) // 16 * 16
    ids = torch.full((len(rows), longest), pad)
    positions, weights = [], []
    for i, (row, lesson) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        for j in range(1, len(row)):
            if lesson[j] or rng.random() < OTHER_SHARE:
                positions.append(i * longest + j - 1)
                weights.append(1.0 if lesson[j] else OTHER_WEIGHT)
    index = torch.tensor(positions)
    return Batch(ids, index, ids.view(-1)[index + 1], torch.tensor(weights), sum(len(r) for r, _ in rows), pool)


def batches(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    rank: int,
    ranks: int,
    size: int,
    skip: int = 0,
    makers: int = 0,
) -> Iterator[Batch]:
    """Yield batches of about `size` tokens without end, from pool `skip` on; pool p of a rank depends on no other.

    `makers` other processes prepare them ahead, each every `makers`-th pool; 0 (the default): this process does.
    """
    source = _Batches(tokenizer, seed, rank, ranks, size, skip)
    return iter(source if not makers else DataLoader(source, batch_size=None, num_workers=makers, prefetch_factor=16))


class _Batches(IterableDataset):
    def __init__(self, tokenizer, seed, rank, ranks, size, skip):
        self.tokenizer, self.seed, self.rank, self.ranks = tokenizer, seed, rank, ranks
        self.size, self.skip = size, skip

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        maker, makers = (worker.id, worker.num_workers) if worker else (0, 1)
        pool = self.skip + maker
        while True:
            yield from self.pool(pool)
            pool += makers

    def pool(self, pool: int) -> Iterator[Batch]:
        start = (pool * self.ranks + self.rank) * POOL
        source = documents(self.seed, start)
        rng = random.Random(f"batches:{self.seed}:{start}")
        drawn = encode(self.tokenizer, [next(source) for _ in range(POOL)])
        rows = sorted((r for r in drawn if len(r[0]) <= MAX_TOKENS), key=lambda r: len(r[0]))
        groups: list[list] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > self.size:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield to_batch(group, self.tokenizer.pad_token_id, rng, pool)
