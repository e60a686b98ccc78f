"""Checkpoints on disk: names, what a folder must hold, and content hashes that name the weights."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from btlib.errors import BtlibError, unknown
from btlib.paths import data_dir

POCKET = "pocket"
# Names that load_lm fetches from the Hugging Face hub, or finds in its cache; the first three are the paper's.
HUB = {
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.2",
    "llama-2-7b": "meta-llama/Llama-2-7b-chat-hf",
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
NAMES = (POCKET, *HUB)
_FILES = ("*.json", "*.jinja", "tokenizer.model", "model*.safetensors")  # what decides an answer


@dataclass(frozen=True)
class Checkpoint:
    """A folder in the Hugging Face format, and the name that results carry."""

    name: str
    folder: Path

    def model_id(self, dtype: torch.dtype) -> str:
        """Return "<name>@<8 hex>": a hash of all files that decide an answer, and of the number format computed with.

        DSPy's response cache is keyed by this id and not by the engine, so it must change with the weights.
        """
        return f"{self.name}@{_digest(self.folder, str(dtype))}"


def find(name: str) -> Checkpoint:
    """Return the checkpoint of "pocket", of a registry name, or of a local folder."""
    if name == POCKET:
        return check(POCKET, data_dir() / "pocket-lm")
    if name in HUB:
        return check(name, _download(HUB[name]))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise unknown("LM", name, [*NAMES, "a folder in the Hugging Face format"])
    return check(re.sub(r"[^\w.-]", "-", folder.resolve().name), folder)


def check(name: str, folder: Path) -> Checkpoint:
    """Return the checkpoint if its folder has a configuration, a tokenizer and safetensors weights."""
    wanted = {
        "configuration (config.json)": ["config.json"],
        "tokenizer (tokenizer.json or tokenizer.model)": ["tokenizer.json", "tokenizer.model"],
        "safetensors weights (*.safetensors; other formats are not loaded)": ["model*.safetensors"],
    }
    for what, patterns in wanted.items():
        if not any(path.is_file() for pattern in patterns for path in folder.glob(pattern)):
            raise BtlibError(f"LM folder {folder} has no {what}; save one there with save_pretrained")
    return Checkpoint(name, folder)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_FILES)))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BtlibError(f"cannot fetch {repository} from the Hugging Face hub ({reason}); give a folder") from error


def best_dtype(device: torch.device) -> torch.dtype:
    """Return bf16 where the hardware multiplies it natively, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    fast = device.type == "cpu" and any(check is not None and check() for check in has)
    return torch.bfloat16 if fast else torch.float32


def adapter_hash(folder: Path) -> str:
    """Return 8 hex digits for a PEFT folder: its weights and the settings that decide how they are applied."""
    folder = Path(folder)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if not weights.is_file() or not config.is_file():
        raise BtlibError(f"adapter folder {folder} needs adapter_config.json and adapter_model.safetensors")
    settings = json.loads(config.read_text())
    names = ("peft_type", "r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "fan_in_fan_out")
    digest = hashlib.sha256(json.dumps({name: settings.get(name) for name in names}, sort_keys=True).encode())
    digest.update(_file_digest(weights, weights.stat().st_mtime_ns, weights.stat().st_size))
    return digest.hexdigest()[:8]


def _digest(folder: Path, extra: str) -> str:
    digest = hashlib.sha256(extra.encode())
    for path in sorted(path for pattern in _FILES for path in folder.glob(pattern)):
        stat = path.stat()
        digest.update(path.name.encode() + _file_digest(path, stat.st_mtime_ns, stat.st_size))
    return digest.hexdigest()[:8]


@functools.lru_cache(maxsize=1024)
def _file_digest(path: Path, modified: int, size: int) -> bytes:
    """Hash a file once for each version of it (told by time and size)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
