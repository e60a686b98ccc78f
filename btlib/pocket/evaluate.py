"""Judge an LM on fresh documents: exact answers by task family and number of demonstrations, and format.

Documents come from a seed that pre-training does not use. Every document draws its conventions at random, so zero-shot
even a perfect reader often guesses wrong; that ceiling rises with demonstrations and stands beside every score.
`python -m btlib.pocket.evaluate MODEL_FOLDER`, or for the snapshots that pre-training left, with a figure of accuracy
against tokens seen: `python -m btlib.pocket.evaluate --run runs/pretrain`.
"""

from __future__ import annotations

import argparse
import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import dspy
from dspy.lm15 import Config, Message, Request

from btlib.lm import load_lm
from btlib.lm.engine.engine import SLOTS
from btlib.pocket import classes, corpus
from btlib.support.files import write_json

SEED = 77


@dataclass(frozen=True)
class Score:
    """Shares (percent) over `documents` documents of one family with one number of demonstrations."""

    family: str
    demos: int
    documents: int
    exact: float  # the target field, character by character
    followed: float  # answers that ChatAdapter parses in full
    perfect: float  # what a reader reaches who knows all but the document's hidden conventions
    tokens: int = 0  # seen in pre-training by then; 0 where unknown


def answers(folder: Path, documents: list[corpus.Document], max_tokens: int = 96) -> list[str]:
    """Let the LM write each document's last turn, greedily; returns the assistants' texts in order."""
    engine = load_lm(str(folder)).engine

    def answer(document: corpus.Document) -> str:
        system, *turns = document.messages[:-1]
        said = tuple(getattr(Message, turn["role"])(turn["content"]) for turn in turns)
        config = Config(max_tokens=max_tokens, temperature=0.0)
        return engine.complete(Request(engine.model_id, said, system=system["content"], config=config)).text

    with ThreadPoolExecutor(SLOTS) as pool:
        return list(pool.map(answer, documents))


def followed(document: corpus.Document, text: str) -> bool:
    """Say whether the text has every field of the document's own answer, in ChatAdapter's form and order."""
    heads = [line for line in document.messages[-1]["content"].splitlines() if line.startswith("[[ ## ")]
    return [line for line in text.splitlines() if line.startswith("[[ ## ")] == heads


def field(text: str, name: str) -> str:
    """Return what stands under a field's head, or "" where the head is missing."""
    _, head, rest = text.partition(f"[[ ## {name} ## ]]\n")
    return rest.split("\n\n[[ ## ")[0].strip() if head else ""


def evaluate(
    folder: Path,
    documents: int = 60,
    demos: tuple[int, ...] = (0, 3, 6),
    families: tuple[str, ...] = tuple(corpus.FAMILIES),
    tokens: int = 0,
) -> list[Score]:
    """Score a model folder on `documents` fresh documents of each family and number of demonstrations."""
    cells = [(f, k) for f in families for k in demos]
    drawn = {c: list(islice(corpus.documents(SEED, family=c[0], demos=c[1]), documents)) for c in cells}
    everything = [d for c in cells for d in drawn[c]]
    texts = iter(answers(folder, everything))
    scores = []
    for cell in cells:
        said = [(d, next(texts)) for d in drawn[cell]]
        exact = sum(field(t, d.output) == d.target for d, t in said)
        formed = sum(followed(d, t) for d, t in said)
        perfect = sum(d.readable for d, _ in said)
        shares = (100 * n / len(said) for n in (exact, formed, perfect))
        scores.append(Score(*cell, len(said), *shares, tokens))
    return scores


def habit(folder: Path, documents: int = 150) -> float:
    """Return the percentage of classifications without demonstrations whose answer is the label that the habit takes.

    Of those of two to four labels that a guess at random would take, a little more than a third.
    """
    drawn = [classes.classify(random.Random(f"{SEED}:habit:{i}"), 1) for i in range(documents)]
    texts = answers(folder, [corpus.to_document(d, 0) for d in drawn])
    return 100 * sum(field(t, d.output) == d.best_guess for d, t in zip(drawn, texts, strict=True)) / documents


def shown_label(document: corpus.Document) -> str:
    """Return the label that a classification's demonstrations show for the target's very digit; "" where none does, or
    where they show several.
    """
    told = [re.search(r"of at least (\d) (\S+) fits best", m["content"]) for m in document.messages[2::2]]
    *demos, target = [match.groups() if match else None for match in told]
    labels = {demo[1] for demo in demos if demo and target and demo[0] == target[0]}
    return labels.pop() if len(labels) == 1 else ""


def reading(folder: Path, demos: int, documents: int = 300) -> tuple[float, int]:
    """Return the percentage of classifications whose answer is the label shown for the very digit, and how many of
    `documents` show one. The rest of them have to be told from other digits.
    """
    drawn = islice(corpus.documents(SEED, family="classes", demos=demos), documents)
    shown = [(document, label) for document in drawn if (label := shown_label(document))]
    texts = answers(folder, [document for document, _ in shown])
    right = sum(field(text, d.output) == label for (d, label), text in zip(shown, texts, strict=True))
    return 100 * right / len(shown), len(shown)


def table(scores: list[Score]) -> str:
    """Lay out scores as a Markdown table: "exact / a perfect reader", rows are families, columns demonstrations."""
    demos = sorted({s.demos for s in scores})
    cell = {(s.family, s.demos): s for s in scores}
    lines = ["| family | " + " | ".join(f"{k} demonstrations" for k in demos) + " |", "|---" * (len(demos) + 1) + "|"]
    for family in dict.fromkeys(s.family for s in scores):
        row = [f"{cell[family, k].exact:.0f} / {cell[family, k].perfect:.0f}" for k in demos]
        lines.append(f"| {family} | " + " | ".join(row) + " |")
    lowest = min(s.followed for s in scores)
    n = scores[0].documents
    return "\n".join(
        [*lines, "", f"{n} documents a cell; at least {lowest:.0f}% of every cell's answers have the form."]
    )


FIGURE_FAMILIES = ("query", "answer", "problem", "classes")


def figure(scores: list[Score], path: Path) -> None:
    """Draw accuracy against tokens seen: a panel a family, a line a number of demonstrations, dotted the ceiling."""
    from matplotlib.figure import Figure

    colours = dict(zip(sorted({s.demos for s in scores}), ("#7F7F7F", "#0072B2", "#E69F00", "#009E73"), strict=False))
    panels = Figure(figsize=(11, 3), layout="constrained").subplots(1, len(FIGURE_FAMILIES), sharey=True)
    for axes, family in zip(panels, FIGURE_FAMILIES, strict=True):
        for demos, colour in colours.items():
            line = sorted((s for s in scores if (s.family, s.demos) == (family, demos)), key=lambda s: s.tokens)
            x = [s.tokens / 1e6 for s in line]
            axes.plot(x, [s.exact for s in line], "o-", color=colour, markersize=3, label=f"{demos} demonstrations")
            axes.axhline(line[-1].perfect, color=colour, linestyle=":", linewidth=1)
        axes.set(title=family, xlabel="tokens seen (millions)", ylim=(0, 103))
    panels[0].set_ylabel("exact answers (%)")
    panels[0].legend(fontsize=8, frameon=False)
    panels[0].figure.savefig(path, dpi=110)


def evaluate_run(run: Path, documents: int) -> list[Score]:
    """Score every snapshot of a pre-training run; writes accuracy.json and accuracy.png into its folder."""
    scores: list[Score] = []
    for folder in sorted((run / "snapshots").iterdir(), key=lambda f: int(f.name)):
        scores += evaluate(folder, documents, families=FIGURE_FAMILIES, tokens=int(folder.name))
        print(f"{int(folder.name) / 1e6:.1f}M tokens", table(scores[-3 * len(FIGURE_FAMILIES) :]), sep="\n", flush=True)
    write_json(run / "accuracy.json", {"scores": [asdict(s) for s in scores]})
    figure(scores, run / "accuracy.png")
    return scores


def main() -> None:
    """Print the table of a model folder, or of every snapshot of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="a model folder")
    parser.add_argument("--run", type=Path, help="a pre-training run: score its snapshots instead")
    parser.add_argument("--documents", type=int, default=60, help="for each cell (default: 60)")
    args = parser.parse_args()
    if not (args.folder or args.run):
        parser.error("give a model folder, or --run with the folder of a pre-training run")
    dspy.configure(lm=None)
    if args.run:
        evaluate_run(args.run, args.documents)
    else:
        print(table(evaluate(args.folder, args.documents)))
        print(f"Classes without demonstrations: {habit(args.folder):.0f}% of the answers of 150 follow the habit.")
        for demos in (3, 6):
            share, count = reading(args.folder, demos)
            print(
                f"Classes, {demos} demonstrations: {share:.0f}% of {count} answers are the label shown for the digit."
            )


if __name__ == "__main__":
    main()
