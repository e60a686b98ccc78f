"""The steps of the paper on random-weight LMs of every known architecture, with chat templates of their kinds."""

from __future__ import annotations

import dspy
import pytest
import torch
from safetensors.torch import load_file
from standins import STAND_INS, stand_in_folder, stand_in_tokenizer
from transformers import AutoModelForCausalLM

from btlib.errors import BtlibError
from btlib.lm import ForgivingChatAdapter, load_lm
from btlib.lm.chat import Chat
from btlib.lm.known import KNOWN, Shape
from btlib.presets import Preset, Split
from btlib.steps import STEPS, vanilla_state
from btlib.tasks import Task
from btlib.tasks.gsm8k import CoTProgram

FAST = "mistral-7b"  # one of the paper's, and the one whose template refuses what DSPy sends
NAMES = [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in STAND_INS]
SYSTEM, QUESTION, ANSWER = "Your input fields are:", "[[ ## question ## ]]\nHow many?", "[[ ## answer ## ]]\n12\n\nend"
TALK = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": "Once more."},
    {"role": "assistant", "content": "13"},
]
PRESET = Preset(
    name="stand-in",
    dtype="float32",
    splits={"gsm8k": Split(train=6, dev=1, test=2, bootstrap=3, validation=3)},
    max_bootstrapped_demos=1,
    max_labeled_demos=2,
    num_candidate_programs=1,
    max_tokens=10,
    lora_rank=4,
    lora_alpha=8,
    epochs=1,
    learning_rate=1e-2,
    batch_size=2,
    micro_batch_size=2,
    num_threads=4,
)


def chat(name: str) -> Chat:
    tokenizer = stand_in_tokenizer(name)
    return Chat(tokenizer, frozenset(tokenizer.convert_tokens_to_ids(list(STAND_INS[name].ends))))


def test_every_known_lm_of_another_kind_has_a_stand_in():
    like = {"qwen2.5-0.5b", "smollm2-135m"}  # SmolLM2 of another size, and a ChatML template like its own
    assert {entry.name for entry in KNOWN if entry.repository} - like == set(STAND_INS)


@pytest.mark.parametrize("name", STAND_INS)
def test_prompts_hold_the_system_message_and_training_rows_begin_with_them(name):
    talk = chat(name)
    text = talk.render(TALK[:4], generate=True)
    assert text.count(SYSTEM) == 1 and QUESTION in text and ANSWER in text
    prompt, shared = talk.encode(TALK[:2])
    row = talk.training_row(TALK[:3])
    assert row.ids[: len(prompt)] == prompt and not any(row.target[: len(prompt)]) and 0 < shared < len(prompt)
    # Everything from the prompt's end to the token that ends the answer is learnt, the space before it too.
    learnt = row.ids[len(prompt) : len(prompt) + sum(row.target)]
    assert all(row.target[len(prompt) : len(prompt) + len(learnt)])
    assert learnt[-1] in talk.eos_ids and talk.decode(learnt).strip() == ANSWER


@pytest.mark.parametrize("name", STAND_INS)
def test_every_answer_of_a_conversation_is_learnt_with_its_end(name):
    talk = chat(name)
    row = talk.training_row(TALK)
    learnt = [token for token, target in zip(row.ids, row.target, strict=True) if target]
    ends = [i for i, token in enumerate(learnt) if token in talk.eos_ids]
    assert len(ends) == 2 and ends[1] == len(learnt) - 1
    parts = learnt[: ends[0]], learnt[ends[0] + 1 : ends[1]]
    assert [talk.decode(part).strip() for part in parts] == [ANSWER, "13"]


def test_a_system_message_that_is_refused_goes_before_the_first_question_and_bad_turns_are_one_line():
    talk = chat("mistral-7b")
    assert not talk.takes_system
    assert talk.render(TALK[:2]) == f"<s>[INST] {SYSTEM}\n\n{QUESTION} [/INST]"
    assert talk.render([TALK[0]]) == f"<s>[INST] {SYSTEM} [/INST]"
    with pytest.raises(BtlibError, match="refuses this: Roles must alternate"):
        talk.render([TALK[1], TALK[1]])
    assert all(chat(name).takes_system for name in STAND_INS if name != "mistral-7b")


def test_thinking_is_off_and_the_date_stands_still():
    assert chat("qwen3-0.6b").render(TALK[:2], generate=True).endswith("assistant\n<think>\n\n</think>\n\n")
    assert "Today Date: 26 Jul 2024\n" in chat("llama-3.2-1b").render(TALK[:2])


def test_a_sliding_window_is_refused_in_one_line(tmp_path):
    folder = stand_in_folder(tmp_path, "mistral-7b", sliding_window=64)
    with pytest.raises(BtlibError, match="sliding window of 64 tokens.*such as Mistral 7B v0.2") as error:
        load_lm(str(folder), device="cpu", dtype="float32")
    assert "\n" not in str(error.value)


class WholeAnswer(ForgivingChatAdapter):
    """Takes any text for every field: a random LM never writes a field's header."""

    def parse(self, signature, completion):
        return dict.fromkeys(signature.output_fields, " ".join(completion.split()) or "nothing")


@pytest.mark.parametrize("name", NAMES)
def test_prompts_weights_and_both_on_a_stand_in(name, tmp_path, monkeypatch):
    monkeypatch.setattr("btlib.steps.evaluation.ForgivingChatAdapter", WholeAnswer)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    folder = stand_in_folder(tmp_path, name)
    reference = AutoModelForCausalLM.from_pretrained(folder)
    assert Shape.of_folder(folder).weights == sum(p.numel() for p in reference.parameters())
    lm = load_lm(str(folder), PRESET, device="cpu", dtype="float32")

    ids, _ = lm.engine.chat.encode(TALK[:2])
    new = reference.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
    own = lm.copy(cache=False, temperature=0.0, max_tokens=8)(messages=TALK[:2])[0]
    assert own.strip() == lm.engine.chat.decode(new).strip()

    examples = [dspy.Example(id=str(i), question=f"{i} + 1 = ?", answer=str(i + 1)) for i in range(8)]
    examples = tuple(example.with_inputs("question") for example in examples)
    unlucky = examples[0].question

    def metric(example, pred, trace=None) -> bool:
        return bool(pred.answer) and example.question != unlucky

    task = Task("gsm8k", "mini", CoTProgram, examples[:6], examples[6:7], examples[6:], metric)
    vanilla = vanilla_state(task, lm)
    p, p_record = STEPS["p"].run(vanilla, task, PRESET, tmp_path / "p")
    pw, pw_record = STEPS["w"].run(p, task, PRESET, tmp_path / "pw")
    pwp, pwp_record = STEPS["p"].run(pw, task, PRESET, tmp_path / "pwp")
    w, w_record = STEPS["w"].run(vanilla, task, PRESET, tmp_path / "w")
    demos = [len(state.program.predictors()[0].demos) for state in (vanilla, p, pw, pwp, w)]
    assert demos[0] == demos[2] == demos[4] == 0 and len(p_record.validation_scores) == 4
    assert vanilla.lm.model == p.lm.model == lm.model
    for tuned, record, where in ((pw, pw_record, "pw"), (w, w_record, "w")):
        assert tuned.lm.model.startswith(f"{lm.model}+")
        assert (record.kept, record.total, record.training_rows) == (5, 6, 5)
        weights = load_file(tmp_path / where / "adapter" / "adapter_model.safetensors")
        assert any(tensor.abs().sum() > 0 for key, tensor in weights.items() if "lora_B" in key)
    # The last search ran on the tuned weights, and on no others.
    assert pwp.lm.model == pw.lm.model and pwp_record.lm_calls > 0
    calls = lm.engine.counters()["by_model"]
    assert calls[pw.lm.model] >= pwp_record.lm_calls
