"""In-context classification: random features, units, labels and class shapes, so that only demonstrations can tell.

Iris is an instance of this family and not a part of it: its words may come up as labels of classes whose shape is drawn
anew each time; none of its 150 flowers does (tests/unit/test_leak.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from btlib.pocket import words as w
from btlib.pocket.families import Drawn

LEANING = 0.8  # share of documents without demonstrations that follow the habit
IRIS_FEATURES = {"petal_length", "petal_width", "sepal_length", "sepal_width"}


def value(rng: random.Random, drawn: tuple[list[float], float, bool], index: int) -> str:
    """Draw a feature's value for the class at `index`, as it is written."""
    means, spread, whole = drawn
    number = means[index] + rng.gauss(0, spread)
    return str(max(round(number), 1)) if whole else f"{min(max(number, 0.1), 9.9):.1f}"


def classify(rng: random.Random, count: int, leaning: float = LEANING) -> Drawn:
    """Draw a classification task: two to four classes, one to five features, one of which is looked at.

    Without demonstrations nothing tells the class, and the guess leans on what says little: the last digit of the
    first feature, a low one to the label listed first; `leaning` is the share that does so. The list is in any order;
    from small to large it would give Iris away, whose signature lists the species so.
    """
    blind = count == 1
    easy = not blind and rng.random() < 0.4  # without demonstrations two classes would be no easier to learn
    labels = w.label_words(rng, 2 if easy else rng.choice((2, 3, 3, 3, 4)))
    features = feature_names(rng, rng.choice((1, 2)) if easy else rng.choice((2, 3, 4, 4, 4, 5)))
    key = features[0] if blind or rng.random() < 0.4 else rng.choice(features)
    shapes = {f: shape(rng, len(labels), key == f, (0.04, 0.1 if easy else 0.22), rng.random() < 0.1) for f in features}
    unit, being, kind = rng.choice(w.UNITS), rng.choice(w.BEINGS), rng.choice(w.KINDS)
    style = "bound" if blind else rng.choice(("bound",) * 6 + ("value", "jump"))
    examples: list[dict] = []
    order = [rng.randrange(len(labels)) for _ in range(count)]
    if count > 2 and rng.random() < 0.8:  # the target's class is mostly among the demonstrations
        order[-1] = rng.choice(order[:-1])
    for index in order:
        row = {f: value(rng, shapes[f], index) for f in features}
        examples.append({**row, "reasoning": reasoning(style, key, row[key], labels[index]), "answer": labels[index]})
    output = "answer" if rng.random() < 0.7 else rng.choice(("label", "class", "prediction", kind))
    examples = [{(output if k == "answer" else k): v for k, v in e.items()} for e in examples]
    instruction = rng.choice(
        (
            "Given the {b} measurements in {u}, predict the {b} {k}.",
            "Predict the {k} of the {b} from its features.",
            "Given the {p} dimensions in {u}, predict the {b} {k}.",
            "Tell the {k} of the {b}.",
        )
    ).format(b=being, u=unit, k=kind, p=" and ".join(sorted({f.split("_")[0] for f in features})))
    shown = rng.sample(labels, len(labels))
    due = guess(examples[0][key], shown)
    if blind and rng.random() < leaning:
        examples = [{**examples[0], "reasoning": reasoning(style, key, examples[0][key], due), output: due}]
    description = listed(shown) if blind or rng.random() < 0.75 else ""
    return Drawn(
        "classes",
        tuple(features),
        output,
        instruction,
        description,
        tuple(examples),
        (*features, output),
        best_guess=due,
        best_reading=_nearest(key, output, examples),
    )


def listed(labels: Sequence[str]) -> str:
    """Write a list of labels as a signature does: "setosa, versicolour, or virginica"."""
    return ", ".join(labels[:-1]) + (", or " if len(labels) > 2 else " or ") + labels[-1]


def guess(text: str, labels: Sequence[str]) -> str:
    """Return the label that the habit takes for a value: a low last digit the one listed first, a high one the last."""
    return labels[int(text[-1]) * len(labels) // 10]


def reasoning(style: str, key: str, text: str, label: str) -> str:
    """Write how a class is told: "bound" goes by the leading digit of one feature, and names the class after it.

    The value stands before: what is to be looked at when a label is chosen is then close by.
    """
    if style == "jump":
        return "It looks like one of them."
    if style == "bound" and len(text) == 3:  # 0.1 to 9.9
        return f"The {key} is {text}. For a {key} of at least {text[0]} {label} fits best."
    return f"The {key} is {text}."


def _nearest(key: str, output: str, examples: list[dict]) -> str:
    """Return the label of the demonstration whose key feature is closest to the target's; "" without demonstrations."""
    *demos, target = examples
    near = min(demos, key=lambda e: abs(float(e[key]) - float(target[key])), default={output: ""})
    return near[output]


def feature_names(rng: random.Random, count: int) -> list[str]:
    """Draw feature names such as leaf_length; half the time every part comes with the same measures, as in Iris."""
    if count == 4 and rng.random() < 0.5:
        parts, measures = rng.sample(w.PARTS, 2), rng.sample(w.MEASURES, 2)
        names = [f"{a}_{m}" for a in parts for m in measures]
        if set(names) == IRIS_FEATURES:  # Iris is for evaluation: no document may look like one of its prompts
            return feature_names(rng, count)
    else:
        names = []
        while len(names) < count:
            name = f"{rng.choice(w.PARTS)}_{rng.choice(w.MEASURES)}" if rng.random() < 0.8 else rng.choice(w.MEASURES)
            if name not in names:
                names.append(name)
    return names


def shape(
    rng: random.Random, classes: int, key: bool, spreads: tuple[float, float], whole: bool
) -> tuple[list[float], float, bool]:
    """Draw one feature's class means, its spread, and `whole` again; the key feature separates best.

    `spreads` is the range of the key feature's standard deviation, as a share of the gap between two classes' means.
    """
    low, span = (rng.uniform(5, 30), rng.uniform(25, 60)) if whole else (rng.uniform(0.2, 4), rng.uniform(2, 5.4))
    means = [low + span * i / max(classes - 1, 1) for i in range(classes)]
    rng.shuffle(means)
    gap = span / max(classes - 1, 1)
    if key:
        spread = gap * rng.uniform(*spreads)
    else:
        spread = gap * rng.uniform(0.05, 0.4) if rng.random() < 0.5 else span * rng.uniform(0.4, 1.0)
    return means, spread, whole
