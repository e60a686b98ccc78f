"""The embedded LM's recipe: documents in DSPy's form, a lossless tokenizer, a resumable training."""

import json
import random
import re
from itertools import islice

import dspy
import pytest
import torch
from dspy.adapters import ChatAdapter

from btlib.errors import BtlibError
from btlib.pocket import batches, checkpoint, classes, corpus, drill, families, pretrain, problems, progress, tokenizer
from btlib.pocket.model import make_model
from btlib.pocket.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def small_tokenizer():
    return build_tokenizer(documents=300)


def test_a_document_depends_on_seed_and_index_alone():
    many = list(islice(corpus.documents(3), 12))
    assert list(islice(corpus.documents(3, start=5), 7)) == many[5:]
    assert many != list(islice(corpus.documents(4), 12))


@pytest.mark.parametrize("family", corpus.FAMILIES)
@pytest.mark.parametrize("demos", [0, 3, 6])
def test_every_target_parses_with_chat_adapter(family, demos):
    drawn, labelled = corpus.draw(random.Random(1), family, demos)
    document = corpus.to_document(drawn, labelled)
    signature = corpus.signature(drawn.inputs, drawn.output, drawn.instruction, drawn.description, drawn.reasons)
    parsed = ChatAdapter().parse(signature, document.messages[-1]["content"])
    assert parsed[drawn.output] == document.target
    assert [m["role"] for m in document.messages] == ["system"] + ["user", "assistant"] * (document.demos + 1)


def test_prompts_are_those_of_a_dspy_program():
    drawn, _ = corpus.draw(random.Random(2), "problem", 0)
    while drawn.inputs != ("question",) or drawn.output != "answer" or drawn.instruction:
        drawn, _ = corpus.draw(random.Random(random.random()), "problem", 0)
    signature = dspy.ChainOfThought("question -> answer").predict.signature
    inputs = {"question": drawn.examples[-1]["question"]}
    assert list(corpus.to_document(drawn, 0).messages[:-1]) == ChatAdapter().format(signature, [], inputs)


def test_solutions_end_in_the_answer():
    for seed in range(200):
        problem = problems.make_problem(random.Random(seed), held=False)
        assert problem.steps[-1][-1] == problem.answer > 0
        for left, sign, right, result in problem.steps:
            assert problems.apply(left, sign, right) == result


def test_habits_lean_and_do_not_decide():
    rng = random.Random(0)
    drawn = [families.habit(rng, "where", ("a", "b", "c"), strength=0.8) for _ in range(600)]
    counts = sorted(drawn.count(s) for s in "abc")
    assert counts[0] > 15 and 480 < counts[2] < 560  # 80% and a third of the rest


def test_the_first_question_leans_and_the_others_keep_its_convention():
    followed = 0
    for seed in range(200):
        drawn = families.problem(random.Random(seed), 3)
        answers = [e[drawn.output] for e in drawn.examples]
        assert len({a.isdigit() for a in answers}) == len({" = " in a for a in answers}) == 1
        question = drawn.examples[0][drawn.inputs[0]]
        leaning = families.leaning("answer " + question.split(". ")[-1][:12], problems.ANSWERS)
        followed += (leaning == "bare") == answers[0].isdigit() and (leaning == "backwards") == (" = " in answers[0])
    assert followed > 150


@pytest.mark.parametrize("text", ["", "Ünïcödé ☃ \t x=1 \r\n", "日本語 12.5%", "[[ ## answer ## ]]\n  two  spaces"])
def test_the_tokenizer_is_lossless(small_tokenizer, text):
    assert small_tokenizer.decode(small_tokenizer.encode(text)) == text


def test_digits_stand_apart_and_boilerplate_is_one_token(small_tokenizer):
    assert [small_tokenizer.decode([i]) for i in small_tokenizer.encode("1234")] == list("1234")
    for piece in tokenizer.boilerplate():
        assert len(small_tokenizer.encode(piece)) == 1


def test_a_zero_shot_iris_prompt_is_short(small_tokenizer):
    from btlib.tasks import load_task

    task = load_task("iris")
    signature = task.program().pred.predict.signature
    messages = ChatAdapter().format(signature, [], task.test[0].inputs().toDict())
    assert len(small_tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]) < 180


def test_lessons_are_the_assistants_tokens(small_tokenizer):
    document = next(corpus.documents(0, family="classes", demos=2))
    ids, lesson = batches.encode(small_tokenizer, [document])[0]
    whole = small_tokenizer.apply_chat_template(list(document.messages), tokenize=True)["input_ids"]
    assert ids == whole
    taught = small_tokenizer.decode([i for i, flag in zip(ids, lesson, strict=True) if flag])
    assert taught == "".join(m["content"] + "<|end|>" for m in document.messages if m["role"] == "assistant")


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    recipe = pretrain.Recipe(tokens=1e7, closing=1e6)
    assert pretrain.rate(recipe, 0) < 0.05
    assert pretrain.rate(recipe, 2e6) == 1 > pretrain.rate(recipe, 6e6)
    assert pretrain.rate(recipe, 0.999e7) < 0.01
    closing = [pretrain.rate(recipe, tokens) for tokens in (1e7, 1.01e7, 1.05e7, 1.1e7, 1.2e7)]
    assert closing[0] < 0.01 and closing[2] == recipe.closing_rate / 2 < closing[1] and closing[3] == closing[4] == 0


def test_a_checkpoint_brings_back_weights_and_optimizers(tmp_path):
    torch.manual_seed(0)
    recipe = pretrain.Recipe(tokens=1e5)
    model = make_model("pocket", 64)
    optims = pretrain.optimizers(model, recipe)
    model(input_ids=torch.arange(32).view(1, -1)).logits.sum().backward()
    for optim in optims:
        optim.step()
    checkpoint.save_checkpoint(tmp_path, model, optims, {"step": 7})
    again = make_model("pocket", 64)
    others = pretrain.optimizers(again, recipe)
    assert checkpoint.load_checkpoint(tmp_path, again, others) == {"step": 7}
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
        mine = [o.state[p] for o in optims if p in o.state]
        back = [o.state[q] for o in others if q in o.state]
        assert len(mine) == len(back) == 1 and set(mine[0]) == set(back[0])
        assert all(torch.equal(mine[0][k], back[0][k]) for k in mine[0])
    assert not (tmp_path / "checkpoint.tmp").exists()


def test_the_mini_data_are_what_the_generator_makes():
    from btlib.pocket import minis
    from btlib.support.paths import data_dir

    for part, made in minis.gsm8k_mini().items():
        assert [
            json.loads(line) for line in open(data_dir() / "gsm8k-mini" / f"{part}.jsonl", encoding="utf-8")
        ] == made
    passages, splits = minis.hotpotqa_mini()
    assert [
        json.loads(line) for line in open(data_dir() / "hotpotqa-mini" / "passages.jsonl", encoding="utf-8")
    ] == passages
    for part, made in splits.items():
        assert [
            json.loads(line) for line in open(data_dir() / "hotpotqa-mini" / f"{part}.jsonl", encoding="utf-8")
        ] == made


def test_muon_moves_as_torchs_own_does():
    from btlib.pocket.muon import Muon

    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((12, 12), (12, 40), (40, 12), (12, 12))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    optims = Muon(mine, 0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, adjust_lr_fn="original")
    for _ in range(3):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optim in optims:
            optim.step()
    for p, q in zip(mine, theirs, strict=True):
        assert torch.allclose(p, q, atol=0.01)  # theirs multiplies in bf16


def test_a_folder_begun_with_another_recipe_is_refused(tmp_path):
    pretrain.check_recipe(tmp_path, pretrain.Recipe())
    pretrain.check_recipe(tmp_path, pretrain.Recipe())
    with pytest.raises(BtlibError, match="tokens .* -> 1000000.0"):
        pretrain.check_recipe(tmp_path, pretrain.Recipe(tokens=1e6))


def test_a_perfect_reader_is_surer_with_demonstrations():
    def readable(demos):
        drawn = [d for f in ("problem", "answer", "classes") for d in islice(corpus.documents(5, 0, f, demos), 30)]
        return sum(d.readable for d in drawn)

    assert readable(0) < readable(6) <= 90


def test_the_copying_drill_repeats_a_list_after_other_words(small_tokenizer):
    words = drill.word_list(small_tokenizer)
    for seed in range(30):
        ids, learned = drill.copy_row(random.Random(seed), words, level=3)
        start = learned.index(True)  # the copy's second word, the first that can be known
        copy = ids[start:]
        assert any(ids[i : i + len(copy)] == copy for i in range(start - len(copy)))


def test_the_class_drill_teaches_labels_that_came_before(small_tokenizer):
    for seed in range(20):
        ids, learned = drill.class_row(random.Random(seed), small_tokenizer, level=seed % 9)
        assert len(ids) == len(learned)
        for i, flag in enumerate(learned):
            assert not flag or ids[i] in ids[:i]


def test_the_drill_of_sums_learns_the_results_and_they_are_right(small_tokenizer):
    for seed in range(20):
        ids, learned = drill.sum_row(random.Random(seed), small_tokenizer, level=seed % 4)
        text = small_tokenizer.decode(ids)
        assert all(small_tokenizer.decode([i]).isdigit() for i, flag in zip(ids, learned, strict=True) if flag)
        for left, sign, right, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text):
            assert problems.apply(int(left), sign, int(right)) == int(result)


def test_a_row_of_guessing_ends_in_the_label_and_learns_it_alone(small_tokenizer):
    for seed in range(10):
        ids, learned = drill.guess_row(random.Random(seed), small_tokenizer)
        assert learned == [False] * (len(ids) - 1) + [True]
        text = small_tokenizer.decode(ids)
        label = text.split()[-1]
        assert " fits best" not in text and label in text[: -len(label)]


def test_a_row_of_reading_learns_labels_that_a_demonstration_has_shown(small_tokenizer):
    for seed in range(10):
        ids, learned = drill.read_row(random.Random(seed), small_tokenizer)
        text = small_tokenizer.decode(ids)
        assert small_tokenizer.encode(text) == ids and len(ids) == len(learned) and text.endswith("<|end|>")
        for i, flag in enumerate(learned):
            assert not flag or re.search(r"of at least \d$", small_tokenizer.decode(ids[:i]))
            assert not flag or small_tokenizer.decode(ids[i:]).split(" fits")[0] in small_tokenizer.decode(ids[:i])


def test_a_lesson_counts_only_what_is_to_be_learned(small_tokenizer):
    torch.manual_seed(0)
    model = make_model("pocket-s", len(small_tokenizer)).eval()
    rows = [([5, 6, 7, 8], [False, False, True, True]), ([9, 10], [False, True])]
    mean, right = drill.lesson(model, rows)
    each = [
        torch.nn.functional.cross_entropy(model(torch.tensor([ids[:i]])).logits[0, -1].float(), torch.tensor(ids[i]))
        for ids, learned in rows
        for i in range(1, len(ids))
        if learned[i]
    ]
    assert len(each) == 3 and torch.allclose(mean, sum(each) / 3, rtol=0.02) and right in (0, 1 / 3, 2 / 3, 1)


def test_a_resumed_run_writes_no_line_of_its_log_twice(tmp_path):
    for step in (20, 40, 60):
        progress.report(tmp_path, {"step": step, "tokens": step, "seconds": 1.0}, 2.0, 100, 1.0)
    progress.rewind(tmp_path, 45)
    assert [json.loads(line)["step"] for line in open(tmp_path / "log.jsonl")] == [20, 40]


def test_guesses_without_demonstrations_lean_on_a_last_digit_and_the_list_has_no_order():
    drawn = [classes.classify(random.Random(seed), 1) for seed in range(400)]
    followed = sum(d.examples[0][d.output] == d.best_guess for d in drawn)
    assert 0.8 < followed / len(drawn) < 0.95  # 80% and chance of the rest
    places = []
    for seed in range(400):
        task = classes.classify(random.Random(seed), 7)
        listed = task.description.replace(",", "").replace(" or ", " ").split()
        by_size = sorted(task.examples, key=lambda e: float(e[task.inputs[0]]))
        if len(listed) == 2 and len(task.inputs) == 1:
            places.append(listed.index(by_size[-1][task.output]))
    assert len(places) > 30 and 0.3 < sum(places) / len(places) < 0.7


def test_the_drill_trains(small_tokenizer):
    torch.manual_seed(0)
    model = make_model("pocket", len(small_tokenizer))
    before = model.lm_head.weight.detach().clone()
    words = drill.word_list(small_tokenizer)
    optims = pretrain.optimizers(model, pretrain.Recipe())
    seen = drill.drill(model, optims, lambda rng, level: drill.copy_row(rng, words, level), "0", steps=2)
    assert len(seen) == 2 and not torch.equal(before, model.lm_head.weight)
