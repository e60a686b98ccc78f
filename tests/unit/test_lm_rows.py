"""Packed rows: the same losses and gradients as the rows one by one, from fewer tokens."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from lm_fixtures import tiny_lm_folder
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from btlib.errors import BtlibError
from btlib.lm.chat import Row
from btlib.lm.lora.packing import NAME, Pack, _attention, share


def row(beginning: list[int], own: int, targets: int, draw: random.Random, after: int = 1) -> Row:
    """A row that starts with `beginning`, goes on with `own` tokens, has targets, and ends with one that is none."""
    ids = beginning + [draw.randrange(5, 300) for _ in range(own + targets + after)]
    return Row(ids, [False] * (len(beginning) + own) + [True] * targets + [False] * after)


def two_modules(draw: random.Random) -> list[Row]:
    """Seven rows of two modules with system messages of 40 and 30 tokens, and one by itself, shuffled."""
    first, second = ([draw.randrange(5, 300) for _ in range(n)] for n in (40, 30))
    found = [row(first, own, 6, draw) for own in (3, 9, 9, 20)] + [row(second, own, 4, draw) for own in (5, 5, 5)]
    found.append(row([], 25, 3, draw))
    draw.shuffle(found)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_lm_folder(tmp_path_factory.mktemp("rows"), initializer_range=0.1)


def model(folder, attention: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
        tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"]))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
    return tuned


def one_by_one(reference, rows: list[Row]) -> torch.Tensor:
    """The sum of the targets' losses as Hugging Face computes them, one row at a time."""
    loss = torch.zeros(())
    for each in rows:
        ids, target = torch.tensor(each.ids), torch.tensor(each.target)
        logits = reference(input_ids=ids[None]).logits[0]
        loss = loss + F.cross_entropy(logits[:-1], ids[1:].where(target[1:], -100), reduction="sum")
    return loss


def gradients(tuned) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in tuned.parameters() if p.grad is not None])


@pytest.mark.parametrize("shared", [True, False])
def test_losses_and_gradients_are_those_of_the_rows_one_by_one(folder, shared):
    rows = two_modules(random.Random(0))
    packed, reference = model(folder, NAME), model(folder, "eager")
    pack = Pack(rows, shared=shared)
    loss, wanted = pack.loss(packed), one_by_one(reference, rows)
    loss.backward()
    wanted.backward()
    got, wanted_gradients = gradients(packed), gradients(reference)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)  # a sum of positive numbers
    assert torch.allclose(got, wanted_gradients, rtol=0, atol=1e-4 * wanted_gradients.abs().max().item())


def test_every_target_is_predicted_once_from_the_token_before_it():
    rows = two_modules(random.Random(1))
    pack = Pack(rows)
    wanted = sorted(
        (each.ids[t - 1], t - 1, each.ids[t]) for each in rows for t, target in enumerate(each.target) if target
    )
    ids, positions = pack.ids[0][pack.keep], pack.positions[0][pack.keep]
    assert sorted(zip(ids.tolist(), positions.tolist(), pack.labels.tolist(), strict=True)) == wanted


def test_shared_beginnings_are_computed_once():
    rows = two_modules(random.Random(2))
    groups = share(rows)
    assert sorted((len(members), beginning) for members, beginning in groups) == [(1, 0), (3, 30), (4, 40)]
    fed = sum(len(each.ids) - 2 for each in rows)  # neither the last target nor what comes behind it
    assert len(Pack(rows, shared=False)) == fed
    assert len(Pack(rows)) == fed - 3 * 40 - 2 * 30


def test_a_beginning_ends_before_the_first_prediction():
    draw = random.Random(3)
    prompt = [draw.randrange(5, 300) for _ in range(30)]
    same = [Row(prompt + [7, 8], [False] * 30 + [True, True])] * 3
    assert share(same) == [(same, 29)]
    pack = Pack(same)
    assert len(pack) == 29 + 3 * 2 and pack.labels.tolist() == [7, 8] * 3
    few = [Row(prompt[:10] + [i, 8], [False] * 11 + [True]) for i in range(3)]
    assert [beginning for _, beginning in share(few)] == [0, 0, 0]  # ten tokens are not worth it


def test_a_row_beyond_the_sliding_window_is_refused():
    pack = Pack([row([], 30, 2, random.Random(0))])
    q = torch.randn(1, 2, len(pack), 8)
    assert _attention(None, q, q, q, None, btlib_pack=pack, sliding_window=64)[0].shape == (1, len(pack), 2, 8)
    with pytest.raises(BtlibError, match="longer than the LM's sliding window"):
        _attention(None, q, q, q, None, btlib_pack=pack, sliding_window=16)
