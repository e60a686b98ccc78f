"""The three tasks: the programs of appendix A, the splits, the metrics and their edges, and bad data."""

import json
from dataclasses import replace

import dspy
import pytest
from fakes import fake_lm, field, reply, write_gsm8k, write_hotpotqa, write_iris, write_jsonl

from btlib.errors import BtlibError
from btlib.presets import Split, load_preset
from btlib.runs.provenance import fingerprints
from btlib.tasks import gsm8k, hotpotqa, iris, load_for, load_task, split_for


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
    assert [name for name, _ in load_task("gsm8k").program().named_predictors()] == ["prog.predict"]
    assert [name for name, _ in load_task("iris").program().named_predictors()] == ["pred.predict"]


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


@pytest.mark.parametrize("hops", [1, 3])
def test_a_hop_is_a_module_a_call_and_a_search(tmp_path, hops):
    write_hotpotqa(tmp_path)
    task = load_task("hotpotqa", tmp_path, num_hops=hops, passages_per_hop=1)
    program, asked = task.program(), []
    names = [name for name, _ in program.named_predictors()]
    assert names == [*(f"generate_query[{hop}].predict" for hop in range(hops)), "generate_answer.predict"]

    def script(model, prompt):
        asked.append("`[[ ## search_query ## ]]`" in prompt)
        return reply(reasoning="", search_query=f"Film{len(asked)}") if asked[-1] else reply(reasoning="", answer="a")

    with dspy.context(lm=fake_lm(script)):
        prediction = program(question="Who?")
    assert asked == [True] * hops + [False] and len(prediction.context) == hops


def test_a_presets_hops_and_passages_reach_the_program():
    preset = load_preset("smoke", changes={"num_hops": 3, "passages_per_hop": 2})
    program = load_for(preset, "hotpotqa").program()
    assert len(program.generate_query) == 3 and program.passages_per_hop == 2
    assert len(load_for("smoke", "hotpotqa").program().generate_query) == 2


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


@pytest.mark.parametrize(
    ("gold", "said", "right"),
    [
        ("A", "...", False), ("A", "-", False), ("A", "the", False), ("The The", "an", False), ("?", "!", False),
        ("A", "A", True), ("A", " a ", True), ("The The", "the  the", True), ("?", "?", True), ("...", "…", False),
        ("the Beatles", "Beatles!", True), ("Beatles", "the", False), (["A", "Beatles"], "beatles", True),
        (["A", "Beatles"], "an", False), (["A", "Beatles"], "a", True), ("A", "", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("metric", [iris.metric, hotpotqa.metric])
def test_a_gold_answer_of_articles_or_punctuation_matches_itself_only(metric, gold, said, right):
    assert metric(dspy.Example(answer=gold), dspy.Prediction(answer=said)) is right


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
    with pytest.raises(BtlibError, match="unknown task 'squad'; choose from hotpotqa, gsm8k, iris"):
        load_task("squad")
    with pytest.raises(BtlibError, match="choose mini, hub, or an existing folder"):
        load_task("gsm8k", tmp_path / "nowhere")
    for seed in (-1, 0.5, "0", True):
        with pytest.raises(BtlibError, match="seed must be an integer"):
            load_task("gsm8k", tmp_path, seed=seed)


def test_too_few_examples(tmp_path):
    write_gsm8k(tmp_path)
    with pytest.raises(BtlibError, match="has 12 train examples, the split asks for 150"):
        load_task("gsm8k", tmp_path, split=split_for("laptop", "gsm8k"))


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


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", ", ", "\t", " , "])
def test_iris_is_read_as_spreadsheets_write_it(tmp_path, mark, delimiter):
    write_iris(tmp_path)
    wanted, path = load_task("iris", tmp_path).train, tmp_path / "iris.csv"
    path.write_text(mark + path.read_text().replace(",", delimiter), encoding="utf-8", newline="\r\n")
    assert load_task("iris", tmp_path).train == wanted


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            ",",
            "|",
            r"line 1: field 'petal_length' is missing; the header must name petal_length, .*it is 'petal_length\|",
        ),
        ("petal_length", "PetalLength", "line 1: field 'petal_length' is missing; .*it is 'PetalLength,petal_width"),
        (
            "petal_length",
            '"petal length"',
            "line 1: field 'petal_length' is missing; .*it is '\"petal length\",petal_width",
        ),
        (".", ",", "line 2: field 'petal_"),  # decimal commas between commas
        (",0.2,", ",,", "line 2: field 'petal_width' must be a length in cm, got ''"),
        (",setosa", "", "line 2: field 'species' must be one of .* got ''"),
    ],
)
def test_an_odd_iris_file_is_told_what_is_odd(tmp_path, old, new, message):
    write_iris(tmp_path)
    path = tmp_path / "iris.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BtlibError, match=message) as caught:
        load_task("iris", tmp_path)
    assert "\n" not in str(caught.value)


def test_decimal_commas_between_semicolons_are_named(tmp_path):
    write_iris(tmp_path)
    path = tmp_path / "iris.csv"
    path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    with pytest.raises(BtlibError, match="line 2: field 'petal_length' must be a length in cm, got '1,00'"):
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


SMALL = Split(train=5, dev=2, test=3, bootstrap=2, validation=3)


def gsm8k_rows(count, mark="q"):
    return [{"question": f"{mark}{i}?", "answer": f"{i} <<1+1=2>> steps\n#### 1,{i:03d}"} for i in range(count)]


def hotpotqa_rows(count, mark="h"):
    """Questions in the form of hotpot_train_v1.1.json; paragraph T is shared by all."""
    return [
        {
            "_id": f"{mark}{i}",
            "question": f"q{mark}{i}?",
            "answer": f"a{i}",
            "type": "bridge",
            "level": "hard",
            "supporting_facts": [["T", 0], ["T", 1], [f"V{mark}{i}", 0]],
            "context": [["T", ["One. ", "Two."]], [f"V{mark}{i}", [f"Three {i}."]]],
        }
        for i in range(count)
    ]


def columns(row):
    """The same question in the form of the hub's columns."""
    titles, numbers = zip(*row["supporting_facts"], strict=True)
    names, sentences = zip(*row["context"], strict=True)
    changed = {
        "id": row["_id"],
        "supporting_facts": {"title": list(titles), "sent_id": list(numbers)},
        "context": {"title": list(names), "sentences": list(sentences)},
    }
    return {key: value for key, value in (row | changed).items() if key != "_id"}


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def publish_gsm8k(folder, form):
    for part, count in (("train", 9), ("test", 4)):
        rows = gsm8k_rows(count, part)
        if form == "jsonl":
            write_jsonl(folder / f"{part}.jsonl", rows)
        elif form == "json":
            (folder / f"{part}.json").write_text(json.dumps(rows))
        else:
            write_parquet(folder / "main" / f"{part}-00000-of-00001.parquet", rows)


def publish_hotpotqa(folder, form, dev="distractor"):
    train, test = hotpotqa_rows(9), hotpotqa_rows(5, "d")
    if form == "json":
        (folder / "hotpot_train_v1.1.json").write_text(json.dumps(train))
        (folder / f"hotpot_dev_{dev}_v1.json").write_text(json.dumps(test, indent=1))
    else:
        for shard, rows in enumerate((train[:4], train[4:])):
            write_parquet(folder / dev / f"train-0000{shard}-of-00002.parquet", [columns(row) for row in rows])
        write_parquet(folder / dev / "validation-00000-of-00001.parquet", [columns(row) for row in test])


def publish_on_hub(monkeypatch):
    from datasets import Dataset

    hub = {
        ("openai/gsm8k", "main"): {p: Dataset.from_list(gsm8k_rows(n, p)) for p, n in (("train", 9), ("test", 4))},
        ("hotpotqa/hotpot_qa", "distractor"): {
            "train": Dataset.from_list([columns(row) for row in hotpotqa_rows(9)]),
            "validation": Dataset.from_list([columns(row) for row in hotpotqa_rows(5, "d")]),
        },
    }
    hub["hotpotqa/hotpot_qa", "fullwiki"] = hub["hotpotqa/hotpot_qa", "distractor"]
    monkeypatch.setattr("datasets.load_dataset", lambda repository, config: hub[repository, config])


def parts(task):
    return [[dict(example) for example in part] for part in (task.train, task.dev, task.test)]


def test_gsm8k_from_the_hub_and_from_every_published_form_is_the_same(monkeypatch, tmp_path):
    publish_on_hub(monkeypatch)
    hub = load_task("gsm8k", "hub", split=SMALL)
    assert [len(part) for part in parts(hub)] == [5, 2, 3]
    assert all(e.answer.isdigit() and int(e.answer) >= 1000 and e.question.startswith("train") for e in hub.train)
    assert not {e.id for e in hub.train} & {e.id for e in hub.dev}
    assert {e.id for e in hub.test} < {f"gsm8k-test-{i}" for i in range(4)}
    for form in ("jsonl", "json", "parquet"):
        (tmp_path / form).mkdir()
        publish_gsm8k(tmp_path / form, form)
        assert parts(load_task("gsm8k", tmp_path / form, split=SMALL)) == parts(hub)


def test_hotpotqa_from_the_hub_and_from_every_published_form_is_the_same(monkeypatch, tmp_path):
    publish_on_hub(monkeypatch)
    hub = load_task("hotpotqa", "hub", split=SMALL)
    assert [len(part) for part in parts(hub)] == [5, 2, 3]
    assert all(e.id.startswith("d") for e in hub.test)  # the official dev set
    assert hub.train[0].gold_titles == ["T", f"V{hub.train[0].id}"]
    chosen = [e.id for part in (hub.train, hub.dev, hub.test) for e in part]
    assert set(hub.retriever.passages) == {"T | One. Two."} | {f"V{i} | Three {i[1:]}." for i in chosen}
    assert hub.program().retriever is hub.retriever and "11 paragraphs" in hub.retriever.name
    for form in ("json", "parquet"):
        (tmp_path / form / "hotpotqa").mkdir(parents=True)  # a folder that holds one folder a task
        publish_hotpotqa(tmp_path / form / "hotpotqa", form)
        local = load_task("hotpotqa", tmp_path / form, split=SMALL)
        assert parts(local) == parts(hub) and local.retriever.passages == hub.retriever.passages


def test_the_papers_split_of_the_official_sets(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", gsm8k_rows(7473, "train"))
    write_jsonl(tmp_path / "test.jsonl", gsm8k_rows(1319, "test"))
    split = split_for("paper", "gsm8k")
    one, two = (load_task("gsm8k", tmp_path, split=split, seed=seed) for seed in (0, 1))
    assert [len(part) for part in parts(one)] == [1000, 500, 1319]
    assert {e.id for e in one.train} == {e.id for e in two.train} and one.train != two.train
    assert one.dev == two.dev and one.test == two.test


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_with_a_retriever_the_fullwiki_questions_do(tmp_path, form):
    publish_hotpotqa(tmp_path, form, dev="fullwiki")
    with pytest.raises(BtlibError, match="distractor"):
        load_task("hotpotqa", tmp_path, split=SMALL)  # whose paragraphs need not hold the answer
    passages = tmp_path / "wiki.tsv"
    passages.write_text("Title\tA text.\n")
    task = load_task("hotpotqa", tmp_path, split=SMALL, retriever=passages)
    assert task.retriever.passages == ("Title | A text.",) and len(task.test) == 3
    passages.rename(tmp_path / "passages.tsv")  # beside the questions it is found
    assert load_task("hotpotqa", tmp_path, split=SMALL).retriever.passages == task.retriever.passages


@pytest.mark.parametrize(
    "name, lines", [("passages.tsv", "A\tone\n"), ("passages.jsonl", '{"title": "A", "text": "b"}')]
)
def test_passages_beside_the_questions_are_part_of_the_datas_fingerprint(tmp_path, name, lines):
    publish_hotpotqa(tmp_path, "json", dev="fullwiki")
    found = [fingerprints("hotpotqa", "pocket", str(tmp_path))["data"]]
    for text in (lines, lines + lines):
        (tmp_path / name).write_text(text)
        found.append(fingerprints("hotpotqa", "pocket", str(tmp_path))["data"])
    assert len(set(found)) == 3


def test_the_hubs_fullwiki_questions_with_a_retriever(monkeypatch, tmp_path):
    publish_on_hub(monkeypatch)
    passages = tmp_path / "wiki.tsv"
    passages.write_text("Title\tA text.\n")
    task = load_task("hotpotqa", "hub", split=SMALL, retriever=passages)
    assert task.retriever.passages == ("Title | A text.",) and len(task.train) == 5


def test_a_retriever_replaces_the_minis_own_and_other_tasks_have_none(tmp_path):
    write_hotpotqa(tmp_path)
    (tmp_path / "wiki.tsv").write_text("Title\tA text.\n")
    assert load_task("hotpotqa", tmp_path, retriever=tmp_path / "wiki.tsv").retriever.passages == ("Title | A text.",)
    assert load_task("iris", retriever="http://localhost:1/search").retriever is None


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("train.jsonl", '{"question": "q", "answer": "#### 3"}\n{"question": "q"}', "line 2: field 'answer'"),
        ("train.jsonl", '{"question": "q", "answer": "3"}', "row 1: field 'answer' must end with '#### <number>'"),
        ("train.jsonl", '{"question": "q", "answer": "#### x"}', "row 1: field 'answer' must end with '####"),
        (
            "train.json",
            '[{"question": "q",\n "answer": "#### 3"},\n{"question": " "}]',
            "item 2: field 'question' must",
        ),
        ("train.json", '[{"question": "q", "answer": "#### 3"}, "q"]', "item 2: field 'question' must be"),
        ("train.json", '[{"question": "q",\n"answer": "#### 3"},', "train.json, line 2: no valid JSON"),
        ("train.json", '{"question": "q"}\n{"question": "r"}', "line 2: no valid JSON .*is called .jsonl"),
        ("train.json", "{}", "train.json: no JSON array"),
        ("other.json", "{}", "has no train.jsonl or train.json or main/train"),
    ],
)
def test_a_broken_gsm8k_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    write_jsonl(tmp_path / "test.jsonl", gsm8k_rows(1, "test"))
    with pytest.raises(BtlibError, match=message) as caught:
        load_task("gsm8k", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_the_mark_that_some_editors_put_first_is_read_over(tmp_path, form):
    for folder, mark in (("plain", b""), ("marked", b"\xef\xbb\xbf")):
        (tmp_path / folder).mkdir()
        publish_gsm8k(tmp_path / folder, form)
        for file in (tmp_path / folder).iterdir():
            file.write_bytes(mark + file.read_bytes())
    plain, marked = (load_task("gsm8k", tmp_path / folder, split=SMALL) for folder in ("plain", "marked"))
    assert parts(plain) == parts(marked)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"supporting_facts": [["T"]]}, "field 'supporting_facts' must be"),
        ({"supporting_facts": []}, "field 'supporting_facts' must be"),
        ({"context": None}, "field 'context' must be"),
        ({"_id": 3}, "field '_id' must be a non-empty str"),
        ({"answer": ""}, "field 'answer' must be a non-empty str"),
    ],
)
def test_a_broken_hotpotqa_file_is_named(tmp_path, change, message):
    publish_hotpotqa(tmp_path, "json")
    rows = hotpotqa_rows(9)
    rows[6] |= change
    (tmp_path / "hotpot_train_v1.1.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    with pytest.raises(BtlibError, match=f"hotpot_train_v1.1.json, item 7: {message}"):
        load_task("hotpotqa", tmp_path, split=replace(SMALL, dev=4))  # which draws every row


def test_a_broken_table_is_named(tmp_path):
    publish_gsm8k(tmp_path, "parquet")
    file = tmp_path / "main" / "train-00000-of-00001.parquet"
    rows = gsm8k_rows(9)
    rows[3]["answer"] = "none"
    write_parquet(file, rows)
    with pytest.raises(BtlibError, match="train-00000-of-00001.parquet, row 4: field 'answer'"):
        load_task("gsm8k", tmp_path)
    write_parquet(file, [{"question": "q"}])
    with pytest.raises(BtlibError, match="train-00000-of-00001.parquet, row 1: field 'answer' must be"):
        load_task("gsm8k", tmp_path)
    file.write_text("no table")
    with pytest.raises(BtlibError, match="cannot read .*parquet") as caught:
        load_task("gsm8k", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_flowers_takes_the_real_ones(tmp_path):
    assert load_task("iris", tmp_path).train == load_task("iris").train
