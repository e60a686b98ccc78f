"""Names of LMs, what their folders must hold, and ids that change with the content."""

from __future__ import annotations

import shutil

import pytest
import torch
from lm_fixtures import random_adapter, tiny_lm_folder
from safetensors.torch import load_file, save_file

from btlib.errors import BtlibError
from btlib.lm import load_lm
from btlib.lm.checkpoint import adapter_hash, check, find
from btlib.presets import load_preset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_lm_folder(tmp_path_factory.mktemp("registry"))


def test_unknown_name_lists_the_choices(tmp_path):
    with pytest.raises(BtlibError, match="unknown LM 'nonsense'; choose from pocket, .*a folder") as error:
        load_lm("nonsense")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("missing", "what"),
    [("config.json", "configuration"), ("tokenizer.json", "tokenizer"), ("model.safetensors", "safetensors")],
)
def test_incomplete_folder_names_what_is_missing(folder, tmp_path, missing, what):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / missing).unlink()
    with pytest.raises(BtlibError, match=f"has no {what}"):
        find(str(broken))


def test_pickled_weights_are_not_loaded(folder, tmp_path):
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(BtlibError, match="safetensors"):
        load_lm(str(pickled))


def test_id_names_the_content_not_the_place(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "tiny")
    same, other = check("tiny", folder).model_id(torch.float32), check("tiny", moved)
    assert other.model_id(torch.float32) == same != other.model_id(torch.bfloat16)
    name, digest = same.split("@")
    assert name == "tiny" and len(digest) == 8 and int(digest, 16) >= 0
    weights = load_file(moved / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert other.model_id(torch.float32) != same


def test_adapter_is_part_of_the_id(folder, tmp_path):
    a, b = (random_adapter(folder, tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    copied = shutil.copytree(a, tmp_path / "copied")
    assert adapter_hash(a) == adapter_hash(copied) != adapter_hash(b)
    base = load_lm(str(folder), device="cpu", dtype="float32")
    lm = load_lm(str(folder), adapter=a, device="cpu", dtype="float32")
    assert lm.model == f"{base.model}+{adapter_hash(a)}"
    assert lm.engine is base.engine and lm.engine.adapter_path(lm.model) == a
    assert lm.engine.adapter_path(base.model) is None
    assert lm("How many?") != base("How many?")
    with pytest.raises(BtlibError, match=r"adapter_model\.safetensors"):
        load_lm(str(folder), adapter=tmp_path, device="cpu", dtype="float32")


def test_preset_gives_sampling_and_context(folder):
    preset = load_preset("laptop")
    lm = load_lm(str(folder), preset, device="cpu", dtype="float32", slots=5)
    assert lm.kwargs["temperature"] == preset.temperature and lm.kwargs["top_p"] == preset.top_p
    assert lm.kwargs["max_tokens"] == preset.max_tokens
    assert lm.engine.context == min(preset.context_length, 512) and lm.engine.scheduler.slots == 5
