"""What a run will take, from its preset alone: LM calls, tokens and GPU hours. Estimates, never measurements.

LM calls. BFRS tries three fixed candidates and `num_candidate_programs` random ones on V, and bootstraps on T; a w-step
bootstraps on all of the training set; the test set follows. A program calls each of its modules once.

Tokens. Each call reads the system message, the demonstrations, and its own turn, and writes an answer (`calls` in the
task's file); after a p-step a prompt holds `max_labeled_demos` demonstrations, after a w-step none. A w-step trains on
every call in each epoch, as if all traces were correct.

GPU hours. 2 FLOPs for each weight and token that is written, or read: system message and demonstrations count once for
all calls that share them, as in btlib's engine. 4 for each weight and token trained on (LoRA needs no gradients of the
frozen weights), 6 with gradient checkpointing. Attention itself is left out. Divided by a `Throughput`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from btlib.lm.known import shape_of
from btlib.runs.spec import RunSpec
from btlib.tasks import find_task, preset_for, split_for

PAPER_HOURS = 75.0  # A100 hours for Table 1 (appendix C)


@dataclass(frozen=True)
class Throughput:
    """What a device gets done: FLOP/s in generation and in LoRA training, counted as in this module."""

    device: str
    generation: float
    training: float
    source: str  # "assumed: ...", or where and when it was measured


# No GPU has been measured yet. The shares of the published peaks are guesses: decoding is bound by memory more than by
# arithmetic. `python tests/benchmarks/bench_gpu.py` measures a device and prints the hours with its own figures.
ASSUMED: dict[str, Throughput] = {
    "paper": Throughput("A100", 31e12, 109e12, "assumed, not measured: 10% and 35% of its 312 TFLOP/s in bf16"),
    "colab": Throughput("T4", 1.6e12, 2.8e12, "assumed, not measured: 20% and 35% of its 8.1 TFLOP/s in fp32"),
}


@dataclass(frozen=True)
class Cost:
    """What runs take. `generated` and `trained` are FLOPs; None where the LM's size is not known."""

    lm_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    trained_tokens: int = 0
    generated: float | None = 0.0
    trained: float | None = 0.0

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Cost(*(None if a is None or b is None else a + b for a, b in pairs))

    def hours(self, throughput: Throughput) -> float | None:
        """Hours on one device; None where the LM's size is not known."""
        if self.generated is None or self.trained is None:
            return None
        return (self.generated / throughput.generation + self.trained / throughput.training) / 3600

    def rate(self, hours: float) -> float | None:
        """FLOP/s that doing all this in so many hours would mean, on average."""
        return (
            None if self.generated is None or self.trained is None else (self.generated + self.trained) / hours / 3600
        )


def estimate(spec: RunSpec) -> int:
    """Estimate a run's LM calls; DSPy's cache answers what was asked before, so that it may take fewer."""
    return sum(examples for examples, _ in _phases(spec)) * len(find_task(spec.task).calls)


def weight(spec: RunSpec) -> float:
    """Return a run's share of the work, in calls: training on a row counts as one call an epoch, starting up as 100."""
    epochs = preset_for(spec.preset, spec.task).epochs
    trained = _trained_examples(spec) * epochs * len(find_task(spec.task).calls)
    return 100 + estimate(spec) + trained


def cost(spec: RunSpec) -> Cost:
    """Estimate what a run takes: its last step and its test, not its prefix."""
    preset, calls, shape = preset_for(spec.preset, spec.task), find_task(spec.task).calls, shape_of(spec.model)
    tokens_in = read = tokens_out = 0
    for examples, demos in _phases(spec):
        for call in calls:
            shared, own = call.system + demos * call.demo, call.turn + call.inputs
            tokens_in += examples * (shared + own)
            read += shared + examples * own
            tokens_out += examples * call.outputs
    row = sum(call.system + call.turn + call.inputs + call.outputs for call in calls)
    trained = _trained_examples(spec) * preset.epochs * row
    per_token = 6 if preset.gradient_checkpointing else 4
    return Cost(
        lm_calls=estimate(spec),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        trained_tokens=trained,
        generated=2.0 * shape.weights * (read + tokens_out) if shape else None,
        trained=float(per_token) * shape.weights * trained if shape else None,
    )


def total(specs: Iterable[RunSpec]) -> Cost:
    """Add up the costs of runs."""
    return sum((cost(spec) for spec in specs), Cost())


def _phases(spec: RunSpec) -> list[tuple[int, int]]:
    """Return (examples, demonstrations in a prompt) for each pass over a part of the data."""
    preset = preset_for(spec.preset, spec.task)
    split, demos = split_for(spec.preset, spec.task), preset.max_labeled_demos
    ends = spec.strategy[-1:]
    phases = [(split.test, demos if ends == ("p",) else 0)]
    if ends == ("p",):
        phases += [(split.bootstrap, demos), (split.validation, 0)]
        phases += [(split.validation, demos)] * (preset.num_candidate_programs + 2)
    elif ends == ("w",):
        phases.append((split.train, demos if spec.strategy[-2:-1] == ("p",) else 0))
    return phases


def _trained_examples(spec: RunSpec) -> int:
    return split_for(spec.preset, spec.task).train if spec.strategy[-1:] == ("w",) else 0
