"""GSM8K: arithmetic word problems with one chain-of-thought module (appendix A, snippet 2). Taught in notebook 01.

in      question: A drawer of Jolo holds 11 pencils. Then Jolo finds 4 pencils. Jolo uses 11 of them. How many
        pencils are left?
out     reasoning: 11 + 4 = 15, 15 - 11 = 4; and answer: 4
metric  the last number of the answer's first line is the gold one
"""

from __future__ import annotations

import random
from typing import Any

import dspy
from dspy.datasets.gsm8k import gsm8k_metric

from btlib.errors import BtlibError
from btlib.presets import Split
from btlib.tasks._files import folder, is_cut, read_parts
from btlib.tasks._rows import from_hub, open_rows
from btlib.tasks._spec import CallSize, TaskSpec

_PAPER = Split(train=1000, dev=500, test=1319, bootstrap=100, validation=250)  # appendix C
OFFICIAL = {  # what the publishers call their files, on GitHub and on the hub
    part: (f"{part}.jsonl", f"{part}.json", f"main/{part}-*.parquet", f"{part}*.parquet") for part in ("train", "test")
}


class CoTProgram(dspy.Module):
    """A question, a chain of thought, an answer."""

    def __init__(self):
        super().__init__()
        self.prog = dspy.ChainOfThought("question -> answer")

    def forward(self, question):
        return self.prog(question=question)


def metric(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
    """DSPy's `gsm8k_metric` as a bool that never raises: the last number of the answer's first line is compared.

    It reads "-5" as 5, "3/4" as 34 and "0.5" as 0. An answer without a digit it reads as 0, so that a failed parse
    would solve a problem whose answer is 0; here such an answer is always wrong.
    """
    answer = str(getattr(pred, "answer", None) or "")
    first_line = answer.strip().split("\n")[0]
    if not any(character.isdigit() for character in first_line):
        return False
    return bool(gsm8k_metric(example, dspy.Prediction(answer=answer)))


def load(source: str, split: Split | None = None, retriever: str = "") -> tuple[dict[str, list[dspy.Example]], None]:
    """Read the three parts of a source.

    "mini", or a folder with train.jsonl, dev.jsonl and test.jsonl ({"id", "question", "answer"} a line), comes cut.
    From the hub (openai/gsm8k), or from a folder with the publishers' train and test files ({"question", "answer"}
    with the result after "####"; JSONL as on GitHub, or the hub's Parquet), train and dev are cut from the official
    train set and test is all of the official test set; both are shuffled once, always the same way: 1000 / 500 / 1319
    (section 4).
    """
    fields = {"question": str, "answer": str}
    if source == "hub":
        rows = from_hub("openai/gsm8k", "main", fields)
    else:
        path = folder(source, "gsm8k")
        if is_cut(path):
            return read_parts(path, fields, ("question",)), None
        rows = {part: open_rows(path, patterns, fields) for part, patterns in OFFICIAL.items()}
    split = split or _PAPER
    examples = {
        part: [
            dspy.Example(id=f"gsm8k-{part}-{n}", question=row["question"], answer=_result(row, where))
            for n, (row, where) in enumerate(rows[part])
        ]
        for part in OFFICIAL
    }
    for part in examples.values():
        random.Random(0).shuffle(part)
    train = [example.with_inputs("question") for example in examples["train"]]
    test = [example.with_inputs("question") for example in examples["test"]]
    return {"train": train[: split.train], "dev": train[split.train : split.train + split.dev], "test": test}, None


def _result(row: dict[str, Any], where: str) -> str:
    """Return the number after "####", without thousands separators."""
    result = row["answer"].rpartition("####")[2].strip().replace(",", "")
    if "####" not in row["answer"] or not any(character.isdigit() for character in result):
        raise BtlibError(
            f"{where}: field 'answer' must end with '#### <number>', as in GSM8K's own files (a folder with answers "
            f"alone has a dev.jsonl too), got {row['answer'][-60:]!r}"
        )
    return result


TASK = TaskSpec(
    name="gsm8k",
    title="GSM8K",
    title_mini="gsm8k-mini",
    program=CoTProgram,
    metric=metric,
    load=load,
    splits={
        "smoke": Split(train=24, dev=12, test=24, bootstrap=12, validation=12),
        "laptop": Split(train=150, dev=50, test=150, bootstrap=50, validation=60),
        "colab": Split(train=200, dev=100, test=200, bootstrap=50, validation=100),
        "paper": _PAPER,
    },
    calls=(CallSize(108, 46, 60, 130 + 20, 22),),  # a question of 60 tokens, 130 of reasoning
    column=1,
    default=True,
)
