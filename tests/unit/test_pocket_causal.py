"""The attention of training is PyTorch's own, in blocks."""

import pytest
import torch
import torch.nn.functional as F

from btlib.pocket import causal
from btlib.pocket.model import make_model


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of queries, the last one cut short, and several of heads."""
    monkeypatch.setattr(causal, "QUERIES", 16)
    monkeypatch.setattr(causal, "SCORES", 16 * 40 * 4)


@pytest.mark.parametrize("n", [40, 32, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_pytorchs(small_blocks, n, dtype):
    """n positions, and half as many heads for keys and values as for queries."""
    generator = torch.Generator().manual_seed(n)
    shapes = ((3, 6, n, 8), (3, 3, n, 8), (3, 3, n, 8))
    values = [torch.randn(shape, generator=generator).bfloat16().float() for shape in shapes]
    wanted, got = ([x.to(d).detach().requires_grad_() for x in values] for d in (torch.float32, dtype))
    theirs = F.scaled_dot_product_attention(*wanted, is_causal=True, scale=0.4, enable_gqa=True)
    ours = causal.causal_attention(*got, 0.4)
    grad = torch.randn(theirs.shape, generator=generator).bfloat16().float()
    theirs.backward(grad)
    ours.backward(grad.to(dtype))
    share = 1e-5 if dtype == torch.float32 else 0.02
    for a, b in zip((theirs, *(x.grad for x in wanted)), (ours, *(x.grad for x in got)), strict=True):
        assert b.dtype == dtype and torch.allclose(a, b.float(), rtol=0, atol=share * a.abs().max().item())


@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_trains_as_with_pytorchs_attention(small_blocks, bf16):
    ids = torch.randint(0, 64, (3, 40), generator=torch.Generator().manual_seed(0))
    found = []
    for name in ("sdpa", causal.NAME):
        torch.manual_seed(0)
        model = make_model("pocket-s", 64, name)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        found.append([out.loss, *(p.grad for p in model.parameters())])
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=(0.05 if bf16 else 1e-4) * theirs.abs().max().item())
