"""Pre-train the embedded LM on generated documents: `btlib pretrain`, seeded, resumable, on any number of processes.

One process a core, each with one thread and its own documents; gradients are averaged over them at every step. Muon
trains the matrices, AdamW embeddings and norms; the learning rate warms up, stays, and falls to zero at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

LOG_EVERY, SAVE_SECONDS = 20, 240
SIZES = {  # hidden, MLP, layers, heads, KV heads
    "pocket": (192, 512, 6, 6, 3),
}


@dataclass(frozen=True)
class Recipe:
    """All that decides what comes out, with the defaults that made data/pocket-lm."""

    size: str = "pocket"
    seed: int = 0
    tokens: float = 40e6
    batch_tokens: int = 2048  # per process
    processes: int = 2
    muon_rate: float = 0.006
    adam_rate: float = 1.5e-3
    drill_steps: int = 600
    drill_muon_rate: float = 0.012
    warmup: float = 0.01  # shares of all tokens
    decay: float = 0.35


def rate(recipe: Recipe, tokens: float) -> float:
    """Return the factor on the learning rates after `tokens` tokens: warm up, stay at 1, fall linearly to 0."""
    done = tokens / recipe.tokens
    return max(0.0, min(1.0, (done + 1e-4) / recipe.warmup, (1 - done) / recipe.decay))


def make_model(size: str, vocabulary: int):
    """Build the LM with fresh weights, in fp32: a Llama with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, mlp, layers, heads, kv = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model


def share_spelling(model, tokenizer) -> int:
    """Give each word the same vector with and without its leading space, up to one common offset; returns how many.

    Copying a name to the start of a line changes its token (" Maro" -> "Maro"). With unrelated vectors every such pair
    has to be learned on its own, and copying came late.
    """
    import torch

    vocabulary = tokenizer.get_vocab()
    pairs = [
        (i, vocabulary["Ġ" + t]) for t, i in vocabulary.items() if t.isalpha() and len(t) > 2 and "Ġ" + t in vocabulary
    ]
    table = model.get_input_embeddings().weight.data
    bare, spaced = torch.tensor(sorted(pairs)).T
    offset = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(0)) * table.std()
    mean = table[bare].mean(0), table[spaced].mean(0)
    shared = (table[bare] - mean[0] + table[spaced] - mean[1]) / 2**0.5
    table[bare], table[spaced] = mean[0] + shared, mean[1] + shared + offset
    return len(pairs)


def loss(model, batch, device: str = "cpu"):
    """Return the weighted mean cross-entropy over the batch's target positions; only those reach the output matrix."""
    import torch

    with torch.autocast(device, torch.bfloat16):
        hidden = model.model(input_ids=batch.ids.to(device), use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[batch.positions.to(device)])
    each = torch.nn.functional.cross_entropy(logits.float(), batch.targets.to(device), reduction="none")
    weights = batch.weights.to(device)
    return (each * weights).sum() / weights.sum(), (each.detach() * (weights == 1)).sum() / (weights == 1).sum()


def optimizers(model, recipe: Recipe) -> list:
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.0, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(rank: int, recipe: Recipe, folder: str, meeting: str) -> None:
    """One process of the training: resumes from a checkpoint, logs to log.jsonl, ends with the recipe's tokens."""
    import torch
    import torch.distributed as dist
    from transformers import AutoTokenizer

    from btlib.pocket.batches import batches
    from btlib.pocket.checkpoint import export, load_checkpoint, save_checkpoint
    from btlib.pocket.drill import drill

    torch.set_num_threads(1)
    out, ranks = Path(folder), recipe.processes
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(recipe.seed)
    model = make_model(recipe.size, len(tokenizer))
    share_spelling(model, tokenizer)
    optims = optimizers(model, recipe)
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "pools": 0}
    if (out / "checkpoint.safetensors").exists():
        state = load_checkpoint(out, model, optims)
    elif recipe.drill_steps:  # the same on every process, so that nothing needs to be averaged
        optims[0].param_groups[0]["lr"], optims[1].param_groups[0]["lr"] = recipe.drill_muon_rate, 1e-3
        seen = drill(model, optims, tokenizer, recipe.seed, recipe.drill_steps)
        print(f"copying drill: {100 * sum(seen[-50:]) / len(seen[-50:]):.0f}% of the last words right", flush=True)
    params = [p for p in model.parameters() if p.requires_grad]
    stream = batches(tokenizer, recipe.seed, rank, ranks, recipe.batch_tokens, skip=state["pools"])
    began, saved = time.time() - state["seconds"], time.time()
    seen, recent = state["tokens"], []
    while seen < recipe.tokens:
        batch = next(stream)
        mean, lesson = loss(model, batch)
        mean.backward()
        flat = torch.cat([p.grad.view(-1) for p in params] + [torch.tensor([float(batch.tokens), float(lesson)])])
        dist.all_reduce(flat)
        seen += int(flat[-2])
        recent.append(float(flat[-1]) / ranks)
        torch._foreach_copy_(
            [p.grad.view(-1) for p in params], list((flat[:-2] / ranks).split([p.numel() for p in params]))
        )
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for optim, top in zip(optims, (recipe.muon_rate, recipe.adam_rate), strict=True):
            optim.param_groups[0]["lr"] = top * rate(recipe, seen)
            optim.step()
            optim.zero_grad()
        # Pools already begun, on any process, are not drawn again by a resumed run.
        state |= {"step": state["step"] + 1, "tokens": seen, "seconds": time.time() - began, "pools": batch.pool + 2}
        if rank == 0 and state["step"] % LOG_EVERY == 0:
            report(out, recipe, state, sum(recent) / len(recent))
            recent = []
        if rank == 0 and (time.time() - saved > SAVE_SECONDS or seen >= recipe.tokens):
            save_checkpoint(out, model, optims, state)
            export(model, tokenizer, out / "model")
            saved = time.time()
    dist.destroy_process_group()


def report(out: Path, recipe: Recipe, state: dict, mean: float) -> None:
    """Append a line to log.jsonl and print one: step, tokens, loss (nats a target token), speed, time left."""
    line = {"step": state["step"], "tokens": state["tokens"], "loss": round(mean, 4)}
    line |= {"seconds": round(state["seconds"], 1), "rate": round(rate(recipe, state["tokens"]), 4)}
    with open(out / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")
    speed = state["tokens"] / max(state["seconds"], 1e-9)
    left = (recipe.tokens - state["tokens"]) / speed / 60
    print(
        f"step {state['step']}  {state['tokens'] / 1e6:.2f}M of {recipe.tokens / 1e6:.0f}M tokens  loss {mean:.3f}"
        f"  {speed:.0f} tokens/s  {left:.0f} min left",
        flush=True,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `btlib pretrain`."""
    default = Recipe()
    parser.add_argument(
        "--out", default="runs/pretrain", help="folder of checkpoint, log and model (default: runs/pretrain)"
    )
    parser.add_argument("--size", choices=sorted(SIZES), default=default.size)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--tokens", type=float, default=default.tokens, help="tokens in all (default: %(default).0f)")
    parser.add_argument(
        "--processes", type=int, default=default.processes, help="processes of one thread each (default: 2)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the recipe; a folder with a checkpoint is resumed."""
    import torch.multiprocessing as mp

    from btlib.pocket.tokenizer import build_tokenizer

    recipe = Recipe(size=args.size, seed=args.seed, tokens=args.tokens, processes=args.processes)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").exists():
        build_tokenizer(recipe.seed).save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    with tempfile.TemporaryDirectory() as meeting:
        mp.spawn(train, (recipe, str(out), os.path.join(meeting, "meeting")), nprocs=recipe.processes)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(run(parser.parse_args()))
