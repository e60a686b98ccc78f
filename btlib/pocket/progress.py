"""What a pre-training shows while it runs: a log of JSON lines, a bar or plain lines, and the loss as a figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tqdm import tqdm

_bars: list[tqdm] = []


def report(out: Path, state: dict, mean: float, tokens: float, rate: float) -> None:
    """Append step, tokens, loss (nats a target token), seconds and rate to log.jsonl; move the bar or print a line."""
    line = {"step": state["step"], "tokens": state["tokens"], "loss": round(mean, 4)}
    line |= {"seconds": round(state["seconds"], 1), "rate": round(rate, 4)}
    with open(out / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")
    if sys.stderr.isatty():
        if not _bars:
            _bars.append(tqdm(total=int(tokens), initial=state["tokens"], unit=" tokens", unit_scale=True))
        _bars[0].update(state["tokens"] - _bars[0].n)
        _bars[0].set_postfix(loss=f"{mean:.3f}")
        return
    speed = state["tokens"] / max(state["seconds"], 1e-9)
    print(
        f"step {state['step']}  {state['tokens'] / 1e6:.2f}M of {tokens / 1e6:.0f}M tokens  loss {mean:.3f}"
        f"  {speed:.0f} tokens/s  {(tokens - state['tokens']) / speed / 60:.0f} min left",
        flush=True,
    )


def rewind(out: Path, step: int) -> None:
    """Drop the log's lines after `step`: what a stopped run did after its last checkpoint is done again."""
    log = out / "log.jsonl"
    if log.exists():
        kept = [line for line in log.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
        log.with_suffix(".tmp").write_text("".join(kept))
        log.with_suffix(".tmp").replace(log)


def close() -> None:
    """End the bar, if there is one."""
    while _bars:
        _bars.pop().close()


def loss_figure(folder: Path) -> Path:
    """Draw log.jsonl's loss against tokens seen to loss.png; returns the picture's path."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    axes = Figure(figsize=(6, 3.2), layout="constrained").subplots()
    axes.plot([e["tokens"] / 1e6 for e in lines], [e["loss"] for e in lines], linewidth=1)
    axes.set(xlabel="tokens seen (millions)", ylabel="loss (nats per target token)", yscale="log")
    axes.set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)
    axes.figure.savefig(folder / "loss.png", dpi=110)
    return folder / "loss.png"
