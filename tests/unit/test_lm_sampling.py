"""Sampling: stateless uniforms, and an inverse CDF over the same nucleus as transformers."""

from __future__ import annotations

import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from btlib.lm.engine.sampling import pick, request_seed, uniform


def test_uniforms_are_spread_and_repeatable():
    numbers = [uniform(seed, position) for seed in range(40) for position in range(50)]
    assert numbers == [uniform(seed, position) for seed in range(40) for position in range(50)]
    assert len(set(numbers)) == 2000 and 0 <= min(numbers) and max(numbers) < 1
    assert all(150 < sum(i / 10 <= n < (i + 1) / 10 for n in numbers) < 250 for i in range(10))


def test_seed_comes_from_prompt_and_seed():
    assert request_seed(None, [1, 2]) == request_seed(None, [1, 2]) != request_seed(None, [12])
    assert len({request_seed(seed, [1, 2]) for seed in (None, 0, 1)}) == 3


def test_temperature_zero_takes_the_largest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert pick(logits, [0.0, 0.0], [1.0, 0.1], [0, 0], [0.9, 0.9]) == [1, 0]


def test_frequencies_are_those_of_the_warped_distribution():
    """Sharp and flat rows (the nucleus fits the short list, or does not), with top_p and top_k, at 4000 numbers from 0
    to 1: a token of chance c is picked at c * 4000 of them, to less than one, and rounding moves no end by a whole one.
    """
    torch.manual_seed(0)
    for scale, top_p, top_k in ((4.0, 0.9, 0), (0.3, 0.97, 0), (0.3, 0.8, 5), (1.0, 1.0, 0)):
        logits = torch.randn(1, 200) * scale
        warped = TopPLogitsWarper(top_p)(None, logits / 0.7) if top_p < 1 else logits / 0.7
        if top_k:
            warped = TopKLogitsWarper(top_k)(None, logits / 0.7)
            warped = warped.masked_fill(~torch.isfinite(TopPLogitsWarper(top_p)(None, logits / 0.7)), float("-inf"))
        wanted = warped.softmax(-1)[0]
        grid = 4000
        uniforms = [(i + 0.5) / grid for i in range(grid)]
        drawn = pick(logits.expand(grid, -1), [0.7] * grid, [top_p] * grid, [top_k] * grid, uniforms)
        share = torch.bincount(torch.tensor(drawn), minlength=200) / grid
        assert (share > 0).logical_not()[wanted == 0].all()
        assert (share - wanted).abs().max() < 2 / grid


def test_a_row_does_not_depend_on_the_others():
    torch.manual_seed(1)
    logits = torch.randn(16, 300)
    uniforms = [i / 16 for i in range(16)]
    together = pick(logits, [0.8] * 16, [0.9] * 16, [0] * 16, uniforms)
    alone = [pick(logits[i : i + 1], [0.8], [0.9], [0], [uniforms[i]])[0] for i in range(16)]
    assert together == alone


def test_rows_with_wide_nuclei_do_not_depend_on_the_others():
    """Forty flat rows among sharp ones, over a vocabulary that is no multiple of any vector's width."""
    logits = torch.randn(100, 1001, generator=torch.Generator().manual_seed(2)) * 0.1
    logits[::5, 7] += 20
    uniforms = [i / 100 for i in range(100)]
    together = pick(logits, [0.8] * 100, [0.97] * 100, [0] * 100, uniforms)
    alone = [pick(logits[i : i + 1], [0.8], [0.97], [0], [uniforms[i]])[0] for i in range(100)]
    assert together == alone and set(together[::5]) == {7} and len(set(together)) > 70


def test_the_last_token_is_one_of_the_vocabulary():
    """The largest uniform number is 1 in fp32, and rows are padded."""
    assert pick(torch.zeros(1, 41), [1.0], [1.0], [0], [1 - 2**-53])[0] < 41
