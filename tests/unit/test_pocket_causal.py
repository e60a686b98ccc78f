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
    """n positions, and half as many heads for keys and values as for queries.

    Queries, keys, values and the gradient that comes in are of order 1, so what comes out is rounded on that scale at
    least, also where it is 0 in theory: with one position, scores have no gradient.
    """
    generator = torch.Generator().manual_seed(n)
    shapes = ((3, 6, n, 8), (3, 3, n, 8), (3, 3, n, 8))
    values = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    wanted, got = ([x.to(d).detach().requires_grad_() for x in values] for d in (torch.float64, dtype))
    theirs = F.scaled_dot_product_attention(*wanted, is_causal=True, scale=0.4, enable_gqa=True)
    ours = causal.causal_attention(*got, 0.4)
    grad = torch.randn(theirs.shape, generator=generator).bfloat16()
    theirs.backward(grad.double())
    ours.backward(grad.to(dtype))
    share = 1e-5 if dtype == torch.float32 else 0.02
    for a, b in zip((theirs, *(x.grad for x in wanted)), (ours, *(x.grad for x in got)), strict=True):
        assert b.dtype == dtype
        assert torch.allclose(a, b.double(), rtol=0, atol=share * max(1.0, a.abs().max().item()))


def trained(attention: str, dtype: torch.dtype, bf16: bool = False) -> list[torch.Tensor]:
    """The loss of a small LM and the gradients of its weights, in float64."""
    ids = torch.randint(0, 64, (3, 40), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = make_model("pocket-s", 64, attention).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    return [each.detach().double() for each in (out.loss, *(p.grad for p in model.parameters()))]


def test_a_model_trains_as_with_pytorchs_attention(small_blocks):
    for exact, ours in zip(trained("sdpa", torch.float64), trained(causal.NAME, torch.float32), strict=True):
        assert (ours - exact).norm() < 1e-4 * exact.norm()


def test_in_bf16_a_model_trains_as_exactly_as_with_pytorchs_attention(small_blocks):
    found = trained("sdpa", torch.float64), *(trained(name, torch.float32, True) for name in ("sdpa", causal.NAME))
    for exact, theirs, ours in zip(*found, strict=True):
        assert (ours - exact).norm() < 2 * (theirs - exact).norm() + 0.01 * exact.norm() < 0.2 * exact.norm()
