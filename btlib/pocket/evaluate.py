"""Judge an LM on fresh documents: exact answers by task family and number of demonstrations, and format.

Documents come from a seed that pre-training does not use. Every document draws its conventions at random, so zero-shot
even a perfect reader often guesses wrong; that ceiling rises with demonstrations.
`python -m btlib.pocket.evaluate MODEL_FOLDER`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import dspy

from btlib.pocket import corpus

SEED = 77


@dataclass(frozen=True)
class Score:
    """Shares (percent) over `documents` documents of one family with one number of demonstrations."""

    family: str
    demos: int
    documents: int
    exact: float  # the target field, character by character
    followed: float  # answers that ChatAdapter parses in full


def answers(folder: Path, documents: list[corpus.Document], batch: int = 32, max_new_tokens: int = 96) -> list[str]:
    """Generate greedily for documents of like length together; returns the assistants' texts in order."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    prompts = [
        tokenizer.apply_chat_template(list(d.messages[:-1]), tokenize=False, add_generation_prompt=True)
        for d in documents
    ]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        inputs = tokenizer([prompts[i] for i in group], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
            )
        for i, row in zip(group, out[:, inputs.input_ids.shape[1] :], strict=True):
            texts[i] = tokenizer.decode(row, skip_special_tokens=True)
    return texts


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
        scores.append(Score(*cell, len(said), 100 * exact / len(said), 100 * formed / len(said)))
    return scores


def table(scores: list[Score]) -> str:
    """Lay out scores as a Markdown table: rows are families, columns demonstrations; exact (form followed)."""
    demos = sorted({s.demos for s in scores})
    cell = {(s.family, s.demos): s for s in scores}
    lines = ["| family | " + " | ".join(f"{k} demonstrations" for k in demos) + " |", "|---" * (len(demos) + 1) + "|"]
    for family in dict.fromkeys(s.family for s in scores):
        row = [f"{cell[family, k].exact:.0f}% ({cell[family, k].followed:.0f}%)" for k in demos]
        lines.append(f"| {family} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of a model folder, and write it as JSON beside the model where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dspy.configure(lm=None)
    scores = evaluate(args.folder, args.documents)
    print(table(scores))
    if args.json:
        args.json.write_text(json.dumps([asdict(s) for s in scores], indent=1))


if __name__ == "__main__":
    main()
