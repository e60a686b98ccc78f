"""The LMs that go by a name: source, licence, size, memory, and what their chat templates do with a prompt.

`load_lm` takes the hub's full name or the short one. Memory is arithmetic on a model's shape, stated in `Shape`;
nothing is loaded or fetched here. `btlib models` prints the list. Used in notebooks/01_programs; sizes matter in
notebooks/04_bft_lora.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from btlib.support.paths import at_home, data_dir

POCKET = "pocket"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # <owner>/<name>
QUERY_AND_KEY = ("q_proj", "k_proj")


@dataclass(frozen=True)
class Shape:
    """What a decoder's size follows from: the numbers of its config.json.

    Weights: the token table (twice unless tied), and for each layer four attention matrices, three MLP matrices and
    two norms. All memory is in bytes, for bf16 (2 bytes a number).
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context: int  # tokens, as the model was made
    tied: bool = False  # the head shares the token table
    qk_norm: bool = False
    qkv_bias: bool = False

    @classmethod
    def of_folder(cls, folder: Path) -> Shape:
        """Read the shape from a checkpoint's config.json; OSError, KeyError or ValueError where that does not work."""
        found = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        heads, kind = found["num_attention_heads"], found["model_type"]
        return cls(
            vocabulary=found["vocab_size"],
            hidden=found["hidden_size"],
            intermediate=found["intermediate_size"],
            layers=found["num_hidden_layers"],
            heads=heads,
            kv_heads=found.get("num_key_value_heads") or heads,
            head_size=found.get("head_dim") or found["hidden_size"] // heads,
            context=found["max_position_embeddings"],
            tied=bool(found.get("tie_word_embeddings", False)),
            qk_norm=kind == "qwen3",
            qkv_bias=kind == "qwen2",
        )

    def layer(self) -> dict[str, tuple[int, int]]:
        """Return the size (inputs, outputs) of each linear layer of a decoder layer, by the name that LoRA targets."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def weights(self) -> int:
        """Number of weights."""
        sizes = self.layer()
        matrices = sum(a * b for a, b in sizes.values())
        biases = sum(sizes[name][1] for name in ("q_proj", "k_proj", "v_proj")) if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_size if self.qk_norm else 0)
        table = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return table + self.layers * (matrices + biases + norms) + self.hidden

    def lora_weights(self, rank: int = 32, targets: Iterable[str] = QUERY_AND_KEY) -> int:
        """Number of weights of a LoRA adapter: rank x (inputs + outputs) for each target of each layer."""
        sizes = self.layer()
        return self.layers * rank * sum(sum(sizes[name]) for name in targets)

    def inference_bytes(self, tokens: int) -> int:
        """Memory to generate: the weights, and keys and values of `tokens` tokens, over all requests at once.

        2 x weights + 4 x layers x kv_heads x head_size x tokens.
        """
        return 2 * self.weights + 4 * self.layers * self.kv_heads * self.head_size * tokens

    def activation_bytes(self, targets: Iterable[str] = QUERY_AND_KEY, checkpointing: bool = False) -> int:
        """Memory for a training token's way back, without the logits.

        A layer keeps 12 x hidden + 6 x intermediate + 4 x (query + key + value sizes) bytes where only queries and
        keys are trained, 18, 8 and 6 for more targets (fitted to what PyTorch saves for PEFT's layers; a test measures
        it). With gradient checkpointing a layer keeps its input, 2 x hidden, and one layer at a time the rest.
        """
        a, b, c = (12, 6, 4) if set(targets) <= set(QUERY_AND_KEY) else (18, 8, 6)
        attention = (self.heads + 2 * self.kv_heads) * self.head_size
        one = a * self.hidden + b * self.intermediate + c * attention
        return self.layers * 2 * self.hidden + one if checkpointing else self.layers * one

    def lora_bytes(
        self, tokens: int, rank: int = 32, targets: Iterable[str] = QUERY_AND_KEY, checkpointing: bool = False
    ) -> int:
        """Memory to train LoRA on micro-batches of `tokens` tokens.

        2 x weights (frozen) + 16 x adapter weights (fp32 with gradient and two moments) + tokens x (activations +
        12 x vocabulary, the logits with their fp32 copy and gradients).
        """
        targets = tuple(targets)
        token = self.activation_bytes(targets, checkpointing) + 12 * self.vocabulary
        return 2 * self.weights + 16 * self.lora_weights(rank, targets) + tokens * token


@dataclass(frozen=True)
class Known:
    """An LM with a name. `repository` is the hub's name, "" for the LMs in the data folder; `notes` say what its chat
    template does, and what `btlib.lm.chat` does about it.
    """

    name: str
    repository: str
    licence: str
    gated: bool
    notes: str
    shape: Shape | None = None  # None: read from the data folder
    folder: str = ""  # in the data folder

    @property
    def size(self) -> Shape | None:
        """The shape; None for an LM of the data folder that is not there."""
        if self.shape:
            return self.shape
        try:
            return Shape.of_folder(data_dir() / self.folder)
        except (OSError, KeyError, ValueError):
            return None


_EMBEDDED = "system, user and assistant turns"
_QWEN = "thinks before it answers unless told not to: it is told not to (enable_thinking=False)"

KNOWN: tuple[Known, ...] = (
    Known(POCKET, "", "Apache-2.0", False, _EMBEDDED, folder="pocket-lm"),
    Known("pocket-s", "", "Apache-2.0", False, _EMBEDDED, folder="pocket-s-lm"),
    Known("pocket-l", "", "Apache-2.0", False, _EMBEDDED, folder="pocket-l-lm"),
    Known(
        "mistral-7b",
        "mistralai/Mistral-7B-Instruct-v0.2",
        "Apache-2.0",
        True,
        "refuses a system message (early revisions) or folds it: where refused, it goes before the first user turn",
        Shape(32000, 4096, 14336, 32, 32, 8, 128, 32768),
    ),
    Known(
        "llama-2-7b",
        "meta-llama/Llama-2-7b-chat-hf",
        "Llama 2 Community License",
        True,
        "folds the system message into the first user turn (<<SYS>>); refuses turns that do not alternate",
        Shape(32000, 4096, 11008, 32, 32, 32, 128, 4096),
    ),
    Known(
        "llama-3-8b",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "Llama 3 Community License",
        True,
        "a header for each turn; trims what a turn begins and ends with",
        Shape(128256, 4096, 14336, 32, 32, 8, 128, 8192),
    ),
    Known(
        "qwen3-0.6b",
        "Qwen/Qwen3-0.6B",
        "Apache-2.0",
        False,
        _QWEN,
        Shape(151936, 1024, 3072, 28, 16, 8, 128, 40960, tied=True, qk_norm=True),
    ),
    Known(
        "smollm2-360m",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "Apache-2.0",
        False,
        "brings a system message of its own where there is none; DSPy always sends one",
        Shape(49152, 960, 2560, 32, 15, 5, 64, 8192, tied=True),
    ),
    Known(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B-Instruct",
        "Llama 3.2 Community License",
        True,
        "writes today's date into the system turn: it is given a fixed one, or answers would change by the day",
        Shape(128256, 2048, 8192, 16, 32, 8, 64, 131072, tied=True),
    ),
    Known(
        "qwen2.5-0.5b",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Apache-2.0",
        False,
        "brings a system message of its own where there is none; DSPy always sends one",
        Shape(151936, 896, 4864, 24, 14, 2, 64, 32768, tied=True, qkv_bias=True),
    ),
    Known(
        "smollm2-135m",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        False,
        "brings a system message of its own where there is none; DSPy always sends one",
        Shape(49152, 576, 1536, 30, 9, 3, 64, 8192, tied=True),
    ),
)


def known(name: str) -> Known | None:
    """Return the entry of a short or a full name, in any case; None for other names."""
    wanted = name.lower()
    return next((entry for entry in KNOWN if wanted in (entry.name, entry.repository.lower())), None)


def canonical(name: str) -> str:
    """Return the one name that runs are stored under: the hub's full name, or the name in the data folder.

    A name that is not in the list (a folder, an endpoint) comes back as it is.
    """
    entry = known(name)
    return name if entry is None else entry.repository or entry.name


def shape_of(model: str) -> Shape | None:
    """Return the shape of a known LM or of a folder; None where it cannot be told."""
    entry = known(model)
    if entry:
        return entry.size
    try:
        return Shape.of_folder(at_home(model))
    except (OSError, KeyError, ValueError):
        return None


def on_hub(name: str) -> bool:
    """Tell whether a name's weights come from the hub, by the name alone."""
    entry = known(name)
    if entry:
        return bool(entry.repository)
    return bool(HUB_NAME.fullmatch(name)) and not at_home(name).is_dir()
