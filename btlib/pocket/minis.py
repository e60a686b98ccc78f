"""Make the data of hotpotqa-mini and gsm8k-mini: `python -m btlib.pocket.minis`, always the same files.

Both come from the generators of the pre-training corpus, from names that pre-training never draws and from seeds of
their own (data/README.md; tests/unit/test_leak.py holds the two apart).
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from btlib.pocket import problems, worlds
from btlib.support.paths import data_dir

SEED = 20240710
SIZES = {"train": 400, "dev": 200, "test": 400}


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines, by a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(temporary, path)


def hotpotqa_mini() -> tuple[list[dict], dict[str, list[dict]]]:
    """Make the passages and the questions: one world of held-out names, each question asked once over all splits."""
    rng = random.Random(f"hotpotqa-mini:{SEED}")
    world = worlds.make_world(rng, people=1700, works=520, towns=130, held=True)
    passages = [{"title": title, "text": text} for title, text in world.pages.items()]
    rng.shuffle(passages)
    splits, asked = {}, set()
    for name, size in SIZES.items():
        rows = []
        while len(rows) < size:
            q = worlds.ask(rng, world)
            if (q.entity, q.answer) not in asked:
                asked.add((q.entity, q.answer))
                rows.append(
                    {
                        "id": f"{name}-{len(rows):04d}",
                        "question": q.question,
                        "answer": q.answer,
                        "gold_titles": list(q.gold_titles),
                    }
                )
        splits[name] = rows
    return passages, splits


def gsm8k_mini() -> dict[str, list[dict]]:
    """Make word problems about people whom no pre-training problem is about.

    They are longer (two to four steps) and have larger numbers than most of pre-training's, so that the task asks for
    more than a convention.
    """
    rng = random.Random(f"gsm8k-mini:{SEED}")
    splits, asked = {}, set()
    for name, size in SIZES.items():
        rows = []
        while len(rows) < size:
            p = problems.make_problem(rng, held=True, steps=rng.choice((2, 3, 4)), large=0.3)
            if p.question not in asked:
                asked.add(p.question)
                steps = [f"{a} {s} {b} = {r}" for a, s, b, r in p.steps]
                rows.append(
                    {"id": f"{name}-{len(rows):04d}", "question": p.question, "answer": str(p.answer), "steps": steps}
                )
        splits[name] = rows
    return splits


def main() -> None:
    """Write both data sets into the data folder."""
    passages, questions = hotpotqa_mini()
    write_jsonl(data_dir() / "hotpotqa-mini" / "passages.jsonl", passages)
    for name, rows in questions.items():
        write_jsonl(data_dir() / "hotpotqa-mini" / f"{name}.jsonl", rows)
    for name, rows in gsm8k_mini().items():
        write_jsonl(data_dir() / "gsm8k-mini" / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
