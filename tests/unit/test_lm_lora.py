"""Fine-tuning: what is a target, that it learns, that it trains on, and that DSPy sees its failures."""

from __future__ import annotations

import json
import os
import random

import dspy
import pytest
import torch
from lm_fixtures import TEMPLATE, tiny_lm_folder, tiny_tokenizer
from safetensors.torch import load_file

from btlib.errors import BtlibError
from btlib.lm import ForgivingChatAdapter, load_lm
from btlib.lm.chat import Chat
from btlib.lm.lora.train import ALL_LINEAR, EmptyTraining, train_lora
from btlib.lm.lora.trainer import out_of_memory
from btlib.support.paths import data_dir

FAST = {"rank": 4, "alpha": 8, "targets": ("q_proj", "v_proj"), "epochs": 2, "learning_rate": 1e-2, "batch_size": 4}
FAST["dtype"] = "float32"  # on every machine: what is equal up to rounding is so to within a little, in bf16 it is not


def rows(count: int = 8, answer: str = "12") -> list[dict]:
    text = f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]\n"
    return [
        {
            "messages": [
                {"role": "system", "content": "Your input fields are: question."},
                {"role": "user", "content": f"How many apples does Ann have? {i}"},
                {"role": "assistant", "content": text},
            ]
        }
        for i in range(count)
    ]


def chat(template: str = TEMPLATE) -> Chat:
    tokenizer = tiny_tokenizer(template)
    return Chat(tokenizer, frozenset({tokenizer.eos_token_id}))


def pieces(row, tokenizer) -> tuple[list[str], list[str]]:
    """Return the runs of targets and of the rest, as text."""
    runs: list[tuple[bool, list[int]]] = []
    for token, target in zip(row.ids, row.target, strict=True):
        if not runs or runs[-1][0] != target:
            runs.append((target, []))
        runs[-1][1].append(token)
    texts = [(target, tokenizer.decode(ids)) for target, ids in runs]
    return [text for target, text in texts if target], [text for target, text in texts if not target]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_lm_folder(tmp_path_factory.mktemp("lora"))


@pytest.fixture
def lm(folder):
    return load_lm(str(folder), device="cpu", dtype="float32").copy(cache=False, max_tokens=20)


def test_targets_are_what_the_assistant_wrote_token_by_token():
    talk = chat()
    row = talk.training_row(rows(1)[0]["messages"])
    targets, rest = pieces(row, talk.tokenizer)
    assert targets == ["[[ ## answer ## ]]\n12\n\n[[ ## completed ## ]]\n<|end|>"]
    assert rest[0].endswith("Ann have? 0<|end|>\n<|assistant|>\n") and rest[1:] == ["\n"]
    prompt, _ = talk.encode(rows(1)[0]["messages"][:-1])
    assert row.ids[: len(prompt)] == prompt and not any(row.target[: len(prompt)]) and row.target[len(prompt)]


def test_every_assistant_turn_is_a_target():
    talk = chat()
    messages = rows(1)[0]["messages"]
    row = talk.training_row([*messages, {"role": "user", "content": "12"}, {"role": "assistant", "content": "12"}])
    targets, rest = pieces(row, talk.tokenizer)
    assert targets == ["[[ ## answer ## ]]\n12\n\n[[ ## completed ## ]]\n<|end|>", "12<|end|>"]
    assert rest[1] == "\n<|user|>\n12<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize(
    "template",
    [
        # Llama-2's kind: the system text inside the first user turn, contents trimmed, a space before the answer.
        "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% set ms = messages[1:] %}"
        "{% else %}{% set s = '' %}{% set ms = messages %}{% endif %}{% for m in ms %}{% if m['role'] == 'user' %}"
        "<|user|>{% if loop.first %}{{ s }}\n{% endif %}{{ m['content'] | trim }}<|assistant|>"
        "{% else %} {{ m['content'] | trim }}<|end|>{% endif %}{% endfor %}",
        # No space at all between the prompt and the answer, so that letters could melt into one token.
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% else %}\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    ],
)
def test_targets_under_other_templates(template):
    talk = chat(template)
    messages = rows(1)[0]["messages"]
    row = talk.training_row(messages)
    targets, _ = pieces(row, talk.tokenizer)
    assert len(targets) == 1 and targets[0].strip().endswith("[[ ## completed ## ]]\n<|end|>".split("\n")[1])
    assert targets[0].removesuffix("<|end|>").strip() == messages[-1]["content"].strip()
    prompt, _ = talk.encode(messages[:-1])
    assert row.ids[: len(prompt)] == prompt and not any(row.target[: len(prompt)])


def test_training_learns_reports_and_repeats(folder, tmp_path):
    settings = {**FAST, "epochs": 6}
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1).item()
    random.seed(5)
    torch.manual_seed(5)
    seen = []
    data = rows(10)
    report = train_lora(folder, data, tmp_path / "a", seed=1, progress=lambda *step: seen.append(step), **settings)
    assert (random.random(), torch.rand(1).item()) == expected  # the caller's random state is its own
    assert report.rows == 10 and report.steps == 18 and len(report.losses) == 18 and seen[-1] == (18, 18)
    assert report.final_loss < 0.7 * report.losses[0]
    encoded = [chat().training_row(row["messages"]) for row in data]
    assert report.tokens == sum(len(row.ids) for row in encoded)
    assert 0 < report.computed_tokens < report.tokens * settings["epochs"]  # they share a system message
    assert report.target_tokens == sum(sum(row.target) for row in encoded)
    assert sorted(path.name for path in report.path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert str(tmp_path) not in (report.path / "adapter_config.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    again = train_lora(folder, data, tmp_path / "b", seed=1, **settings)
    assert (again.path / "adapter_model.safetensors").read_bytes() == (
        report.path / "adapter_model.safetensors"
    ).read_bytes()
    other = train_lora(folder, data, tmp_path / "c", seed=2, **settings)
    assert other.losses != report.losses


def same_training(one, two) -> bool:
    """Tell whether two trainings did the same up to rounding (fp32): their losses, and what they made of lora_B, which
    begins at zero. As a whole: Adam moves a weight whose gradient is nothing but rounding as far as any other.
    """
    a, b = (load_file(report.path / "adapter_model.safetensors") for report in (one, two))
    a, b = (torch.cat([x[name].flatten() for name in sorted(x) if "lora_B" in name]) for x in (a, b))
    losses = torch.tensor(one.losses), torch.tensor(two.losses)
    return one.steps == two.steps and torch.allclose(*losses, rtol=1e-3) and (a - b).norm() < 1e-2 * a.norm()


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """The adapter of ten rows, in batches of four that are one micro-batch each."""
    return train_lora(folder, rows(10), tmp_path_factory.mktemp("plain") / "adapter", **FAST)


def test_gradient_accumulation_is_the_same_step(folder, plain, tmp_path):
    parts = train_lora(folder, rows(10), tmp_path / "b", **FAST, micro_batch_size=2)
    assert plain.steps == 6 and same_training(plain, parts)
    other = train_lora(folder, rows(9), tmp_path / "c", **FAST)
    assert other.steps == 6 and not same_training(plain, other)


def full_above(monkeypatch, tokens: int, error: Exception, *, in_backward: bool = False) -> list[int]:
    """Make Llama fail on more tokens than this, before its forward or halfway through its backward pass."""
    from transformers import LlamaModel

    seen, forward = [], LlamaModel.forward

    def limited(self, input_ids=None, **kwargs):
        seen.append(input_ids.shape[1])
        if seen[-1] > tokens and not in_backward:
            raise error
        hook = self.layers[1].register_forward_pre_hook(fail_below) if seen[-1] > tokens else None
        try:
            return forward(self, input_ids=input_ids, **kwargs)
        finally:
            if hook:
                hook.remove()

    def fail_below(layer, args):
        args[0].register_hook(fail)

    def fail(gradient):
        raise error

    monkeypatch.setattr(LlamaModel, "forward", limited)
    return seen


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_full_memory_halves_the_micro_batch_and_changes_nothing_else(
    folder, plain, tmp_path, monkeypatch, in_backward
):
    longest = plain.computed_tokens // plain.steps // 2  # less than a whole batch of 4 has
    seen = full_above(monkeypatch, longest, torch.OutOfMemoryError("CUDA out of memory."), in_backward=in_backward)
    halved = train_lora(folder, rows(10), tmp_path / "b", **FAST)
    assert max(seen) > longest and seen.index(max(seen)) == 0 and max(seen[2:]) <= longest
    assert plain.micro_batch_size == 4 and halved.micro_batch_size < 4 and same_training(plain, halved)


def test_a_row_that_does_not_fit_is_one_line_and_no_adapter(folder, tmp_path, monkeypatch):
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried ...")
    full_above(monkeypatch, 10, error)
    with pytest.raises(BtlibError, match="one row of .* tokens at a time; turn gradient_checkpointing on") as caught:
        train_lora(folder, rows(4), tmp_path / "a", **FAST)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.fixture
def threads():
    """Set PyTorch's threads, and set them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.skipif(os.environ.get("MKL_CBWR") != "AVX2,STRICT", reason="MKL is not told to, as import btlib does")
def test_one_thread_or_two_write_the_same_bytes(tmp_path, threads):
    """With the embedded LM: operations of the tiny one are too small to be shared by threads."""
    base, settings = data_dir() / "pocket-lm", {**FAST, "targets": ALL_LINEAR, "epochs": 1}
    data = [row for i in range(8) for row in rows(1, f"{i} apples. " * 6)]
    found = []
    for count in (1, 2):
        threads(count)
        report = train_lora(base, data, tmp_path / str(count), **settings)
        found.append((report.losses, (report.path / "adapter_model.safetensors").read_bytes()))
        assert torch.get_num_threads() == count
    assert found[0] == found[1] and len(found[0][0]) == 2


def test_other_errors_are_not_taken_for_a_full_memory(folder, tmp_path, monkeypatch):
    full_above(monkeypatch, 10, RuntimeError("the shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train_lora(folder, rows(4), tmp_path / "a", **FAST)
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")) and out_of_memory(
        MemoryError()
    )


def test_gradient_checkpointing_trains_the_same_adapter(folder, plain, tmp_path):
    assert same_training(plain, train_lora(folder, rows(10), tmp_path / "b", **FAST, gradient_checkpointing=True))


def test_bf16_trains_nearly_the_same_adapter_which_stays_in_fp32(folder, plain, tmp_path):
    """bf16 has 8 bits: a loss is off by a hundredth or less, however the hardware adds up."""
    short = train_lora(folder, rows(10), tmp_path / "c", **{**FAST, "dtype": "bfloat16"})
    assert torch.allclose(torch.tensor(plain.losses), torch.tensor(short.losses), rtol=0.05)
    assert short.losses != plain.losses
    assert all(t.dtype == torch.float32 for t in load_file(short.path / "adapter_model.safetensors").values())


def test_second_training_starts_where_the_first_ended(folder, tmp_path):
    first = train_lora(folder, rows(), tmp_path / "first", **{**FAST, "epochs": 8})
    second = train_lora(folder, rows(), tmp_path / "second", **FAST, init_adapter=first.path)
    assert second.losses[0] < 0.7 * first.losses[0] and second.losses[0] < first.losses[-1] + 0.5
    frozen = train_lora(folder, rows(), tmp_path / "same", **{**FAST, "learning_rate": 0.0}, init_adapter=first.path)
    before, after = (load_file(report.path / "adapter_model.safetensors") for report in (first, frozen))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_to_train_on_is_an_error_of_its_own(folder, tmp_path):
    with pytest.raises(EmptyTraining, match="0 rows"):
        train_lora(folder, [], tmp_path / "a", **FAST)
    with pytest.raises(EmptyTraining, match="context of 512"):
        train_lora(folder, rows(2, "1 " * 600), tmp_path / "a", **FAST)
    assert not (tmp_path / "a").exists()
    report = train_lora(folder, rows(2) + rows(1, "1 " * 600), tmp_path / "a", **FAST)
    assert report.rows == 2 and report.skipped == 1


def test_unknown_layer_is_named(folder, tmp_path):
    with pytest.raises(BtlibError, match="no layer is named nonsense_proj"):
        train_lora(folder, rows(), tmp_path / "a", **{**FAST, "targets": ("nonsense_proj",)})


def test_finetune_through_dspy_gives_a_tuned_lm(folder, lm, tmp_path):
    settings = {**FAST, "epochs": 12, "targets": ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")}
    tuned = lm.finetune(rows(), "chat", {**settings, "output_dir": tmp_path / "a"}).result()
    assert tuned.engine is lm.engine and tuned.model.startswith(f"{lm.model}+")
    assert tuned.weights_folder == tmp_path / "a" and tuned.training_report.rows == 8
    assert lm.weights_folder is None and lm.training_report is None and lm.failed == "" and lm.server() is None
    loaded = load_lm(str(folder), adapter=tmp_path / "a", device="cpu", dtype="float32")
    assert loaded.model == tuned.model and loaded.weights_folder == tmp_path / "a"
    before = lm.engine.counters()["by_model"].get(tuned.model, 0)
    question = rows(1)[0]["messages"][:-1]
    ask = dspy.lm15.Request(
        model=tuned.model, system=question[0]["content"], messages=(dspy.lm15.Message.user(question[1]["content"]),)
    )
    assert "[[ ## answer ## ]]\n12" in lm.engine.complete(ask).message.text
    assert lm.engine.counters()["by_model"][tuned.model] == before + 1
    again = tuned.finetune(rows(), "chat", {**settings, "output_dir": tmp_path / "b"}).result()
    first, second = tuned.training_report, again.training_report
    assert second.losses[0] < first.losses[0] / 2 and again.model.startswith(f"{lm.model}+") != tuned.model
    afresh = tuned.finetune(rows(), "chat", {**settings, "output_dir": tmp_path / "c", "from_base": True}).result()
    assert afresh.model == tuned.model


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ([], {"output_dir": "a"}, "0 rows"),
        (rows(1), {}, "output_dir"),
        (rows(1), {"output_dir": "a", "ranks": 3}, "unknown training setting 'ranks'; choose from rank"),
    ],
)
def test_a_failed_finetune_is_an_exception_not_an_lm(lm, tmp_path, monkeypatch, data, settings, message):
    monkeypatch.chdir(tmp_path)
    result = lm.finetune(data, "chat", settings or {"rank": 4}).result()
    assert isinstance(result, BtlibError) and message in str(result)
    assert not list(tmp_path.iterdir())


def test_bootstrap_finetune_raises_what_the_provider_raises(lm, tmp_path):
    """DSPy's own optimizer, with a metric that nothing passes."""
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    optimizer = dspy.BootstrapFinetune(
        metric=lambda *_: False, train_kwargs={**FAST, "output_dir": str(tmp_path / "a")}, num_threads=2
    )
    examples = [dspy.Example(question="How many?", answer="12").with_inputs("question")]
    with dspy.context(lm=lm, adapter=ForgivingChatAdapter()), pytest.raises(EmptyTraining, match="0 rows"):
        optimizer.compile(program, trainset=examples)


def test_adapter_folder_is_replaced_whole(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stale.txt").write_text("old")
    report = train_lora(folder, rows(4), tmp_path / "a", **FAST)
    assert not (report.path / "stale.txt").exists()
    assert json.loads((report.path / "adapter_config.json").read_text())["r"] == FAST["rank"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_that_is_really_full_halves_the_micro_batch(tmp_path):
    """Bounded by a fraction of the GPU: a whole batch's activations are too much, a part of them is not."""
    large = tiny_lm_folder(tmp_path, hidden_size=1024, intermediate_size=4096, num_hidden_layers=8)
    long = [answer for i in range(16) for answer in rows(1, f"{i} " * 100)]
    settings = {**FAST, "epochs": 1, "batch_size": 16}
    whole = train_lora(large, long, tmp_path / "a", **settings)
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * peak / torch.cuda.get_device_properties(0).total_memory)
    try:
        halved = train_lora(large, long, tmp_path / "b", **settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halved.micro_batch_size < whole.micro_batch_size == 16
    assert torch.allclose(torch.tensor(halved.losses), torch.tensor(whole.losses), rtol=1e-2)
