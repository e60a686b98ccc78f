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
from btlib.presets import PRESETS, Preset, Split, load_preset
from btlib.tasks import default_tasks, preset_for, registry, split_for

TASKS = tuple(registry())

APPENDIX_C = list(csv.DictReader((Path(__file__).parent / "appendix_c.csv").open(encoding="utf-8")))


@pytest.mark.parametrize("fact", APPENDIX_C, ids=lambda fact: fact["setting"])
def test_paper_is_what_the_papers_words_say(fact):
    assert fact["value"] in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", fact["words"].replace("three", "3"))
    paper, name, value = load_preset("paper"), fact["setting"], float(fact["value"])
    large = [split_for(paper, "hotpotqa"), split_for(paper, "gsm8k")]
    if name == "seeds":
        assert len(paper.seeds) == value
    elif name == "hours":
        assert PAPER_HOURS == value
    elif name == "iris.each":
        iris = split_for(paper, "iris")
        assert iris.train == iris.dev == iris.test == value
    elif "." in name:
        task, field = name.split(".")
        assert getattr(split_for(paper, task), field) == value
    elif hasattr(large[0], name):
        assert [getattr(split, name) for split in large] == [value, value]
    else:
        assert {getattr(preset_for(paper, task), name) for task in TASKS} == {value}


def test_paper_has_the_papers_lms_layers_and_precision():
    paper = load_preset("paper")
    assert paper.lora_targets == ("q_proj", "k_proj") and paper.lora_dropout == 0 and paper.dtype == "bfloat16"
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
    assert split_for("laptop", "iris") == split_for("colab", "iris") == split_for("paper", "iris")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_knows_every_task_and_leaves_room_for_a_prompt(name):
    preset = load_preset(name)
    assert preset.name == preset.base == name and not preset.changes
    assert all(split_for(preset, task) for task in TASKS)
    assert set(default_tasks(preset)) == {"hotpotqa", "gsm8k", "iris"} and default_tasks(preset)[0] == "iris"
    assert preset.max_tokens * 2 <= preset.context_length
    assert preset.num_threads >= 32  # a batched engine starves on DSPy's default of 8


def test_laptop_is_the_default():
    assert load_preset().name == "laptop"


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(BtlibError, match="unknown preset 'huge'; choose from smoke, laptop, colab, paper"):
        load_preset("huge")
    with pytest.raises(BtlibError, match="unknown task 'squad'; choose from hotpotqa, gsm8k, iris"):
        split_for("smoke", "squad")
    odd = Preset(name="odd")
    with pytest.raises(BtlibError, match="task iris has no sizes for preset odd; it has smoke, laptop, colab, paper"):
        split_for(odd, "iris")


def test_sizes_of_a_preset_come_before_those_of_a_tasks_file():
    small = Split(train=4, dev=1, test=1, bootstrap=2, validation=2)
    preset = dataclasses.replace(load_preset("laptop"), splits={"iris": small})
    assert split_for(preset, "iris") == small and split_for(preset, "gsm8k") == split_for("laptop", "gsm8k")


def test_a_tasks_own_numbers_hold_unless_they_were_changed_by_hand():
    laptop = load_preset("laptop")
    own, usual = (preset_for(laptop, task).num_candidate_programs for task in ("iris", "gsm8k"))
    assert own != usual == laptop.num_candidate_programs
    for value in (3, usual):  # also a change to what the preset has anyway
        changed = load_preset(laptop, {"num_candidate_programs": value})
        assert preset_for(changed, "iris").num_candidate_programs == value
    replaced = dataclasses.replace(laptop, num_candidate_programs=3)
    assert preset_for(replaced, "iris").num_candidate_programs == 3
    assert preset_for(preset_for(laptop, "iris"), "iris").num_candidate_programs == own


@pytest.mark.parametrize(
    ("changes", "name", "values"),
    [
        ({"epochs": 3}, "epochs=3", {"epochs": 3}),
        ({"epochs": "3"}, "epochs=3", {"epochs": 3}),
        ({"learning_rate": "1e-4", "epochs": 2}, "epochs=2,learning_rate=0.0001", {"learning_rate": 1e-4}),
        ({"learning_rate": 1}, "learning_rate=1", {"learning_rate": 1.0}),
        ({"gradient_checkpointing": "True"}, "gradient_checkpointing=True", {"gradient_checkpointing": True}),
        ({"lora_targets": "q_proj, k_proj"}, "lora_targets=q_proj-k_proj", {"lora_targets": ("q_proj", "k_proj")}),
        ({"lora_targets": ["q_proj"]}, "lora_targets=q_proj", {"lora_targets": ("q_proj",)}),
        ({"seeds": "1 2"}, "seeds=1-2", {"seeds": (1, 2)}),
        ({"dtype": "bfloat16"}, "dtype=bfloat16", {"dtype": "bfloat16"}),
    ],
)
def test_a_changed_preset_has_a_name_of_its_own(changes, name, values):
    changed = load_preset("smoke", changes)
    assert (changed.name, changed.base) == (f"smoke+{name}", "smoke")
    for field, value in values.items():
        assert getattr(changed, field) == value and type(getattr(changed, field)) is type(value)
    unchanged = {f.name for f in dataclasses.fields(Preset)} - {*changes, "name", "changes"}
    assert all(getattr(changed, field) == getattr(PRESETS["smoke"], field) for field in unchanged)
    # What a change is written as makes the same preset again: the grid hands it to notebooks so.
    again = {k: list(v) if isinstance(v, tuple) else v for k, v in changed.changes.items()}
    assert load_preset("smoke", again) == changed == load_preset(changed)


def test_changes_add_up():
    first = load_preset("smoke", {"epochs": 3})
    both = load_preset(first, {"lora_rank": 4})
    assert both == load_preset("smoke", {"lora_rank": 4, "epochs": 3}) and both.name == "smoke+epochs=3,lora_rank=4"
    assert load_preset(first, {}) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; choose from tasks, models, seeds"),
        ({"name": "x"}, "unknown setting 'name'"),
        ({"splits": {}}, "unknown setting 'splits'"),
        ({"epochs": "many"}, "setting epochs takes a whole number, got 'many'"),
        ({"epochs": "2.5"}, "setting epochs takes a whole number, got 2.5"),
        ({"epochs": True}, "setting epochs takes a whole number, got True"),
        ({"epochs": ""}, "setting epochs takes a whole number, got ''"),
        ({"learning_rate": "fast"}, "setting learning_rate takes a number, got 'fast'"),
        ({"gradient_checkpointing": "1"}, "setting gradient_checkpointing takes true or false, got"),
        ({"seeds": "0 x"}, "setting seeds takes whole numbers with commas between, got"),
        ({"dtype": 16}, "setting dtype takes text, got 16"),
        ({"epochs": 0}, r"preset smoke\+epochs=0: epochs must be at least 1, got 0"),
        ({"lora_rank": "-4"}, "lora_rank must be at least 1, got -4"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'; choose from auto, float32, bfloat16"),
        ({"micro_batch_size": 3}, "batch_size 8 is no multiple of micro_batch_size 3"),
    ],
)
def test_a_change_that_makes_no_sense_is_one_line(changes, message):
    with pytest.raises(BtlibError, match=message) as caught:
        load_preset("smoke", changes)
    assert "\n" not in str(caught.value)


def test_places_leave_a_presets_name_as_it_is():
    preset = load_preset("smoke", source="/some/where", retriever="http://host:1/api/search?index=wiki", api_base="x")
    assert preset.name == "smoke" and not preset.changes
    assert (preset.source, preset.retriever) == ("/some/where", "http://host:1/api/search?index=wiki")


def test_a_split_that_does_not_fit_is_refused():
    with pytest.raises(BtlibError, match="do not fit in train 50"):
        Split(train=50, dev=50, test=50, bootstrap=20, validation=35)
    with pytest.raises(BtlibError, match="at least 1"):
        Split(train=50, dev=0, test=50, bootstrap=15, validation=35)


def test_a_batch_that_cannot_be_accumulated_is_refused():
    with pytest.raises(BtlibError, match="no multiple"):
        Preset(name="odd", batch_size=8, micro_batch_size=3)


def test_a_preset_is_frozen_and_copies():
    preset = load_preset("smoke", {"lora_rank": 4})
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.epochs = 9
    with pytest.raises(TypeError):
        preset.changes["epochs"] = 9
    assert copy.deepcopy(preset) == pickle.loads(pickle.dumps(preset)) == preset and hash(preset) == hash(preset.name)
    assert dataclasses.replace(preset, epochs=9).epochs == 9
