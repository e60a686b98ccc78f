"""HotPotQA: two hops of search, then an answer; three LM modules (appendix A, snippet 1). Taught in notebook 01.

in      question: Where was the author of Journey and Mirror born?
hop 1   search_query: Journey and Mirror  ->  passages; one says that Vemi Vossen wrote it
hop 2   search_query: Vemi Vossen         ->  passages; one says where Vemi Vossen was born
out     answer: Norund Ridge, from all passages
metric  exact match after normalization; the gold passages of both hops are known, and not asked for
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import dspy
from dspy.dsp.utils import deduplicate

from btlib.errors import BtlibError
from btlib.presets import Split
from btlib.search import SEPARATOR, Searcher, load_retriever
from btlib.search.bm25 import Retriever
from btlib.support.files import check_fields
from btlib.tasks._files import folder, is_cut, read_parts
from btlib.tasks._match import exact_match
from btlib.tasks._rows import Rows, from_hub, open_rows
from btlib.tasks._spec import CallSize, TaskSpec

_PAPER = Split(train=1000, dev=500, test=1500, bootstrap=100, validation=250)  # appendix C


class HotPotQAProgram(dspy.Module):
    """Write a query, read passages, write the next query, read more, answer.

    Passages are those of the hops so far, without repeats, in the order found. The prediction carries them as
    `context`. The paper's `dspy.Retrieve` needs a server in DSPy's settings; this one holds its retriever.
    """

    def __init__(self, retriever: Searcher, passages_per_hop: int = 3, num_hops: int = 2):
        super().__init__()
        self.retriever = retriever
        self.passages_per_hop = passages_per_hop
        self.generate_query = [dspy.ChainOfThought("context, question -> search_query") for _ in range(num_hops)]
        self.generate_answer = dspy.ChainOfThought("context, question -> answer")

    def forward(self, question):
        context = []
        for generate_query in self.generate_query:
            search_query = generate_query(context=context, question=question).search_query
            passages = self.retriever.search(search_query, self.passages_per_hop)
            context = deduplicate(context + passages)
        return self.generate_answer(context=context, question=question).copy(context=context)


def metric(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
    """Exact match after normalization (case, punctuation, articles, spaces); a missing or empty answer is wrong."""
    return exact_match(example, pred)


def load(
    source: str, split: Split | None = None, retriever: str = ""
) -> tuple[dict[str, list[dspy.Example]], Searcher]:
    """Read the three parts, and make the retriever: `retriever` (a URL or a file, see `load_retriever`), or else a
    passages.jsonl or passages.tsv in the source's folder, or else the paragraphs that come with the questions.

    "mini", or a folder with train.jsonl, dev.jsonl and test.jsonl, comes cut and has its passages beside. From the hub
    (hotpotqa/hotpot_qa), or from a folder with the publishers' files (hotpot_train_v1.1.json and one of the dev files,
    or the hub's Parquet), train and dev are cut from the official train set and test from the official dev set, each
    shuffled once and always the same way. The paper searches all of Wikipedia: give a retriever, and the questions
    are the "fullwiki" ones. Without one, the passages are the union of the chosen questions' "distractor" paragraphs,
    ten a question: easier, and it fits one GPU.
    """
    fields = {"question": str, "answer": str}
    if source == "hub":
        form = "fullwiki" if retriever else "distractor"
        data = from_hub("hotpotqa/hotpot_qa", form, fields)
        return _cut(data["train"], data["validation"], split, retriever)
    path = folder(source, "hotpotqa")
    beside = [file for name in ("passages.jsonl", "passages.tsv") if (file := path / name).is_file()]
    if is_cut(path):
        parts = read_parts(path, fields | {"gold_titles": list}, ("question",))
        return parts, load_retriever(retriever or (beside or [path / "passages.jsonl"])[0])
    found = retriever or (beside[0] if beside else "")
    forms = ("fullwiki", "distractor") if found else ("distractor",)
    names = {"train": ("hotpot_train*.json", *_parquet("train", ("distractor", "fullwiki")))}
    names["dev"] = (*(f"hotpot_dev_{form}*.json" for form in forms), *_parquet("validation", forms))
    rows = [open_rows(path, patterns, fields) for patterns in names.values()]
    return _cut(*rows, split, found)


def _parquet(part: str, forms: tuple[str, ...]) -> tuple[str, ...]:
    return (*(f"{form}/{part}-*.parquet" for form in forms), f"{part}*.parquet")


def _cut(
    official_train: Rows, official_dev: Rows, split: Split | None, retriever: str | Path
) -> tuple[dict[str, list[dspy.Example]], Searcher]:
    """Draw train and dev from one official set and test from the other, with the passages of what was drawn."""
    split = split or _PAPER
    passages: dict[str, None] = {}

    def draw(rows: Rows, count: int) -> list[dspy.Example]:
        order = list(range(len(rows)))
        random.Random(0).shuffle(order)
        examples = []
        for number in order[:count]:
            question, paragraphs = _parse(*rows[number])
            examples.append(dspy.Example(**question).with_inputs("question"))
            if not retriever:
                passages.update(dict.fromkeys(paragraphs))
        return examples

    train, test = draw(official_train, split.train + split.dev), draw(official_dev, split.test)
    parts = {"train": train[: split.train], "dev": train[split.train :], "test": test}
    if retriever:
        return parts, load_retriever(retriever)
    return parts, Retriever(list(passages), name=f"BM25 over {len(passages)} paragraphs of the questions")


def _parse(row: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return a question's fields and its paragraphs "title | text" from either form of a row.

    The publishers' JSON has `_id`, supporting_facts [[title, sentence], ...] and context [[title, [sentence, ...]],
    ...]; the hub's columns have `id` and the same as {"title": [...], "sent_id": [...]} and {"title": [...],
    "sentences": [...]}.
    """
    name = "id" if "id" in row else "_id"
    check_fields(row, {name: str}, where)
    facts, context = row.get("supporting_facts"), row.get("context")
    try:
        gold = facts["title"] if isinstance(facts, dict) else [title for title, _ in facts]
        gold = list(dict.fromkeys(gold))
        if not gold or not all(isinstance(title, str) for title in gold):
            raise TypeError
    except (TypeError, ValueError, KeyError) as error:
        raise BtlibError(
            f"{where}: field 'supporting_facts' must be [[title, sentence], ...], got {facts!r:.200}"
        ) from error
    try:
        pairs = zip(context["title"], context["sentences"], strict=True) if isinstance(context, dict) else context
        paragraphs = [f"{title}{SEPARATOR}{''.join(sentences)}" for title, sentences in pairs]
    except (TypeError, ValueError, KeyError) as error:
        raise BtlibError(
            f"{where}: field 'context' must be [[title, [sentence, ...]], ...], got {context!r:.200}"
        ) from error
    return {"id": row[name], "question": row["question"], "answer": row["answer"], "gold_titles": gold}, paragraphs


TASK = TaskSpec(
    name="hotpotqa",
    title="HotPotQA",
    title_mini="hotpotqa-mini",
    program=HotPotQAProgram,
    metric=metric,
    load=load,
    splits={
        "smoke": Split(train=24, dev=12, test=24, bootstrap=12, validation=12),
        "laptop": Split(train=150, dev=50, test=150, bootstrap=50, validation=60),
        "colab": Split(train=200, dev=100, test=200, bootstrap=50, validation=100),
        "paper": _PAPER,
    },
    calls=(  # a question of 25 tokens, 60 of reasoning, 110 a passage (title and abstract), three passages a hop
        CallSize(132, 53, 25, 60 + 30, 29),
        CallSize(132, 53, 25 + 3 * 110, 60 + 30, 29),
        CallSize(128, 52, 25 + 6 * 110, 60 + 25, 28),
    ),
    searches=True,
    column=0,
    default=True,
)
