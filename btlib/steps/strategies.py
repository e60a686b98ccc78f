"""A strategy is a tuple of steps, and running it is a fold over them.

    run(vanilla state, ("p", "w", "p"))  =  p(w(p(vanilla state)))

"p" optimizes the prompts (Π), "w" the weights (Θ). Section 3 lists the paper's eight; any other sequence of the two
runs as well. Taught in notebook 05.
"""

from __future__ import annotations

from collections.abc import Iterable

from btlib.errors import unknown

Steps = tuple[str, ...]

# The paper's, in the order of its tables; a strategy comes after all of its prefixes.
STRATEGIES: tuple[Steps, ...] = (
    (),
    ("p",),
    ("w",),
    ("p", "p"),
    ("w", "w"),
    ("p", "w"),
    ("w", "p"),
    ("p", "w", "p"),
)
VANILLA = "vanilla"
_SYMBOLS = {"p": "Π", "w": "Θ"}


def strategy_name(steps: Steps) -> str:
    """Return the name in tables and run.json: "p -> w -> p", and "" for the vanilla program."""
    return " -> ".join(steps)


def strategy_slug(steps: Steps) -> str:
    """Return the name of a run's folder: "p-w-p", and "vanilla"."""
    return "-".join(steps) or VANILLA


def label(steps: Steps) -> str:
    """Return the paper's symbols: "Π→Θ→Π", and "Vanilla Zero-shot"."""
    return "→".join(_SYMBOLS[step] for step in steps) or "Vanilla Zero-shot"


def parse_strategy(text: str) -> Steps:
    """Read a name, a slug or a label in any spacing: "p -> w", "p-w", "Π→Θ", "vanilla" and "" are all understood.

    What is no sequence of p and w is a BtlibError that lists the paper's eight.
    """
    plain = "".join(str(text).split()).lower().replace("π", "p").replace("θ", "w")
    parts = plain.replace("->", "-").replace("→", "-").split("-")
    steps = () if plain in ("", VANILLA, "vanillazeroshot", "vanillazero-shot") else tuple(parts)
    if not set(steps) <= set(_SYMBOLS):
        names = [strategy_name(known) or VANILLA for known in STRATEGIES]
        raise unknown("strategy", text, names, "or any other sequence of p (prompts) and w (weights), such as p-w-p-w")
    return steps


def in_order(strategies: Iterable[Steps]) -> list[Steps]:
    """Return strategies in the order of tables, each once: the paper's eight first, then others from short to long."""
    return sorted(set(strategies), key=lambda steps: (steps not in STRATEGIES, _place(steps)))


def _place(steps: Steps) -> tuple:
    return (STRATEGIES.index(steps),) if steps in STRATEGIES else (len(steps), steps)
