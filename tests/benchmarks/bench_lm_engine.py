"""How much faster the engine is than `generate`, one request at a time: `python tests/benchmarks/bench_lm_engine.py`.

256 requests in 4 groups that share a prefix of 500 tokens, 60 tokens of their own, 50 new tokens; a random Llama of
the embedded LM's shape. The two take turns in one process, so that a busy machine slows both. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from btlib.lm.attention import NAME
from btlib.lm.lanes import Job
from btlib.lm.sampling import request_seed
from btlib.lm.scheduler import Scheduler

PREFIX, OWN, NEW, GROUPS = 500, 60, 50, 4


def model(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3000, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        max_position_embeddings=2048, tie_word_embeddings=True, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def prompts(count: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    prefixes = [[draw.randrange(3000) for _ in range(PREFIX)] for _ in range(GROUPS)]
    return [prefixes[i % GROUPS] + [draw.randrange(3000) for _ in range(OWN)] for i in range(count)]


def at_limit(job: Job) -> str | None:
    return "length" if len(job.new) >= job.limit else None


def run_engine(engine: Scheduler, requests: list[list[int]], new: int = NEW) -> float:
    start = time.perf_counter()
    jobs = [Job("bench", ids, PREFIX, new, 0.1, 0.97, 0, request_seed(None, ids), ()) for ids in requests]
    for job in [engine.submit(job) for job in jobs]:
        job.future.result()
    return len(requests) / (time.perf_counter() - start)


def run_generate(reference: LlamaForCausalLM, requests: list[list[int]]) -> float:
    start = time.perf_counter()
    for ids in requests:
        reference.generate(
            torch.tensor([ids]), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=True, temperature=0.1, top_p=0.97,
            top_k=0, pad_token_id=0,
        )  # fmt: skip
    return len(requests) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    reference = model(torch.float32)
    for dtype in arguments.dtypes:
        ours = model(getattr(torch, dtype))
        ours.set_attn_implementation(NAME)
        engine = Scheduler(ours, adapter_of={}.get, ends=at_limit, slots=arguments.slots)
        run_engine(engine, prompts(16, 99), new=4)
        fast, slow = [], []
        for round_ in range(arguments.rounds):
            slow.append(run_generate(reference, prompts(4, 1000 + round_)))
            fast.append(run_engine(engine, prompts(arguments.requests, round_)))
        ratio = statistics.median(f / s for f, s in zip(fast, slow, strict=True))
        row = {"dtype": dtype, "threads": torch.get_num_threads(), "times_generate": round(ratio, 2)}
        row |= {"engine_per_s": [round(x, 2) for x in fast], "generate_per_s": [round(x, 2) for x in slow]}
        print(json.dumps(row))
        engine.close()


if __name__ == "__main__":
    main()
