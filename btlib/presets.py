"""Every number of an experiment in one place: four presets, from a CI machine to the paper's own setting.

`smoke` runs in CI, `laptop` (the default) on a CPU, `colab` on one small GPU, and `paper` is appendix C. Taught in
notebook 01; the numbers of optimization in notebooks 03 (BFRS) and 04 (LoRA).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from btlib.errors import BtlibError, unknown

TASKS = ("iris", "gsm8k", "hotpotqa")  # the order of running: cheapest first
DEFAULT_PRESET = "laptop"

_ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Split:
    """How many examples each part of a task has.

    `bootstrap` (T) and `validation` (V) are the two disjoint parts of `train` that BFRS works on (Algorithm 2 line 2);
    fine-tuning bootstraps on all of `train`.
    """

    train: int
    dev: int
    test: int
    bootstrap: int
    validation: int

    def __post_init__(self) -> None:
        if min(self.train, self.dev, self.test, self.bootstrap, self.validation) < 1:
            raise BtlibError(f"every size of a split must be at least 1, got {self}")
        if self.bootstrap + self.validation > self.train:
            raise BtlibError(
                f"bootstrap {self.bootstrap} + validation {self.validation} examples do not fit in train {self.train}; "
                "lower one of them or enlarge train"
            )


@dataclass(frozen=True)
class Preset:
    """The settings of one experiment (appendix C names them; `PRESETS["paper"]` holds the paper's own).

    Demonstrations: DSPy caps the *total* of a prompt at `max_labeled_demos`; bootstrapped ones come first, labelled
    ones fill up the rest. With 3 and 3, a prompt with 3 bootstrapped demonstrations has no labelled one; with 3 and 6
    it has 3 more. `num_candidate_programs` counts the random candidates, for all tasks or for each (`candidates` says
    how many): DSPy tries three fixed ones besides.
    Sampling: `max_tokens` are new tokens, `context_length` is the prompt and the answer together.
    """

    name: str
    splits: Mapping[str, Split]
    tasks: tuple[str, ...] = TASKS
    models: tuple[str, ...] = ("pocket",)
    source: str = "mini"  # where load_task finds the data: mini, hub, or a folder
    retriever: str = ""  # what HotPotQA searches: a ColBERTv2 server's URL, a file of passages, "" for the source's own
    seeds: tuple[int, ...] = (0, 1, 2)
    # Prompt optimization (BFRS)
    max_bootstrapped_demos: int = 3
    max_labeled_demos: int = 6
    num_candidate_programs: int | Mapping[str, int] = 6
    # Sampling
    temperature: float = 0.1
    top_p: float = 0.97
    max_tokens: int = 200
    context_length: int = 2048
    # The HotPotQA program
    passages_per_hop: int = 3
    num_hops: int = 2
    # Fine-tuning (BFT with LoRA); targets, ranks, rates and epochs are compared in the README, "LoRA settings"
    lora_rank: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = _ATTENTION_AND_MLP
    epochs: int = 5
    learning_rate: float = 3e-3
    batch_size: int = 8  # effective: micro_batch_size times the gradient accumulation steps
    micro_batch_size: int = 8  # rows at once, to start with: halved where memory is full
    gradient_checkpointing: bool = False  # less memory, more time: activations are computed twice
    training_seed: int = 0  # LoRA's initial weights and batch order; a run's seed only shuffles the training set
    # Machine
    dtype: str = "auto"  # what generates and trains: "float32", "bfloat16", or "auto", bf16 where the hardware has it
    num_threads: int = 128

    def __post_init__(self) -> None:
        for name in ("splits", "num_candidate_programs"):
            if isinstance(value := getattr(self, name), Mapping):
                object.__setattr__(self, name, MappingProxyType(dict(value)))
        if self.batch_size % self.micro_batch_size:
            raise BtlibError(
                f"preset {self.name}: batch_size {self.batch_size} is no multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )

    def __reduce__(self):  # a mapping proxy cannot be pickled or copied
        return _rebuild, ({k: dict(v) if isinstance(v, Mapping) else v for k, v in self.__dict__.items()},)

    def split(self, task: str) -> Split:
        """Return the sizes for a task; an unknown name is an error that lists the valid ones."""
        if task not in self.splits:
            raise unknown("task", task, self.splits)
        return self.splits[task]

    def candidates(self, task: str) -> int:
        """Return the number of random candidates of BFRS for a task; an unknown name lists the valid ones."""
        if not isinstance(self.num_candidate_programs, Mapping):
            return self.num_candidate_programs
        if task not in self.num_candidate_programs:
            raise unknown("task", task, self.num_candidate_programs)
        return self.num_candidate_programs[task]


def _rebuild(values: dict) -> Preset:
    return Preset(**values)


_IRIS = Split(train=50, dev=50, test=50, bootstrap=15, validation=35)  # the paper's own, small enough for everyone
_LAPTOP = Split(train=150, dev=50, test=150, bootstrap=50, validation=60)
_SMOKE = Split(train=24, dev=12, test=24, bootstrap=12, validation=12)
_COLAB = Split(train=200, dev=100, test=200, bootstrap=50, validation=100)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="smoke",
                splits={
                    "iris": Split(train=24, dev=50, test=30, bootstrap=12, validation=12),
                    "gsm8k": _SMOKE,
                    "hotpotqa": _SMOKE,
                },
                seeds=(0,),
                num_candidate_programs=2,
                epochs=2,
                dtype="float32",  # bf16 rounds differently on each kind of CPU
            ),
            Preset(
                name="laptop",
                splits={"iris": _IRIS, "gsm8k": _LAPTOP, "hotpotqa": _LAPTOP},
                seeds=(0,),
                # 15 flowers are few to bootstrap from: 24 draws find better prompts than 12 or 6 (README, "Candidates")
                num_candidate_programs={"iris": 24, "gsm8k": 6, "hotpotqa": 6},
                # Best on the version of the LM before, level with the best on this one (README, "LoRA settings")
                lora_rank=8,
                lora_alpha=16,
                epochs=10,
                dtype="float32",  # bf16 rounds differently on each kind of CPU
            ),
            Preset(
                name="colab",
                splits={"iris": _IRIS, "gsm8k": _COLAB, "hotpotqa": _COLAB},
                models=("Qwen/Qwen3-0.6B",),
                source="hub",
                seeds=(0,),  # 24 runs: an evening on 16 GB; --seeds 0 1 2 for the paper's three
                max_labeled_demos=3,
                max_tokens=512,
                context_length=8192,
                learning_rate=1e-4,
                gradient_checkpointing=True,
                num_threads=32,  # 32 long prompts at once leave room on 16 GB without bf16
            ),
            Preset(
                name="paper",
                splits={
                    "iris": _IRIS,
                    "gsm8k": Split(train=1000, dev=500, test=1319, bootstrap=100, validation=250),
                    "hotpotqa": Split(train=1000, dev=500, test=1500, bootstrap=100, validation=250),
                },
                models=(
                    "mistralai/Mistral-7B-Instruct-v0.2",
                    "meta-llama/Llama-2-7b-chat-hf",
                    "meta-llama/Meta-Llama-3-8B-Instruct",
                ),
                source="hub",
                max_labeled_demos=3,
                # The paper's 1024 count the prompt in. Demonstrations in today's longer ChatAdapter prompts do not fit,
                # so here they bound the answer, and the context is what the smallest of the three LMs has.
                max_tokens=1024,
                context_length=4096,
                lora_targets=("q_proj", "k_proj"),
                learning_rate=1e-5,
                gradient_checkpointing=True,
                dtype="bfloat16",
            ),
        )
    }
)


def load_preset(name: str | Preset = DEFAULT_PRESET) -> Preset:
    """Return a preset by name (default `laptop`; a Preset passes through); an unknown name lists the valid ones.

    The variables BTLIB_SOURCE and BTLIB_RETRIEVER replace `source` and `retriever`; `btlib grid --data --retriever`
    sets them, and so they reach every process of a grid.
    """
    if isinstance(name, Preset):
        return name
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    given = {field: os.environ.get(f"BTLIB_{field.upper()}") for field in ("source", "retriever")}
    return replace(PRESETS[name], **{field: value for field, value in given.items() if value})
