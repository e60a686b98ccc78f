"""Iris: name the species from four measurements (appendix A, snippet 3).

    in      petal_length 1.4, petal_width 0.2, sepal_length 5.1, sepal_width 3.5
    out     reasoning, and answer: setosa
    metric  the species is the right one: exact match, whatever the case

A note on spelling. The paper's signature says 'versicolour', most public copies of the data say 'versicolor', and exact
match of the two is False: an LM that follows the signature would be marked wrong on a third of the flowers. Labels
and signature must agree, so the labels here are spelled as in the signature, and another spelling is refused.
Taught in notebook 01.
"""

from __future__ import annotations

import csv
import random

import dspy

from btlib.errors import BtlibError
from btlib.presets import Split
from btlib.support.paths import data_dir
from btlib.tasks._files import PARTS, folder
from btlib.tasks._match import exact_match
from btlib.tasks._spec import CallSize, TaskSpec

FEATURES = ("petal_length", "petal_width", "sepal_length", "sepal_width")
COLUMNS = (*FEATURES, "species")
LABELS = ("setosa", "versicolour", "virginica")


class IrisSignature(dspy.Signature):
    "Given the petal and sepal dimensions in cm, predict the iris species."

    petal_length = dspy.InputField()
    petal_width = dspy.InputField()
    sepal_length = dspy.InputField()
    sepal_width = dspy.InputField()
    answer = dspy.OutputField(desc="setosa, versicolour, or virginica")


class IrisProgram(dspy.Module):
    """One chain-of-thought module over the four measurements."""

    def __init__(self):
        super().__init__()
        self.pred = dspy.ChainOfThought(IrisSignature)

    def forward(self, petal_length, petal_width, sepal_length, sepal_width):
        return self.pred(
            petal_length=petal_length, petal_width=petal_width, sepal_length=sepal_length, sepal_width=sepal_width
        )


def metric(example: dspy.Example, pred: dspy.Prediction, trace=None) -> bool:
    """Exact match of the species, after DSPy's normalization; an answer that is missing or empty is wrong."""
    return exact_match(example, pred)


def load(source: str, split: Split | None = None, retriever: str = "") -> tuple[dict[str, list[dspy.Example]], None]:
    """Read the flowers and cut them into three equal parts by a shuffle that never changes (50/50/50, appendix C).

    All 150 flowers are real, so "mini" and "hub" are the same file here, and so is a folder that has no iris.csv.
    """
    path = (data_dir() if source in ("mini", "hub") else folder(source, "iris")) / "iris.csv"
    path = path if path.exists() else data_dir() / "iris.csv"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # some editors put a mark in front
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
            header = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            rows = [(reader.line_num, {name: (row.get(name) or "").strip() for name in COLUMNS}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BtlibError(f"cannot read {path}: {error}") from error
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise BtlibError(
            f"{path}, line 1: field {missing[0]!r} is missing; the header must name {', '.join(COLUMNS)}, it is "
            f"{first.strip()!r:.200}"
        )
    examples = [_example(path, line, index, row) for index, (line, row) in enumerate(rows)]
    random.Random(0).shuffle(examples)
    third = len(examples) // 3
    return {part: examples[i * third : (i + 1) * third] for i, part in enumerate(PARTS)}, None


def _example(path, line: int, index: int, row: dict[str, str]) -> dspy.Example:
    for name in FEATURES:
        try:
            valid = 0 < float(row[name]) < 100
        except ValueError:
            valid = False
        if not valid:
            raise BtlibError(f"{path}, line {line}: field {name!r} must be a length in cm, got {row[name]!r}")
    if row["species"] not in LABELS:
        raise BtlibError(
            f"{path}, line {line}: field 'species' must be one of {', '.join(LABELS)} (spelled as in the signature), "
            f"got {row['species']!r}"
        )
    values = {name: row[name] for name in FEATURES}
    return dspy.Example(id=f"iris-{index:03d}", **values, answer=row["species"]).with_inputs(*FEATURES)


_PAPER = Split(train=50, dev=50, test=50, bootstrap=15, validation=35)  # small enough for everyone
TASK = TaskSpec(
    name="iris",
    title="Iris",
    program=IrisProgram,
    metric=metric,
    load=load,
    splits={
        "smoke": Split(train=24, dev=50, test=30, bootstrap=12, validation=12),
        "laptop": _PAPER,
        "colab": _PAPER,
        "paper": _PAPER,
    },
    # 15 flowers are few to bootstrap from: 24 draws find better prompts than 12 or 6 (notebooks/pages/candidates.md)
    settings={"laptop": {"num_candidate_programs": 24}},
    calls=(CallSize(198, 72, 12, 80 + 20, 48),),  # four numbers in, 80 tokens of reasoning out
    column=2,
    default=True,
)
