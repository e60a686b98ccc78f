"""Every number of an experiment in one place: four presets, from a CI machine to the paper's own setting.

`smoke` runs in CI, `laptop` (the default) on a CPU, `colab` on one small GPU, and `paper` is appendix C. How many
examples a task has in each is said in the task's own file (btlib/tasks). Taught in notebook 01; the numbers of
optimization in notebooks 03 (BFRS) and 04 (LoRA).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from btlib.errors import BtlibError, unknown

DEFAULT_PRESET = "laptop"

_ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = ("auto", "float32", "bfloat16")
READINGS = ("strict", "lenient")
_FROM_1 = "max_bootstrapped_demos max_tokens context_length num_hops lora_rank lora_alpha epochs num_threads".split()
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple[int, ...]": "whole numbers with commas between",
    "tuple[str, ...]": "names with commas between",
}
_FIXED = ("name", "base", "changes", "splits")  # fields that `load_preset(changes=...)` does not take


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

    `base` is the built-in preset that this one is made from, and `changes` what it changes: a preset with changes has
    runs of its own. `splits` holds the sizes of tasks that are not to have the ones in their files.
    Demonstrations: DSPy caps the *total* of a prompt at `max_labeled_demos`; bootstrapped ones come first, labelled
    ones fill up the rest. With 3 and 3, a prompt with 3 bootstrapped demonstrations has no labelled one; with 3 and 6
    it has 3 more. `num_candidate_programs` counts the random candidates: DSPy tries three fixed ones besides.
    Sampling: `max_tokens` are new tokens, `context_length` is the prompt and the answer together. `reading` says how an
    answer is read: "strict", as DSPy does, or "lenient", which also takes markers that are nearly right.
    """

    name: str
    base: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()  # (): those of the paper
    models: tuple[str, ...] = ("pocket",)
    seeds: tuple[int, ...] = (0, 1, 2)
    # Where things are
    source: str = "mini"  # where a task finds its data: mini, hub, or a folder
    retriever: str = ""  # what a task with search searches: a ColBERTv2 server's URL, a file, "" for the source's own
    api_base: str = ""  # the URL of an OpenAI-compatible server, for LMs named openai/...
    # Prompt optimization (BFRS)
    max_bootstrapped_demos: int = 3
    max_labeled_demos: int = 6
    num_candidate_programs: int = 6
    shuffle_between_steps: bool = False  # False: one order of the training set for all steps, as the paper says
    # Sampling
    temperature: float = 0.1
    top_p: float = 0.97
    max_tokens: int = 200
    context_length: int = 2048
    reading: str = "strict"  # "lenient" also reads answers whose markers are nearly right (btlib.lm.reading)
    # Programs that search
    passages_per_hop: int = 3
    num_hops: int = 2
    # Fine-tuning (BFT with LoRA)
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
        object.__setattr__(self, "base", self.base or self.name)
        for name in ("splits", "changes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for name in _FROM_1:
            if getattr(self, name) < 1:
                raise BtlibError(f"preset {self.name}: {name} must be at least 1, got {getattr(self, name)}")
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.reading not in READINGS:
            raise unknown("reading", self.reading, READINGS)
        if self.batch_size < 1 or self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size:
            raise BtlibError(
                f"preset {self.name}: batch_size {self.batch_size} is no multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self):  # a mapping proxy cannot be pickled or copied
        return _rebuild, ({k: dict(v) if isinstance(v, Mapping) else v for k, v in self.__dict__.items()},)


def _rebuild(values: dict) -> Preset:
    return Preset(**values)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="smoke",
                seeds=(0,),
                num_candidate_programs=2,
                epochs=2,
                dtype="float32",  # bf16 rounds differently on each kind of CPU
            ),
            Preset(
                name="laptop",
                seeds=(0,),
                # Chosen on dev; compared with other settings in notebooks/pages/lora.md
                lora_rank=8,
                lora_alpha=16,
                epochs=10,
                dtype="float32",  # bf16 rounds differently on each kind of CPU
            ),
            Preset(
                name="colab",
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


def load_preset(
    name: str | Preset = DEFAULT_PRESET,
    changes: Mapping[str, Any] | None = None,
    *,
    source: str = "",
    retriever: str = "",
    api_base: str = "",
) -> Preset:
    """Return a preset by name (default `laptop`; a Preset passes through); an unknown name lists the valid ones.

    `changes` are settings to change, by field name: {"epochs": 5}; text is read as the field's type. The result is
    called "laptop+epochs=5", so its runs never mix with the preset's own. `source`, `retriever` and `api_base`, where
    given, say where data, passages and answers come from, and leave the name as it is.
    """
    if not isinstance(name, Preset):
        if name not in PRESETS:
            raise unknown("preset", name, PRESETS)
        name = PRESETS[name]
    places = {k: str(v) for k, v in (("source", source), ("retriever", retriever), ("api_base", api_base)) if v}
    preset = replace(name, **places)
    given = {setting: _typed(setting, value) for setting, value in (changes or {}).items()}
    if not given:
        return preset
    changed = dict(preset.changes) | given  # also what is as before: a task's own number must not take its place
    text = ",".join(f"{key}={_short(value)}" for key, value in sorted(changed.items()))
    return replace(preset, **given, changes=changed, base=preset.base, name=f"{preset.base}+{text}")


def _typed(setting: str, value: Any) -> Any:
    """Return a setting's value in its field's type; a BtlibError for an unknown setting or a value that does not
    fit.
    """
    kinds = {f.name: f.type for f in fields(Preset) if f.name not in _FIXED}
    if setting not in kinds:
        raise unknown("setting", setting, kinds)
    kind = kinds[setting]
    try:
        if isinstance(value, str) and kind != "str" and not kind.startswith("tuple"):
            value = json.loads(value.strip().lower())
        if kind.startswith("tuple"):
            value = tuple(value.replace(",", " ").split() if isinstance(value, str) else value)
            return tuple(int(part) for part in value) if "int" in kind else tuple(str(part) for part in value)
        wanted = {"int": int, "float": (int, float), "bool": bool, "str": str}[kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
            raise ValueError
        return float(value) if kind == "float" else value
    except (TypeError, ValueError):
        raise BtlibError(f"setting {setting} takes {_WORDS[kind]}, got {value!r}") from None


def _short(value: Any) -> str:
    """Write a value as a part of a folder's name."""
    text = "-".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if type(value) is float else value
    return re.sub(r"[^\w.-]+", "_", str(text))
