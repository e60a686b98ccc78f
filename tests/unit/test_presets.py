"""The presets: the paper's numbers, and what a preset refuses."""

import copy
import csv
import dataclasses
import pickle
import re
from pathlib import Path

import pytest

from btlib.errors import BtlibError
from btlib.grid.estimate import ASSUMED, PAPER_HOURS, total
from btlib.grid.plan import plan
from btlib.lm.known import known
from btlib.presets import PRESETS, TASKS, Preset, Split, load_preset

APPENDIX_C = list(csv.DictReader((Path(__file__).parent / "appendix_c.csv").open(encoding="utf-8")))


@pytest.mark.parametrize("fact", APPENDIX_C, ids=lambda fact: fact["setting"])
def test_paper_is_what_the_papers_words_say(fact):
    assert fact["value"] in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", fact["words"].replace("three", "3"))
    paper, name, value = load_preset("paper"), fact["setting"], float(fact["value"])
    large = [paper.splits["hotpotqa"], paper.splits["gsm8k"]]
    if name == "seeds":
        assert len(paper.seeds) == value
    elif name == "hours":
        assert PAPER_HOURS == value
    elif name == "iris.each":
        iris = paper.splits["iris"]
        assert iris.train == iris.dev == iris.test == value
    elif "." in name:
        task, field = name.split(".")
        assert getattr(paper.splits[task], field) == value
    elif hasattr(large[0], name):
        assert [getattr(split, name) for split in large] == [value, value]
    else:
        assert getattr(paper, name) == value


def test_paper_has_the_papers_lms_layers_and_precision():
    paper = load_preset("paper")
    assert paper.lora_targets == ("q_proj", "k_proj") and paper.lora_dropout == 0 and paper.bf16
    assert paper.models == (
        "mistralai/Mistral-7B-Instruct-v0.2",
        "meta-llama/Llama-2-7b-chat-hf",
        "meta-llama/Meta-Llama-3-8B-Instruct",
    )
    # The context holds prompt and answer, and is no longer than the shortest of the three LMs has.
    assert paper.context_length == min(known(name).shape.context for name in paper.models)


def test_micro_batches_accumulate_to_the_papers_batch():
    for preset in PRESETS.values():
        assert preset.batch_size == 8 and preset.batch_size % preset.micro_batch_size == 0


def test_every_presets_lms_are_known():
    assert all(known(name) for preset in PRESETS.values() for name in preset.models)
    assert PRESETS["colab"].models == ("Qwen/Qwen3-0.6B",)


def test_an_evening_on_colab_is_what_the_estimate_says():
    preset = PRESETS["colab"]
    assert total(plan(preset)).hours(ASSUMED["colab"]) < 5
    # The weights twice (training works on a copy), and every thread's request of 1,024 tokens, in fp32.
    shape = known(preset.models[0]).shape
    assert 2 * (shape.inference_bytes(preset.num_threads * 1024) + 2 * shape.weights) < 16e9


def test_iris_keeps_the_papers_split_on_a_laptop_and_on_colab():
    assert PRESETS["laptop"].splits["iris"] == PRESETS["colab"].splits["iris"] == PRESETS["paper"].splits["iris"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_knows_every_task_and_leaves_room_for_a_prompt(name):
    preset = load_preset(name)
    assert preset.name == name
    assert set(preset.splits) == set(preset.tasks) == set(TASKS)
    assert preset.max_tokens * 2 <= preset.context_length
    assert preset.num_threads >= 32  # a batched engine starves on DSPy's default of 8


def test_laptop_is_the_default():
    assert load_preset().name == "laptop"


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(BtlibError, match="unknown preset 'huge'; choose from smoke, laptop, colab, paper"):
        load_preset("huge")
    with pytest.raises(BtlibError, match="unknown task 'squad'; choose from iris, gsm8k, hotpotqa"):
        load_preset("smoke").split("squad")


def test_candidates_are_one_number_or_one_for_each_task():
    assert {load_preset("paper").candidates(task) for task in TASKS} == {6}
    each = Preset(name="each", splits={}, num_candidate_programs={"iris": 12, "gsm8k": 6})
    assert [each.candidates("iris"), each.candidates("gsm8k")] == [12, 6]
    assert dataclasses.replace(each, num_candidate_programs=1).candidates("iris") == 1
    assert pickle.loads(pickle.dumps(each)) == each
    with pytest.raises(BtlibError, match="unknown task 'hotpotqa'; choose from iris, gsm8k"):
        each.candidates("hotpotqa")


def test_a_split_that_does_not_fit_is_refused():
    with pytest.raises(BtlibError, match="do not fit in train 50"):
        Split(train=50, dev=50, test=50, bootstrap=20, validation=35)
    with pytest.raises(BtlibError, match="at least 1"):
        Split(train=50, dev=0, test=50, bootstrap=15, validation=35)


def test_a_batch_that_cannot_be_accumulated_is_refused():
    with pytest.raises(BtlibError, match="no multiple"):
        Preset(name="odd", splits={}, batch_size=8, micro_batch_size=3)


def test_a_preset_is_frozen_and_copies():
    preset = load_preset("smoke")
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.epochs = 9
    with pytest.raises(TypeError):
        preset.splits["iris"] = None
    assert copy.deepcopy(preset) == pickle.loads(pickle.dumps(preset)) == preset
    assert dataclasses.replace(preset, epochs=9).epochs == 9
