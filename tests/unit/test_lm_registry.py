"""Names of LMs, what their folders must hold, and ids that change with the content."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from lm_fixtures import random_adapter, tiny_lm_folder
from safetensors.torch import load_file, save_file

from btlib.errors import BtlibError
from btlib.lm import load_lm
from btlib.lm.checkpoint import adapter_hash, check, find
from btlib.lm.known import KNOWN, Shape, canonical, known, on_hub, shape_of
from btlib.presets import PRESETS, load_preset
from btlib.support.paths import data_dir


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


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"quantization": {"group_size": 64, "bits": 4}}, ""),  # MLX
    ],
)
def test_quantized_weights_are_refused_before_anything_runs(folder, tmp_path, more, kind):
    quantized = shutil.copytree(folder, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps(config | more))
    with pytest.raises(BtlibError, match=rf"are quantized{f' .{kind}.' if kind else ''}, which btlib neither") as error:
        find(str(quantized))
    assert "\n" not in str(error.value)
    (quantized / "config.json").write_text(json.dumps(config | {"quantization_config": None}))
    assert find(str(quantized)).folder == quantized
    (quantized / "quantize_config.json").write_text('{"bits": 4}')  # of older GPTQ checkpoints
    with pytest.raises(BtlibError, match="are quantized, which"):
        find(str(quantized))


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


SIZES = {  # as their publishers give them
    "mistral-7b": 7_241_732_096,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "smollm2-360m": 361_821_120,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5-0.5b": 494_032_768,
    "smollm2-135m": 134_515_008,
}


def test_known_lms_have_the_weights_that_their_publishers_count():
    assert {entry.name: entry.shape.weights for entry in KNOWN if entry.shape} == SIZES
    assert Shape.of_folder(data_dir() / "pocket-lm") == known("pocket").size


def test_short_and_full_names_are_one_lm():
    for entry in KNOWN:
        for name in {entry.name, entry.repository or entry.name, (entry.repository or entry.name).lower()}:
            assert known(name) is entry and canonical(name) == (entry.repository or entry.name)
    assert canonical("openai/some") == "openai/some" and known("./folder") is None


def test_shapes_of_folders_count_weights_as_transformers_does(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = Shape.of_folder(folder)
    assert shape.weights == sum(p.numel() for p in model.parameters())
    assert shape_of(str(folder)) == shape and shape_of("nowhere") is None


@pytest.mark.parametrize("targets", [("q_proj", "k_proj"), PRESETS["laptop"].lora_targets])
def test_training_memory_is_what_pytorch_keeps_for_the_way_back(targets):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = Shape(256, 256, 512, 3, 4, 2, 64, 512)
    config = LlamaConfig(
        vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=list(targets), task_type="CAUSAL_LM")).train()
    assert sum(p.numel() for p in model.parameters()) == shape.weights + shape.lora_weights(4, targets)
    own, kept, tokens = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}, 128

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # held, so that no address comes twice
        return tensor

    ids = torch.randint(0, 256, (1, tokens))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=ids, labels=ids)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens
    assert measured == pytest.approx(shape.activation_bytes(targets) + 4 * 256, rel=0.15)


def hub_that_raises(monkeypatch, kind):
    import httpx
    import huggingface_hub

    def download(repository, **_):
        if issubclass(kind, huggingface_hub.errors.HfHubHTTPError):
            answer = httpx.Response(401, request=httpx.Request("GET", "https://example.invalid"))
            raise kind("401 Client Error\nmore lines", response=answer)
        raise kind("Got: ConnectError\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (
            "GatedRepoError",
            "is gated; accept its terms at https://huggingface.co/meta-llama/Llama-2-7b-chat-hf, then run",
        ),
        ("RepositoryNotFoundError", "shows no LM meta-llama/Llama-2-7b-chat-hf; check the name"),
        (
            "LocalEntryNotFoundError",
            "out of reach; run `hf download meta-llama/Llama-2-7b-chat-hf` where there is a net",
        ),
        ("OfflineModeIsEnabled", "out of reach; .*it is gated: accept its terms"),
    ],
)
def test_an_lm_that_cannot_be_fetched_is_one_line_that_says_how_to_get_it(monkeypatch, kind, says):
    import huggingface_hub.errors

    hub_that_raises(monkeypatch, getattr(huggingface_hub.errors, kind))
    for name in ("llama-2-7b", "meta-llama/Llama-2-7b-chat-hf"):
        with pytest.raises(BtlibError, match=says) as error:
            load_lm(name)
        assert "\n" not in str(error.value)


def test_an_lm_of_the_data_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_DATA", str(tmp_path))
    for name in ("pocket-s", "pocket-l"):
        with pytest.raises(BtlibError, match=f"{name} is not in this copy: no folder .*{name}-lm; use pocket"):
            find(name)


def test_a_fetch_that_was_broken_off_is_told_from_a_whole_one(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (part / "model.safetensors").rename(part / weights["a"])
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(BtlibError, match="lacks 1 of 2 files of weights"):
        find(str(part))


def test_what_comes_from_the_hub_is_known_by_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    assert on_hub("qwen3-0.6b") and on_hub("Qwen/Qwen3-0.6B") and on_hub("somebody/some-lm")
    assert not on_hub("pocket") and not on_hub(f"{folder.parent.name}/{folder.name}") and not on_hub(str(folder))


def test_the_listing_has_every_lm_with_memory_and_licence(capsys):
    from btlib.doctor import models

    assert models() == 0
    out = capsys.readouterr().out
    assert all(entry.name in out and entry.licence in out for entry in KNOWN)
    assert "7,242 M" in out and "(gated)" in out and "not measured" in out
