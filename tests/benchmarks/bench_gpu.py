"""What one device gets done on the paper's path: `python tests/benchmarks/bench_gpu.py` on a GPU.

A random-weight LM of a known shape (Llama 3 8B unless told otherwise) answers GSM8K-sized requests through the engine,
taking turns with transformers' `generate` on a left-padded batch of the same requests, and is then tuned with LoRA as
in the paper. Prints a Markdown table: tokens per second, FLOP/s as btlib.grid.estimate counts them, peak memory, and
what the paper's grid would take at that rate. Weights are random: answers mean nothing, and speed does not depend on
them.
"""

from __future__ import annotations

import argparse
import datetime
import random
import resource
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from dspy.lm15 import Config, Message, Request
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

from btlib.grid.estimate import PAPER_HOURS, Throughput, total
from btlib.grid.plan import plan
from btlib.lm.checkpoint import best_dtype, check
from btlib.lm.engine.engine import Engine, best_device
from btlib.lm.known import KNOWN, Shape, known
from btlib.lm.lora.train import train_lora
from btlib.lm.quiet import without_bars
from btlib.presets import load_preset
from btlib.support.machine import cpu_name
from btlib.support.paths import data_dir

TINY = Shape(4096, 128, 256, 2, 4, 2, 32, 4096, tied=True)
SYSTEM, OWN, ANSWER = 600, 100, 150  # words: what requests share (three demonstrations), a question, an answer


def checkpoint(shape: Shape, folder: Path, device: torch.device) -> Path:
    """Write a random LM of a shape in bf16, with the embedded LM's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(data_dir() / "pocket-lm")
    kind = Qwen3Config if shape.qk_norm else Qwen2Config if shape.qkv_bias else LlamaConfig
    config = kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == shape.weights
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text(words: int, seed: object) -> str:
    draw = random.Random(str(seed))
    return " ".join(draw.choice("how many apples does Ann have in all now and then".split()) for _ in range(words))


def messages(seed: object) -> list[dict[str, str]]:
    return [{"role": "system", "content": text(SYSTEM, "shared")}, {"role": "user", "content": text(OWN, seed)}]


def run_engine(engine: Engine, count: int, new: int, seed: int) -> dict[str, float]:
    """Answer `count` requests at once; return tokens written, tokens computed, and seconds."""
    before, start = engine.counters(), time.perf_counter()
    requests = [
        Request(
            model=engine.model_id,
            system=talk[0]["content"],
            messages=(Message.user(talk[1]["content"]),),
            config=Config(max_tokens=new, temperature=0.1, top_p=0.97),
        )
        for talk in (messages((seed, i)) for i in range(count))
    ]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(engine.complete, requests))
    seconds, after = time.perf_counter() - start, engine.counters()
    gone = {name: after[name] - before[name] for name in ("tokens_in", "tokens_reused", "tokens_out")}
    computed = gone["tokens_in"] - gone["tokens_reused"] + gone["tokens_out"]
    return {"out": gone["tokens_out"], "computed": computed, "seconds": seconds}


def run_generate(model, engine: Engine, count: int, new: int, seed: int, batch: int) -> float:
    """Answer as many requests with `generate`, left-padded, `batch` at a time; return tokens written per second."""
    tokenizer, written, start = engine.chat.tokenizer, 0, time.perf_counter()
    prompts = [engine.chat.render(messages((seed, i)), generate=True) for i in range(count)]
    for i in range(0, count, batch):
        inputs = tokenizer(
            prompts[i : i + batch], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False,
            return_token_type_ids=False,
        ).to(model.device)  # fmt: skip
        out = model.generate(
            **inputs, max_new_tokens=new, min_new_tokens=new, do_sample=True, temperature=0.1, top_p=0.97, top_k=0,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        written += out.shape[0] * (out.shape[1] - inputs["input_ids"].shape[1])
    return written / (time.perf_counter() - start)


def run_training(base: Engine, out: Path, rows: int, checkpointing: bool) -> tuple[float, int]:
    """Tune with LoRA as in the paper; return row tokens per second after the first step, and the micro-batch."""
    steps: list[float] = []
    system = {"role": "system", "content": text(100, "shared")}  # rows have no demonstrations
    data = [
        {"messages": [system, messages((9, i))[1], {"role": "assistant", "content": text(ANSWER, ("answer", i))}]}
        for i in range(rows)
    ]
    paper = load_preset("paper")
    report = train_lora(
        base, data, out, rank=paper.lora_rank, alpha=paper.lora_alpha, targets=paper.lora_targets, epochs=1,
        learning_rate=paper.learning_rate, batch_size=paper.batch_size, gradient_checkpointing=checkpointing,
        progress=lambda step, of: steps.append(time.perf_counter()),
    )  # fmt: skip
    return report.tokens * (len(steps) - 1) / len(steps) / (steps[-1] - steps[0]), report.micro_batch_size


def peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@without_bars()
def main() -> None:
    names = [entry.name for entry in KNOWN if entry.shape]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="llama-3-8b", choices=["tiny", *names])
    parser.add_argument("--requests", type=int, help="in a round (default: 128; tiny: 8)")
    parser.add_argument("--new", type=int, help="tokens that an answer has (default: 150; tiny: 16)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--rows", type=int, help="to train on (default: 64; tiny: 24)")
    parser.add_argument("--no-peer", action="store_true", help="leave `generate` out: it holds the weights once more")
    parser.add_argument("--no-checkpointing", action="store_true", help="train without gradient checkpointing")
    given = parser.parse_args()
    tiny = given.shape == "tiny"
    shape = TINY if tiny else known(given.shape).shape
    count, new, rows = given.requests or (8 if tiny else 128), given.new or (16 if tiny else 150), given.rows
    device = best_device("auto")
    gpu = device.type == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"{cpu_name()}, {torch.get_num_threads()} threads"
    with tempfile.TemporaryDirectory(prefix="btlib-bench-") as scratch:
        folder = checkpoint(shape, Path(scratch) / "lm", device)
        engine = Engine(check("bench", folder), slots=given.slots)
        peer = None
        if not given.no_peer:
            peer = AutoModelForCausalLM.from_pretrained(folder, dtype=best_dtype(device)).to(device).eval()
        run_engine(engine, min(8, count), 4, seed=-1)
        ours, theirs = [], []
        for seed in range(given.rounds):
            ours.append(run_engine(engine, count, new, seed))
            if peer is not None:
                theirs.append(run_generate(peer, engine, count, new, seed, min(given.slots, count)))
        generation_peak, peer = peak_gib(device), None
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        checkpointing = not given.no_checkpointing
        trained, micro = run_training(engine, Path(scratch) / "adapter", rows or (24 if tiny else 64), checkpointing)
        training_peak = peak_gib(device)
        engine.close()
    rates = [run["out"] / run["seconds"] for run in ours]
    generated = 2 * shape.weights * statistics.median(run["computed"] / run["seconds"] for run in ours)
    learnt = (6 if checkpointing else 4) * shape.weights * trained
    speed = Throughput(where, generated, learnt, "measured")
    ratio = f"{statistics.median(rate / peer for rate, peer in zip(rates, theirs, strict=True)):.2f}" if theirs else "–"
    hours = f"{total(plan(load_preset('paper'))).hours(speed):.0f} (paper: about {PAPER_HOURS:.0f} A100 hours)"
    lines = {
        "device": f"{where}, {str(engine.dtype).removeprefix('torch.')}, {datetime.date.today().isoformat()}",
        "LM": f"{given.shape}, {shape.weights / 1e6:,.1f} M random weights",
        f"generation, {count} requests, {new} new tokens each": f"{statistics.median(rates):,.0f} tokens/s",
        "times transformers' generate, same batch, left-padded": ratio,
        "generation, 2 FLOPs a weight and token": f"{generated / 1e12:.3g} TFLOP/s",
        f"LoRA training, micro-batch {micro}"
        + (", checkpointing" if checkpointing else ""): f"{trained:,.0f} tokens/s",
        f"training, {6 if checkpointing else 4} FLOPs a weight and token": f"{learnt / 1e12:.3g} TFLOP/s",
        "peak memory, generation" + (" with the peer's weights" if theirs else ""): f"{generation_peak:.1f} GiB",
        "peak memory, training beside the engine": f"{training_peak:.1f} GiB",
        "GPU hours of the paper's grid at this rate": hours if gpu else "not yet measured: this ran on a CPU",
    }
    print("| what | measured |\n|---|---|")
    print("\n".join(f"| {name} | {value} |" for name, value in lines.items()))


if __name__ == "__main__":
    main()
