"""Pre-train the embedded LM on generated documents: `btlib pretrain`, seeded, resumable, on any number of processes.

On CPUs one process a core, each with one thread and its own documents; gradients are averaged over them at every
step. On a GPU one process, for which others make the documents. Muon trains the matrices, AdamW embeddings and norms;
the learning rate warms up, stays, and falls to zero at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from btlib.errors import BtlibError
from btlib.pocket.model import SIZES, make_model, share_spelling
from btlib.support.files import write_json
from btlib.support.paths import at_home

LOG_EVERY, SAVE_SECONDS, SNAPSHOTS = 20, 240, 10
GUESS_ROWS, READ_ROWS = 8, 8  # a step, over all processes


@dataclass(frozen=True)
class Recipe:
    """All that decides what comes out, with the defaults that made data/pocket-lm."""

    size: str = "pocket"
    seed: int = 0
    tokens: float = 16e6
    batch_tokens: int = 2048  # per process
    processes: int = 2
    makers: int = 0  # processes that make documents for each of those; worth it on a GPU only
    muon_rate: float = 0.01
    adam_rate: float = 2e-3
    drill_steps: int = 400  # at most, for each drill: it ends when its goal is reached at the top level
    drill_muon_rate: float = 0.012
    guesses: float = 0.4  # last share of `tokens`, in which every step has some rows more: labels to be guessed
    warmup: float = 240e3  # tokens
    decay: float = 0.7  # share of `tokens`
    closing: float = 1.5e6  # tokens after those, with rows of labels to be read from demonstrations besides
    closing_rate: float = 0.25  # share of the rates that the closing part begins with
    closing_leaning: float = 0.25  # share of guesses that follow the habit there; before it is classes.LEANING


def rate(recipe: Recipe, tokens: float) -> float:
    """Return the factor on the learning rates after `tokens` tokens: warm up, stay at 1, fall linearly to 0; then, in
    the closing part, the same with a lower top and nothing between.
    """
    if tokens >= recipe.tokens and recipe.closing:
        done = (tokens - recipe.tokens) / recipe.closing
        return recipe.closing_rate * max(0.0, min(1.0, 0.01 + 20 * done, 1 - done))
    left = 1 - tokens / recipe.tokens
    return max(0.0, min(1.0, 0.01 + tokens / recipe.warmup, left / recipe.decay))


def loss(model, batch, device: str = "cpu"):
    """Return the weighted mean cross-entropy over the batch's target positions; only those reach the output matrix."""
    import torch

    from btlib.pocket.batches import autocast

    with autocast(device):
        hidden = model.model(input_ids=batch.ids.to(device), use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[batch.positions.to(device)])
    each = torch.nn.functional.cross_entropy(logits.float(), batch.targets.to(device), reduction="none")
    weights = batch.weights.to(device)
    return (each * weights).sum() / weights.sum(), (each.detach() * (weights == 1)).sum() / (weights == 1).sum()


def optimizers(model, recipe: Recipe, rank: int = 0) -> list:
    """Return Muon for the matrices and AdamW for embeddings and norms."""
    import torch

    from btlib.pocket.muon import Muon

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    return [
        Muon(matrices, recipe.muon_rate, rank, recipe.processes if torch.distributed.is_initialized() else 1),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(rank: int, recipe: Recipe, folder: str, meeting: str) -> None:
    """One process of the training: resumes from a checkpoint, logs to log.jsonl, ends with the recipe's tokens."""
    import torch
    import torch.distributed as dist
    from transformers import AutoTokenizer

    from btlib.pocket import causal, progress
    from btlib.pocket import drill as drills
    from btlib.pocket.batches import batches
    from btlib.pocket.checkpoint import export, load_checkpoint, save_checkpoint
    from btlib.pocket.classes import LEANING

    torch.set_num_threads(1)
    out, ranks, device = Path(folder), recipe.processes, "cuda" if torch.cuda.is_available() else "cpu"
    parent = multiprocessing.parent_process()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(recipe.seed)
    model = make_model(recipe.size, len(tokenizer), causal.NAME)
    share_spelling(model, tokenizer)
    model.to(device)
    optims = optimizers(model, recipe, rank)
    params = [p for p in model.parameters() if p.requires_grad]

    def share(numbers: list[float]) -> list[float]:
        """Average gradients over the processes, and some numbers with them."""
        if parent and not parent.is_alive():
            raise SystemExit("the command that started this process is gone")
        if ranks == 1:
            return numbers
        flat = torch.cat([p.grad.view(-1) for p in params] + [torch.tensor(numbers)])
        dist.all_reduce(flat)
        flat /= ranks
        torch._foreach_copy_(
            [p.grad.view(-1) for p in params], list(flat[: -len(numbers)].split([p.numel() for p in params]))
        )
        return flat[-len(numbers) :].tolist()

    state: dict = {"step": 0, "tokens": 0, "seconds": 0.0, "pools": 0, "drills": []}
    if (out / "checkpoint.safetensors").exists():
        state = load_checkpoint(out, model, optims)
        if rank == 0:
            progress.rewind(out, state["step"])

    def practise(kind: str) -> None:
        """Run a drill, with rates of its own."""
        began, words = time.time(), drills.word_list(tokenizer)
        optims[0].param_groups[0]["lr"], optims[1].param_groups[0]["lr"] = recipe.drill_muon_rate, 1e-3
        draws = {
            "copying": lambda rng, level: drills.copy_row(rng, words, level),
            "classes": lambda rng, level: drills.class_row(rng, tokenizer, level),
            "sums": lambda rng, level: drills.sum_row(rng, tokenizer, level),
        }
        rows, top, name = drills.ROWS[kind] // ranks, drills.TOP[kind], f"{kind}:{recipe.seed}:{rank}"
        seen = drills.drill(model, optims, draws[kind], name, recipe.drill_steps, rows, share, top)
        state["seconds"] += time.time() - began
        state["drills"].append(kind)
        if rank == 0:
            right, seconds = 100 * sum(seen[-20:]) / len(seen[-20:]), time.time() - began
            print(f"drill of {kind}: {len(seen)} steps, {seconds:.0f} s, {right:.0f}% right at last", flush=True)

    def rows_of(draw, count: int, rng: random.Random):
        """Return the loss of this process's part of `count` rows."""
        return drills.lesson(model, [draw(rng, tokenizer) for _ in range(max(1, count // ranks))])[0]

    for kind in drills.ROWS if recipe.drill_steps else ():
        if kind not in state["drills"]:
            practise(kind)
    stream = batches(tokenizer, recipe.seed, rank, ranks, recipe.batch_tokens, state["pools"], recipe.makers)
    began, saved = time.time() - state["seconds"], time.time()
    seen, recent, end = state["tokens"], [], recipe.tokens + recipe.closing
    while seen < end:
        batch = next(stream)
        mean, taught = loss(model, batch, device)
        if seen > (1 - recipe.guesses) * recipe.tokens:
            rng = random.Random(f"guesses:{recipe.seed}:{rank}:{state['step']}")
            leaning = LEANING if seen < recipe.tokens else recipe.closing_leaning
            mean = mean + rows_of(partial(drills.guess_row, leaning=leaning), GUESS_ROWS, rng)
            if seen >= recipe.tokens:
                mean = mean + rows_of(drills.read_row, READ_ROWS, rng)
        mean.backward()
        tokens, taught = share([float(batch.tokens), float(taught)])
        before, seen = seen, seen + round(tokens * ranks)
        recent.append(taught)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for optim, top in zip(optims, (recipe.muon_rate, recipe.adam_rate), strict=True):
            optim.param_groups[0]["lr"] = top * rate(recipe, seen)
            optim.step()
            optim.zero_grad()
        # Pools already begun, on any process, are not drawn again by a resumed run.
        state |= {"step": state["step"] + 1, "tokens": seen, "seconds": time.time() - began, "pools": batch.pool + 2}
        if rank == 0 and state["step"] % LOG_EVERY == 0:
            progress.report(out, state, sum(recent) / len(recent), end, rate(recipe, seen))
            recent = []
        if rank == 0 and int(SNAPSHOTS * seen / end) > int(SNAPSHOTS * before / end):
            export(model, tokenizer, out / "snapshots" / f"{seen}")
        if rank == 0 and (time.time() - saved > SAVE_SECONDS or seen >= end):
            save_checkpoint(out, model, optims, state)
            export(model, tokenizer, out / "model")
            saved = time.time()
    dist.destroy_process_group()
    progress.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `btlib pretrain`."""
    default = Recipe()
    parser.add_argument(
        "--out", default="runs/pretrain", help="folder of checkpoint, log and model (default: runs/pretrain)"
    )
    parser.add_argument("--size", choices=sorted(SIZES), default=default.size)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--batch-tokens", type=int, default=default.batch_tokens, help="per process (default: 2048)")
    parser.add_argument("--tokens", type=float, default=default.tokens, help="tokens in all (default: %(default).0f)")
    parser.add_argument(
        "--processes", type=int, default=default.processes, help="processes of one thread each; 1 on a GPU (default: 2)"
    )
    parser.add_argument("--makers", type=int, default=default.makers, help="processes that make documents (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the recipe; a folder with a checkpoint is resumed, with the recipe that it began with."""
    import torch.multiprocessing as mp

    from btlib.pocket import progress
    from btlib.pocket.tokenizer import build_tokenizer

    recipe = Recipe(args.size, args.seed, args.tokens, args.batch_tokens, args.processes, args.makers)
    out = at_home(args.out)
    out.mkdir(parents=True, exist_ok=True)
    check_recipe(out, recipe)
    if not (out / "tokenizer.json").exists():
        build_tokenizer(recipe.seed).save_pretrained(out)
    with tempfile.TemporaryDirectory() as meeting:
        mp.spawn(train, (recipe, str(out), os.path.join(meeting, "meeting")), nprocs=recipe.processes)
    print(f"the LM is in {out / 'model'}, its loss in {progress.loss_figure(out)}")
    return 0


def check_recipe(out: Path, recipe: Recipe) -> None:
    """Write the recipe to the folder, or refuse the folder where it was begun with another one."""
    path, now = out / "recipe.json", asdict(recipe)
    if path.exists():
        before = json.loads(path.read_text())
        if changed := [f"{k} {before.get(k)!r} -> {now[k]!r}" for k in now if before.get(k) != now[k]]:
            raise BtlibError(f"{out} was begun with other settings ({', '.join(changed)}); repeat them or choose --out")
    write_json(path, now)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(run(parser.parse_args()))
