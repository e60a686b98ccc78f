"""The Muon optimizer on CPUs: torch.optim.Muon's update, equal shapes in one product, the work shared by processes.

`torch.optim.Muon` multiplies in bf16 whatever the hardware, which is slow on a CPU without bf16 instructions. Momentum
0.95 with Nesterov, five Newton-Schulz iterations, as there.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from btlib.lm.checkpoint import best_dtype

COEFFICIENTS, ITERATIONS, MOMENTUM = (3.4445, -4.7750, 2.0315), 5, 0.95


def orthogonalize(stack: torch.Tensor) -> torch.Tensor:
    """Bring every singular value of a stack of matrices (count, rows, columns), rows <= columns, near 1."""
    a, b, c = COEFFICIENTS
    x = stack.to(best_dtype(stack.device))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(stack.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for matrices. With several processes, whose gradients must be equal, each computes its share of updates."""

    def __init__(self, params, lr: float, rank: int = 0, ranks: int = 1):
        super().__init__(params, {"lr": lr})
        self.rank, self.ranks = rank, ranks

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            shapes: dict[tuple, list] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - MOMENTUM)
                update = p.grad.lerp(momentum, MOMENTUM)
                tall = p.shape[0] > p.shape[1]
                update = update.mT if tall else update
                shapes.setdefault(tuple(update.shape), []).append((p, update, tall))
            for rows in shapes.values():
                stack = torch.stack([update for _, update, _ in rows])
                mine = orthogonalize(stack[self.rank :: self.ranks])
                if self.ranks > 1:
                    stack.zero_()
                    stack[self.rank :: self.ranks] = mine
                    dist.all_reduce(stack)
                    mine = stack
                for (p, _, tall), update in zip(rows, mine, strict=True):
                    scale = max(1, p.shape[0] / p.shape[1]) ** 0.5
                    p.add_(update.mT if tall else update, alpha=-group["lr"] * scale)
