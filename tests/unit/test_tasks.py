"""The three tasks: the programs of appendix A, the splits, the metrics and their edges, and bad data."""

import dspy
import pytest
from fakes import fake_lm, field, reply, write_gsm8k, write_hotpotqa, write_iris

from btlib.errors import BtlibError
from btlib.presets import Split, load_preset
from btlib.tasks import gsm8k, hotpotqa, iris, load_task


def test_iris_signature_is_the_papers():
    signature = iris.IrisSignature
    assert signature.instructions == "Given the petal and sepal dimensions in cm, predict the iris species."
    assert list(signature.input_fields) == ["petal_length", "petal_width", "sepal_length", "sepal_width"]
    assert signature.output_fields["answer"].json_schema_extra["desc"] == "setosa, versicolour, or virginica"
    assert set(iris.LABELS) == {"setosa", "versicolour", "virginica"}


def test_modules_are_those_of_appendix_a(tmp_path):
    write_hotpotqa(tmp_path)
    names = [name for name, _ in load_task("hotpotqa", tmp_path).program().named_predictors()]
    assert names == ["generate_query[0].predict", "generate_query[1].predict", "generate_answer.predict"]
    assert [name for name, _ in gsm8k.program().named_predictors()] == ["prog.predict"]
    assert [name for name, _ in iris.program().named_predictors()] == ["pred.predict"]


def answer_hops(model, prompt):
    """Search for the film, then for its director, then name the mentor."""
    question, context = field(prompt, "question"), prompt.partition("[[ ## question ## ]]")[0]
    number = question.rstrip("?").rpartition("Film")[2]
    if "`[[ ## search_query ## ]]`" in prompt:
        query = f"Director{number}" if f"Director{number}" in context else f"Film{number}"
        return reply(reasoning="look it up", search_query=query)
    return reply(reasoning="it says so", answer=f"Mentor{number}")


def test_hotpotqa_hops_collect_passages_without_repeats(tmp_path):
    write_hotpotqa(tmp_path)
    task = load_task("hotpotqa", tmp_path, passages_per_hop=2)
    example = task.test[0]
    with dspy.context(lm=fake_lm(answer_hops)):
        prediction = task.program()(**example.inputs())
    film, director = example.gold_titles
    assert [p.split(" | ")[0] for p in prediction.context][:2] == [film, director]
    assert len(prediction.context) == len(set(prediction.context)) == 2
    assert prediction.answer == example.answer and prediction.reasoning == "it says so"
    assert task.metric(example, prediction) is True


def test_copies_of_a_program_share_the_retriever_and_nothing_else(tmp_path):
    write_hotpotqa(tmp_path)
    program = load_task("hotpotqa", tmp_path).program()
    copy = program.deepcopy()
    assert copy.retriever is program.retriever
    copy.generate_query[0].predict.demos = [1]
    assert program.generate_query[0].predict.demos == program.generate_query[1].predict.demos == []


def test_a_programs_prompts_survive_saving(tmp_path):
    write_hotpotqa(tmp_path)
    task = load_task("hotpotqa", tmp_path)
    program = task.program()
    program.generate_answer.predict.demos = [task.train[0]]
    program.save(tmp_path / "program.json")
    loaded = task.program()
    loaded.load(tmp_path / "program.json")
    assert loaded.generate_answer.predict.demos[0]["question"] == task.train[0].question
    assert loaded.retriever is program.retriever


@pytest.mark.parametrize(
    "gold, said, right",
    [
        ("12", "12", True),
        ("12", "The answer is 12.", True),
        ("12", "$12.00", True),
        ("12", "13", False),
        ("1200", "1,200", True),
        ("5", "-5", True),  # gsm8k_metric drops the sign
        ("34", "3/4", True),  # and the slash
        ("0", "0.5", True),  # and the fraction
        ("0", "", False),  # but a failed parse is never right
        ("0", "none", False),
        ("12", None, False),
        ("12", "²", False),
        ("12", ["12"], True),
    ],
)
def test_gsm8k_metric_edges(gold, said, right):
    assert gsm8k.metric(dspy.Example(answer=gold), dspy.Prediction(answer=said)) is right


def test_gsm8k_metric_without_an_answer_field_is_false():
    assert gsm8k.metric(dspy.Example(answer="1"), dspy.Prediction()) is False


@pytest.mark.parametrize("metric", [iris.metric, hotpotqa.metric])
def test_exact_match_edges(metric):
    gold = dspy.Example(answer="versicolour")
    assert metric(gold, dspy.Prediction(answer=" Versicolour.")) is True
    assert metric(gold, dspy.Prediction(answer="versicolor")) is False
    assert metric(gold, dspy.Prediction(answer="")) is False
    assert metric(gold, dspy.Prediction()) is False
    assert metric(dspy.Example(answer="the"), dspy.Prediction(answer="")) is False  # both normalize to nothing


def test_iris_parts_are_thirds_of_one_fixed_shuffle(tmp_path):
    write_iris(tmp_path)
    one, two = load_task("iris", tmp_path, seed=0), load_task("iris", tmp_path, seed=1)
    assert [len(part) for part in (one.train, one.dev, one.test)] == [50, 50, 50]
    assert len({e.id for e in one.train + one.dev + one.test}) == 150
    assert {e.answer for e in one.test} == set(iris.LABELS)
    assert one.dev == two.dev and one.test == two.test
    assert set(one.train[0].inputs().keys()) == set(iris.FEATURES)
    assert isinstance(one.train[0].petal_length, str)  # as in the file: prompts do not depend on float formatting


def test_a_seed_shuffles_the_training_set_and_nothing_else(tmp_path):
    write_gsm8k(tmp_path)
    split = Split(train=8, dev=2, test=3, bootstrap=3, validation=5)
    tasks = [load_task("gsm8k", tmp_path, split=split, seed=seed) for seed in (0, 1, 0)]
    ids = [[e.id for e in task.train] for task in tasks]
    assert ids[0] == ids[2] != ids[1]
    assert sorted(ids[0]) == sorted(ids[1])
    assert tasks[0].test == tasks[1].test and tasks[0].dev == tasks[1].dev
    assert [task.seed for task in tasks] == [0, 1, 0]
    assert [len(tasks[0].train), len(tasks[0].dev), len(tasks[0].test)] == [8, 2, 3]


def test_unknown_task_source_and_seed(tmp_path):
    with pytest.raises(BtlibError, match="unknown task 'squad'; choose from iris, gsm8k, hotpotqa"):
        load_task("squad")
    with pytest.raises(BtlibError, match="choose mini, hub, or an existing folder"):
        load_task("gsm8k", tmp_path / "nowhere")
    for seed in (-1, 0.5, "0", True):
        with pytest.raises(BtlibError, match="seed must be an integer"):
            load_task("gsm8k", tmp_path, seed=seed)


def test_too_few_examples(tmp_path):
    write_gsm8k(tmp_path)
    with pytest.raises(BtlibError, match="has 12 train examples, the split asks for 150"):
        load_task("gsm8k", tmp_path, split=load_preset("laptop").split("gsm8k"))


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "train.jsonl, line 2: no valid JSON"),
        ('{"id": "a", "question": "q"}', "train.jsonl, line 2: field 'answer'"),
        ('{"id": "a", "question": "q", "answer": 3}', "train.jsonl, line 2: field 'answer'"),
        ('{"question": "q", "answer": "3"}', "train.jsonl, line 2: field 'id'"),
        ('{"id": "train-0", "question": "q", "answer": "3"}', "row 2: field 'id' 'train-0' is already used"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    write_gsm8k(tmp_path, train=1)
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(BtlibError, match=message):
        load_task("gsm8k", tmp_path)


def test_a_missing_part_is_named(tmp_path):
    write_gsm8k(tmp_path)
    (tmp_path / "dev.jsonl").unlink()
    with pytest.raises(BtlibError, match="dev.jsonl"):
        load_task("gsm8k", tmp_path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("versicolour", "versicolor", "field 'species' must be one of setosa, versicolour, virginica"),
        ("3.1", "tall", "line 2: field 'sepal_width' must be a length in cm, got 'tall'"),
        ("species", "label", "line 1: field 'species' is missing"),
    ],
)
def test_broken_iris_is_named(tmp_path, old, new, message):
    write_iris(tmp_path)
    path = tmp_path / "iris.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BtlibError, match=message):
        load_task("iris", tmp_path)


def test_the_hub_out_of_reach_is_one_line(monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host\nand a long tail")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    for name in ("gsm8k", "hotpotqa"):
        with pytest.raises(BtlibError, match=r"from the hub \(no route to host\); go online, or use source") as caught:
            load_task(name, "hub")
        assert "\n" not in str(caught.value)


def test_the_hubs_rows_become_examples(monkeypatch):
    from datasets import Dataset

    def rows(count):
        return [
            {
                "id": f"h{i}",
                "question": f"q{i}?",
                "answer": f"a{i}",
                "supporting_facts": {"title": ["T", "T", "U"], "sent_id": [0, 1, 0]},
                "context": {"title": ["T", f"V{i}"], "sentences": [["One. ", "Two."], [f"Three {i}."]]},
            }
            for i in range(count)
        ]

    hub = {
        "openai/gsm8k": {
            "train": [{"question": f"q{i}", "answer": f"so it is #### 1,{i:03d}"} for i in range(9)],
            "test": [{"question": f"t{i}", "answer": f"#### {i}"} for i in range(4)],
        },
        "hotpotqa/hotpot_qa": {"train": Dataset.from_list(rows(9)), "validation": Dataset.from_list(rows(5))},
    }
    monkeypatch.setattr("datasets.load_dataset", lambda repository, config: hub[repository])
    split = Split(train=5, dev=2, test=3, bootstrap=2, validation=3)
    task = load_task("gsm8k", "hub", split=split)
    assert [len(task.train), len(task.dev), len(task.test)] == [5, 2, 3]
    assert all(e.answer.isdigit() and int(e.answer) >= 1000 for e in task.train)
    assert not {e.id for e in task.train} & {e.id for e in task.dev}
    task = load_task("hotpotqa", "hub", split=split)
    assert task.train[0].gold_titles == ["T", "U"]
    assert "T | One. Two." in task.program().retriever.passages
