"""GSM8K: arithmetic word problems with one chain-of-thought module (appendix A, snippet 2). Taught in notebook 01."""

from __future__ import annotations

import random

import dspy
from dspy.datasets.gsm8k import gsm8k_metric

from btlib.presets import PRESETS, Split
from btlib.tasks._files import folder, from_hub, read_parts


class CoTProgram(dspy.Module):
    """A question, a chain of thought, an answer."""

    def __init__(self):
        super().__init__()
        self.prog = dspy.ChainOfThought("question -> answer")

    def forward(self, question):
        return self.prog(question=question)


program = CoTProgram


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


def load(source: str, split: Split | None = None) -> tuple[dict[str, list[dspy.Example]], None]:
    """Read the three parts. From the hub: train and dev of the official train set, and all of the official test set.

    The official sets are shuffled once, always the same way, before they are cut: 1000 / 500 / 1319 (section 4).
    """
    if source != "hub":
        return read_parts(folder(source, "gsm8k-mini"), {"question": str, "answer": str}, ("question",)), None
    split = split or PRESETS["paper"].split("gsm8k")
    data = from_hub("openai/gsm8k", "main")
    rows = {}
    for part in ("train", "test"):
        rows[part] = [
            dspy.Example(
                id=f"gsm8k-{part}-{index}",
                question=row["question"],
                answer=row["answer"].rsplit("####", 1)[-1].strip().replace(",", ""),
            ).with_inputs("question")
            for index, row in enumerate(data[part])
        ]
        random.Random(0).shuffle(rows[part])
    train, dev = rows["train"][: split.train], rows["train"][split.train : split.train + split.dev]
    return {"train": train, "dev": dev, "test": rows["test"]}, None
