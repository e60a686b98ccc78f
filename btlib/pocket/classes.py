"""In-context classification: random features, units, labels and class shapes, so that only demonstrations can tell.

Iris is an instance of this family and not a part of it: its words may come up as labels of classes whose shape is drawn
anew each time; none of its 150 flowers does (tests/unit/test_leak.py).
"""

from __future__ import annotations

import random

from btlib.pocket import words as w
from btlib.pocket.families import Drawn, leaning

ASCENDING = 0.4  # share of documents whose instruction lists the classes from small to large, as people often do
LEANING = 0.8  # share of late documents without demonstrations that follow the habit
IRIS_FEATURES = {"petal_length", "petal_width", "sepal_length", "sepal_width"}


def value(rng: random.Random, drawn: tuple[list[float], float, bool], index: int) -> str:
    """Draw a feature's value for the class at `index`, as it is written."""
    means, spread, whole = drawn
    number = means[index] + rng.gauss(0, spread)
    return str(max(round(number), 1)) if whole else f"{min(max(number, 0.1), 9.9):.1f}"


def classify(rng: random.Random, count: int, late: bool = False) -> Drawn:
    """Draw a classification task: two to four classes, one to five features, one of which is looked at.

    `late` is how the last tokens of pre-training have it: classes are listed in any order, and without demonstrations
    the guess leans on the leading digit, which tells nothing there: each digit has its place in the list. Lists from
    small to large had given Iris away: that is the order in which its signature lists the species.
    """
    easy = rng.random() < 0.4
    labels = w.label_words(rng, 2 if easy else rng.choice((2, 3, 3, 3, 4)))
    features = feature_names(rng, rng.choice((1, 2)) if easy else rng.choice((2, 3, 4, 4, 4, 5)))
    blind = late and count == 1
    key = features[0] if blind or rng.random() < 0.4 else rng.choice(features)
    shapes = {f: shape(rng, len(labels), key == f, (0.04, 0.1 if easy else 0.22), rng.random() < 0.2) for f in features}
    unit, being, kind = rng.choice(w.UNITS), rng.choice(w.BEINGS), rng.choice(w.KINDS)
    style = "bound" if blind else rng.choice(("bound", "bound", "value", "jump"))
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
    shown = [label for _, label in sorted(zip(shapes[key][0], labels, strict=True))]
    if late or rng.random() > ASCENDING:
        rng.shuffle(shown)
    guess = leaning(f"label {examples[0][key][0]}", shown)
    if blind and rng.random() < LEANING:
        examples = [{**examples[0], "reasoning": reasoning(style, key, examples[0][key], guess), output: guess}]
    listed = ", ".join(shown[:-1]) + (", or " if len(shown) > 2 else " or ") + shown[-1]
    description = listed if blind or rng.random() < 0.75 else ""
    return Drawn(
        "classes",
        tuple(features),
        output,
        instruction,
        description,
        tuple(examples),
        (*features, output),
        best_guess=guess if blind else _first_guess(shapes[key][0], examples[-1][key], shown),
        best_reading=_nearest(key, output, examples),
    )


def reasoning(style: str, key: str, text: str, label: str) -> str:
    """Write how a class is told: "bound" goes by the leading digit of one feature, and names the class after it."""
    if style == "jump":
        return "It looks like one of them."
    if style == "bound" and len(text) == 3:  # 0.1 to 9.9
        return f"For a {key} of at least {text[0]} {label} fits best."
    return f"The {key} is {text}."


def _first_guess(means: list[float], text: str, shown: list[str]) -> str:
    """Return the listed label that a reader would guess without demonstrations: the k-th of k where the k-th is due."""
    near = min(sorted(means), key=lambda m: abs(m - float(text)))
    return shown[sorted(means).index(near)]


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
