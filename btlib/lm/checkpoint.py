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
from btlib.lm.known import HUB_NAME, KNOWN, POCKET, Known, known
from btlib.support.paths import at_home, data_dir

_FILES = ("*.json", "*.jinja", "tokenizer.model", "model*.safetensors")  # what decides an answer


DTYPES = ("float32", "bfloat16", "float16")


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
    """Return the checkpoint of a known name (short or the hub's), of a local folder, or of another LM on the hub.

    What comes from the hub is fetched, or found in its cache. One line says what to do where that fails.
    """
    entry = known(name)
    if entry and entry.repository:
        return check(entry.name, _download(entry.repository, entry))
    if entry:
        folder = data_dir() / entry.folder
        if entry.name != POCKET and not folder.is_dir():
            raise BtlibError(f"LM {entry.name} is not in this copy: no folder {folder}; use {POCKET}, or put it there")
        return check(entry.name, folder)
    folder = at_home(name)
    if folder.is_dir():
        return check(re.sub(r"[^\w.-]", "-", folder.resolve().name), folder)
    if HUB_NAME.fullmatch(name):
        return check(name.replace("/", "--"), _download(name))
    names = [entry.name for entry in KNOWN]
    raise unknown("LM", name, [*names, "<owner>/<name> on the Hugging Face hub", "a folder in the Hugging Face format"])


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
    _refuse_quantized(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise BtlibError(
                f"LM folder {folder} lacks {len(missing)} of {len(shards)} files of weights; fetch it again"
            )
    return Checkpoint(name, folder)


def _refuse_quantized(folder: Path) -> None:
    """Refuse weights of 4 or 8 bits (GPTQ, AWQ, bitsandbytes, ...): neither the engine nor LoRA computes with them."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # said in full when the LM is loaded
    parts = [part for part in (found, found.get("text_config")) if isinstance(part, dict)]
    names = ("quantization_config", "quantization", "compression_config")  # the second is MLX's
    made = next((part[name] for part in parts for name in names if part.get(name)), None)
    if made is None and not any((folder / name).is_file() for name in ("quantize_config.json", "quant_config.json")):
        return
    kind = made.get("quant_method") or made.get("mode") if isinstance(made, dict) else None
    raise BtlibError(
        f"the weights in {folder} are quantized{f' ({kind})' if kind else ''}, which btlib neither generates with nor "
        "tunes; take the checkpoint that they were made from, in bf16, fp16 or fp32"
    )


def _download(repository: str, entry: Known | None = None) -> Path:
    from huggingface_hub import errors, snapshot_download

    page, fetch = f"https://huggingface.co/{repository}", f"hf download {repository}"
    try:
        return Path(snapshot_download(repository, allow_patterns=list(_FILES)))
    except errors.GatedRepoError as error:  # a kind of RepositoryNotFoundError, so it comes first
        how = f"accept its terms at {page}, then run `hf auth login` or set HF_TOKEN"
        raise BtlibError(f"{repository} is gated; {how}") from error
    except errors.RepositoryNotFoundError as error:
        how = "check the name; for a private LM run `hf auth login`; or give a folder"
        raise BtlibError(f"the Hugging Face hub shows no LM {repository}; {how}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        gate = f"; it is gated: accept its terms at {page}" if entry and entry.gated else ""
        how = f"run `{fetch}` where there is a network and bring the cache (HF_HOME) or the folder along"
        raise BtlibError(
            f"{repository} is not in the cache and the Hugging Face hub is out of reach; {how}{gate}"
        ) from error
    except Exception as error:  # the HTTP client and the file system have kinds of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BtlibError(f"cannot fetch {repository} from the Hugging Face hub ({reason}); give a folder") from error


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """Return the number format of a name: "float32", "bfloat16", or "auto" for `best_dtype`."""
    if name == "auto":
        return best_dtype(device)
    if name not in DTYPES:
        raise unknown("dtype", name, ("auto", *DTYPES))
    return getattr(torch, name)


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
