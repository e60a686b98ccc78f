"""HotPotQA: two hops of search, then an answer; three LM modules (appendix A, snippet 1). Taught in notebook 01."""

from __future__ import annotations

import random

import dspy
from dspy.dsp.utils import deduplicate
from dspy.evaluate import answer_exact_match

from btlib.presets import PRESETS, Split
from btlib.retrieval import SEPARATOR, Retriever, load_retriever
from btlib.tasks._files import folder, from_hub, read_parts

NUM_HOPS = 2


class HotPotQAProgram(dspy.Module):
    """Write a query, read passages, write the next query, read more, answer.

    Passages are those of the hops so far, without repeats, in the order found. The prediction carries them as
    `context`. The paper's `dspy.Retrieve` needs a server in DSPy's settings; this one holds its retriever.
    """

    def __init__(self, retriever: Retriever, passages_per_hop: int = 3):
        super().__init__()
        self.retriever = retriever
        self.passages_per_hop = passages_per_hop
        self.generate_query = [dspy.ChainOfThought("context, question -> search_query") for _ in range(NUM_HOPS)]
        self.generate_answer = dspy.ChainOfThought("context, question -> answer")

    def forward(self, question):
        context = []
        for hop in range(NUM_HOPS):
            search_query = self.generate_query[hop](context=context, question=question).search_query
            passages = self.retriever.search(search_query, self.passages_per_hop)
            context = deduplicate(context + passages)
        return self.generate_answer(context=context, question=question).copy(context=context)


program = HotPotQAProgram


def metric(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
    """Exact match after normalization (case, punctuation, articles, spaces); a missing or empty answer is wrong."""
    answer = str(getattr(pred, "answer", None) or "")
    return bool(answer.strip()) and bool(answer_exact_match(example, dspy.Prediction(answer=answer)))


def load(source: str, split: Split | None = None) -> tuple[dict[str, list[dspy.Example]], Retriever]:
    """Read the three parts and index the passages.

    From the hub: train and dev of the official train set, test of the official dev set, each shuffled once and always
    the same way. The passages are then the paragraphs that come with the chosen questions (ten each, in the
    "distractor" form): easier than the paper's search over all of Wikipedia. For that, use a folder with a
    passages.jsonl of your own.
    """
    if source == "hub":
        return _from_hub(split or PRESETS["paper"].split("hotpotqa"))
    path = folder(source, "hotpotqa-mini")
    parts = read_parts(path, {"question": str, "answer": str, "gold_titles": list}, ("question",))
    return parts, load_retriever(path / "passages.jsonl")


def _from_hub(split: Split) -> tuple[dict[str, list[dspy.Example]], Retriever]:
    data = from_hub("hotpotqa/hotpot_qa", "distractor")
    passages: dict[str, None] = {}

    def take(part: str, count: int) -> list[dspy.Example]:
        order = list(range(len(data[part])))
        random.Random(0).shuffle(order)
        examples = []
        for row in data[part].select(order[:count]):
            for title, sentences in zip(row["context"]["title"], row["context"]["sentences"], strict=True):
                passages[f"{title}{SEPARATOR}{''.join(sentences)}"] = None
            gold = list(dict.fromkeys(row["supporting_facts"]["title"]))
            example = dspy.Example(id=row["id"], question=row["question"], answer=row["answer"], gold_titles=gold)
            examples.append(example.with_inputs("question"))
        return examples

    train = take("train", split.train + split.dev)
    test = take("validation", split.test)
    parts = {"train": train[: split.train], "dev": train[split.train :], "test": test}
    return parts, Retriever(list(passages))
