"""The presets: the paper's numbers, and what a preset refuses."""

import copy
import dataclasses
import pickle

import pytest

from btlib.errors import BtlibError
from btlib.presets import PRESETS, TASKS, Preset, Split, load_preset


def test_paper_is_appendix_c():
    paper = load_preset("paper")
    assert paper.splits["hotpotqa"] == Split(train=1000, dev=500, test=1500, bootstrap=100, validation=250)
    assert paper.splits["gsm8k"] == Split(train=1000, dev=500, test=1319, bootstrap=100, validation=250)
    assert paper.splits["iris"] == Split(train=50, dev=50, test=50, bootstrap=15, validation=35)
    assert (paper.max_bootstrapped_demos, paper.max_labeled_demos, paper.num_candidate_programs) == (3, 3, 6)
    assert (paper.lora_rank, paper.lora_alpha, paper.lora_dropout) == (32, 64, 0)
    assert paper.lora_targets == ("q_proj", "k_proj")
    assert (paper.epochs, paper.learning_rate, paper.batch_size, paper.bf16) == (5, 1e-5, 8, True)
    assert (paper.temperature, paper.top_p, paper.max_tokens) == (0.1, 0.97, 1024)
    assert (paper.passages_per_hop, paper.num_hops, len(paper.seeds)) == (3, 2, 3)
    assert paper.models == (
        "mistralai/Mistral-7B-Instruct-v0.2",
        "meta-llama/Llama-2-7b-chat-hf",
        "meta-llama/Meta-Llama-3-8B-Instruct",
    )


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
