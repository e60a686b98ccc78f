"""The engine against llama.cpp on the same weights and requests: `python tests/benchmarks/bench_llama_cpp.py`.

Needs the extra `bench` (llama-cpp-python compiles llama.cpp for this CPU, about ten minutes; gguf). The workload is
that of bench_lm_engine.py. llama.cpp is driven through its C functions, without a server's costs: each group's prefix
is computed once and its keys and values are given to every request of the group, requests enter as slots come free,
all slots grow by one token a call, its own sampler chain picks the tokens. Both kinds of its cache are tried, one for
all slots ("unified") and one for each. Before anything is timed, llama.cpp continues a prompt greedily, and the last
lines tell how many tokens are those of Hugging Face `generate` in fp32 on the same weights. The engine and llama.cpp
take turns in one process, in the same dtype; against llama.cpp in float16 the engine has the CPU's best.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections import deque
from datetime import date
from pathlib import Path

import gguf
import llama_cpp as c
import numpy as np
import torch
from bench_lm_engine import GROUPS, NEW, OWN, PREFIX, at_limit, model, prompts, run_engine

from btlib.lm.checkpoint import best_dtype
from btlib.lm.engine.attention import NAME
from btlib.lm.engine.scheduler import Scheduler
from btlib.support.machine import machine

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(reference, path: Path, dtype: str) -> None:
    """Write a Llama as GGUF: matrices in `dtype`, norms in fp32, without a vocabulary."""
    config, writer = reference.config, gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("none")

    def add(name: str, weight: torch.Tensor) -> None:
        array = weight.detach().float().numpy()
        kind = getattr(gguf.GGMLQuantizationType, {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype])
        if array.ndim == 1 or dtype == "float32":
            writer.add_tensor(name, np.ascontiguousarray(array))
        else:
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)

    for name, weight in reference.state_dict().items():
        if name == "model.embed_tokens.weight":
            add("token_embd.weight", weight)
        elif name == "model.norm.weight":
            add("output_norm.weight", weight)
        elif name.startswith("model.layers."):
            number, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp rotates neighbours, transformers halves
                heads = weight.shape[0] // config.head_dim
                weight = weight.view(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(weight.shape)
            add(f"blk.{number}.{NAMES[part]}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """A llama.cpp context with `slots` sequences for requests and GROUPS more that hold the prefixes."""

    def __init__(self, path: Path, slots: int, unified: bool, threads: int):
        c.llama_log_set(_SILENT, ctypes.c_void_p(0))
        settings = c.llama_model_default_params()
        self.model = c.llama_model_load_from_file(str(path).encode(), settings)
        params = c.llama_context_default_params()
        shared_cells = GROUPS * PREFIX + slots * (OWN + NEW)
        params.n_ctx = (shared_cells // 256 + 2) * 256 if unified else (slots + GROUPS) * 768
        params.n_batch = params.n_ubatch = 2048 if unified else 512
        params.n_seq_max, params.kv_unified, params.flash_attn_type = slots + GROUPS, unified, 1
        params.n_threads = params.n_threads_batch = threads
        self.context = c.llama_init_from_model(self.model, params)
        self.memory, self.slots, self.limit = c.llama_get_memory(self.context), slots, params.n_batch
        self.batch = c.llama_batch_init(self.limit, 0, 1)

    def sampler(self, greedy: bool):
        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        if greedy:
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_greedy())
        else:
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_p(0.97, 1))
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_temp(0.1))
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(1))
        return chain

    def feed(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Decode tokens given as (id, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        if status := c.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {status}")

    def run(self, requests: list[list[int]], new: int = NEW, greedy: bool = False) -> list[list[int]]:
        """Answer requests that begin with one of at most GROUPS prefixes; returns their new tokens, in order."""
        c.llama_memory_clear(self.memory, True)
        chain = self.sampler(greedy)
        prefixes: dict[tuple, int] = {}
        for ids in requests:
            prefixes.setdefault(tuple(ids[:PREFIX]), self.slots + len(prefixes))
        for ids, sequence in prefixes.items():
            for start in range(0, PREFIX, self.limit):
                part = ids[start : start + self.limit]
                self.feed([(t, start + i, sequence, False) for i, t in enumerate(part)])
        waiting, answers = deque(range(len(requests))), [[] for _ in requests]
        running: dict[int, int] = {}
        while waiting or running:
            fed, rows = [], []
            for slot, request in running.items():
                rows.append((len(fed), slot, request))
                fed.append((answers[request][-1], len(requests[request]) + len(answers[request]) - 1, slot, True))
            for slot in range(self.slots):
                if slot not in running and waiting and len(fed) + OWN <= self.limit:
                    request = waiting.popleft()
                    ids = requests[request]
                    c.llama_memory_seq_rm(self.memory, slot, -1, -1)
                    c.llama_memory_seq_cp(self.memory, prefixes[tuple(ids[:PREFIX])], slot, -1, -1)
                    own = ids[PREFIX:]
                    fed += [(t, PREFIX + i, slot, i == len(own) - 1) for i, t in enumerate(own)]
                    rows.append((len(fed) - 1, slot, request))
                    running[slot] = request
            self.feed(fed)
            for at, slot, request in rows:
                answers[request].append(c.llama_sampler_sample(chain, self.context, at))
                if len(answers[request]) >= new:
                    del running[slot]
        c.llama_sampler_free(chain)
        return answers

    def close(self) -> None:
        c.llama_batch_free(self.batch)
        c.llama_free(self.context)
        c.llama_model_free(self.model)


@c.llama_log_callback
def _SILENT(level, text, data):  # noqa: N802
    pass


def greedy(reference, ids: list[int]) -> list[int]:
    out = reference.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return out[0, len(ids) :].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="+", default=[16, 64, 128], help="of llama.cpp")
    native = best_dtype(torch.device("cpu")) == torch.bfloat16
    parser.add_argument("--dtypes", nargs="+", default=["float32", *["bfloat16"] * native, "float16"])
    args = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{date.today()}, {{cpu}}, {{cores}} cores, {threads} threads each".format(**machine()))
    print(f"llama-cpp-python {c.__version__}, {args.requests} requests a round, {args.rounds} rounds\n")
    print("| dtype | llama.cpp: slots, cache | llama.cpp, requests/s | engine | engine × llama.cpp | lowest round |")
    print("|---|---|---|---|---|---|")
    agreed = []
    for dtype in args.dtypes:
        reference, prompt = model(getattr(torch, dtype)), prompts(1, 5, GROUPS)
        ours = model(best_dtype(torch.device("cpu")) if dtype == "float16" else reference.dtype)
        expected = greedy(model(reference.dtype).float(), prompt[0])
        ours.set_attn_implementation(NAME)
        engine = Scheduler(ours, adapter_of={}.get, ends=at_limit)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write_gguf(reference, path, dtype)
            for slots in args.slots:
                for unified in (True, False):
                    peer = LlamaCpp(path, slots, unified, threads)
                    same = zip(peer.run(prompt, greedy=True)[0], expected, strict=True)
                    agreed.append((dtype, sum(a == b for a, b in same)))
                    run_engine(engine, prompts(16, 99, groups=4), shared=True, new=4)
                    slow, fast = [], []
                    for round_ in range(args.rounds):
                        requests = prompts(args.requests, round_, GROUPS)
                        start = time.perf_counter()
                        peer.run(requests)
                        slow.append(args.requests / (time.perf_counter() - start))
                        fast.append(args.requests / run_engine(engine, requests, shared=True))
                    peer.close()
                    ratios = [f / s for f, s in zip(fast, slow, strict=True)]
                    cells = [dtype, f"{slots}, {'unified' if unified else 'one each'}"]
                    cells += [f"{statistics.median(v):.2f}" for v in (slow, fast)]
                    cells += [f"{statistics.median(ratios):.1f}", f"{min(ratios):.1f}"]
                    print("| " + " | ".join(cells) + " |", flush=True)
        engine.close()
    for dtype in args.dtypes:
        counts = [n for d, n in agreed if d == dtype]
        print(f"\nGreedy, {dtype}: {min(counts)} to {max(counts)} of {NEW} tokens are those of `generate` in fp32.")


if __name__ == "__main__":
    main()
