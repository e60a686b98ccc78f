"""How much faster the engine is than `generate`, and how near it comes to what the CPU can multiply.

    python tests/benchmarks/bench_lm_engine.py                 # 256 requests a round, three rounds
    python tests/benchmarks/bench_lm_engine.py --requests 16 --rounds 1

256 requests in 4 groups that share a prefix of 500 tokens (or as many with a prefix of their own each), 60 tokens of
their own, 50 new tokens; a random Llama of 6.5 million weights. Hugging Face `generate`, one request at a time, and the
engine take turns in one process, so that a busy machine slows both; the ratio is the median over the rounds. The share
of the GEMM peak is the rate of the multiplications that the model's linear layers need for these tokens (a shared
prefix counts once for the engine) over the rate at which the same weights are multiplied with as many rows as the
engine has slots, and nothing else.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from datetime import date

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from btlib.lm.checkpoint import best_dtype
from btlib.lm.engine.attention import NAME
from btlib.lm.engine.lanes import Job
from btlib.lm.engine.sampling import request_seed
from btlib.lm.engine.scheduler import SLOTS, Scheduler
from btlib.support.machine import machine

PREFIX, OWN, NEW, GROUPS, PLAIN = 500, 60, 50, 4, 4  # PLAIN: requests a round for `generate`


def model(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3000, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        max_position_embeddings=2048, tie_word_embeddings=True, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def prompts(count: int, seed: int, groups: int) -> list[list[int]]:
    draw = random.Random(seed)
    prefixes = [[draw.randrange(3000) for _ in range(PREFIX)] for _ in range(groups)]
    return [prefixes[i % groups] + [draw.randrange(3000) for _ in range(OWN)] for i in range(count)]


def at_limit(job: Job) -> str | None:
    return "length" if len(job.new) >= job.limit else None


def run_engine(engine: Scheduler, requests: list[list[int]], shared: bool, new: int = NEW) -> float:
    """Return the seconds it takes."""
    start = time.perf_counter()
    prefix = PREFIX if shared else 0
    jobs = [Job("bench", ids, prefix, new, 0.1, 0.97, 0, request_seed(None, ids), ()) for ids in requests]
    for job in [engine.submit(job) for job in jobs]:
        job.future.result()
    return time.perf_counter() - start


def run_generate(reference: LlamaForCausalLM, requests: list[list[int]]) -> float:
    """Return the seconds it takes."""
    start = time.perf_counter()
    for ids in requests:
        reference.generate(
            torch.tensor([ids]), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=True, temperature=0.1, top_p=0.97,
            top_k=0, pad_token_id=0,
        )  # fmt: skip
    return time.perf_counter() - start


def linear_flops(reference: LlamaForCausalLM, tokens: int, answers: int) -> float:
    """Return the floating-point operations of the linear layers; the head is needed for new tokens only."""
    weights = sum(module.weight.numel() for module in reference.model.modules() if isinstance(module, nn.Linear))
    return 2.0 * (tokens * weights + answers * NEW * reference.lm_head.weight.numel())


@torch.inference_mode()
def gemm_rate(reference: LlamaForCausalLM, rows: int, seconds: float = 0.5) -> float:
    """Return the floating-point operations a second of one linear layer after another on `rows` rows."""
    layers = [module.weight for module in reference.modules() if isinstance(module, nn.Linear)]
    inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1], dtype=weight.dtype) for weight in layers}
    done, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for weight in layers:
            nn.functional.linear(inputs[weight.shape[1]], weight)
        done += sum(2.0 * rows * weight.numel() for weight in layers)
    return done / (time.perf_counter() - start)


def row(dtype: str, shared: bool, count: int, slots: int, rounds: int) -> str:
    reference, ours = model(torch.float32), model(getattr(torch, dtype))
    plain = model(getattr(torch, dtype))
    ours.set_attn_implementation(NAME)
    engine = Scheduler(ours, adapter_of={}.get, ends=at_limit, slots=slots)
    groups = GROUPS if shared else count
    run_engine(engine, prompts(16, 99, groups=4), shared, new=4)
    own, once = (OWN + NEW - 1) * count, PREFIX * groups
    fast, slow, fast_share, slow_share = [], [], [], []
    for round_ in range(rounds):
        slow.append(PLAIN / run_generate(reference, prompts(PLAIN, 1000 + round_, GROUPS)))
        peak = gemm_rate(plain, slots)
        fast.append(count / run_engine(engine, prompts(count, round_, groups), shared))
        fast_share.append(linear_flops(ours, own + once, count) * fast[-1] / count / peak)
        slow_share.append(linear_flops(ours, PREFIX + OWN + NEW - 1, 1) * slow[-1] / peak)
    engine.close()
    ratio = statistics.median(f / s for f, s in zip(fast, slow, strict=True))
    middle = statistics.median
    cells = [dtype, "shared" if shared else "own", f"{middle(slow):.2f}", f"{middle(fast):.2f}", f"{ratio:.1f}"]
    cells += [f"{min(f / s for f, s in zip(fast, slow, strict=True)):.1f}", f"{middle(slow_share):.0%}"]
    return "| " + " | ".join([*cells, f"{middle(fast_share):.0%}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=SLOTS)
    native = best_dtype(torch.device("cpu")) == torch.bfloat16
    parser.add_argument("--dtypes", nargs="+", default=["float32", *["bfloat16"] * native])
    arguments = parser.parse_args()
    where = "{cpu}, {cores} cores, {threads} torch threads".format(**machine())
    print(f"{date.today()}, {where}, {arguments.slots} slots\n")
    print("| dtype | prefixes | `generate` (fp32), requests/s | engine | × `generate` | lowest round |", end="")
    print(" GEMM peak used by `generate` | by the engine |\n|---|---|---|---|---|---|---|---|")
    for dtype in arguments.dtypes:
        for shared in (True, False):
            print(row(dtype, shared, arguments.requests, arguments.slots, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
