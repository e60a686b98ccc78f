"""Pre-training with PyTorch's fused attention and with btlib.pocket.causal: one thread, the same batches.

    python tests/benchmarks/bench_pretrain.py [--sizes pocket pocket-l] [--batches 24]

Both LMs begin alike and take turns at every batch. Prints a Markdown table: tokens a second (forward, backward, both
optimizers), the median over batches of the ratio, and the mean loss of the last half, which has to agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice

import torch

from btlib.pocket import causal
from btlib.pocket.batches import batches
from btlib.pocket.model import SIZES, make_model, share_spelling
from btlib.pocket.pretrain import Recipe, loss, optimizers
from btlib.pocket.tokenizer import build_tokenizer

WARM_UP = 2  # batches


def step(model, optims: list, batch) -> tuple[float, float]:
    """One step of training; returns its seconds and its loss."""
    began = time.perf_counter()
    mean, taught = loss(model, batch)
    mean.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optim in optims:
        optim.step()
        optim.zero_grad()
    return time.perf_counter() - began, taught.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batches", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, recipe = build_tokenizer(0), Recipe()
    drawn = list(islice(batches(tokenizer, 0, 0, 2, recipe.batch_tokens), arguments.batches + WARM_UP))
    print(
        "| size | sdpa, tokens/s | btlib, tokens/s | ratio | loss with sdpa | with btlib |\n|---|---|---|---|---|---|"
    )
    for size in arguments.sizes:
        sides = []
        for name in ("sdpa", causal.NAME):
            torch.manual_seed(0)
            model = make_model(size, len(tokenizer), name)
            share_spelling(model, tokenizer)
            sides.append((model, optimizers(model, recipe), []))
        for batch in drawn:
            for model, optims, results in sides:
                results.append(step(model, optims, batch))
        theirs, ours = (results[WARM_UP:] for _, _, results in sides)
        tokens = sum(batch.tokens for batch in drawn[WARM_UP:])
        speeds = [tokens / sum(seconds for seconds, _ in results) for results in (theirs, ours)]
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(theirs, ours, strict=True))
        losses = [statistics.mean(found for _, found in results[len(results) // 2 :]) for results in (theirs, ours)]
        print(
            f"| {size} | {speeds[0]:.0f} | {speeds[1]:.0f} | {ratio:.2f} | {losses[0]:.3f} | {losses[1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
