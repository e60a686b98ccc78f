"""What an engine keeps in memory, and how much: keys and values, shared prefixes, merged adapters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from btlib.lm.engine.attention import Prefix

_PREFIXES_AT_MOST = 2 << 30  # dozens of long prompts of a small LM; more would not be found again
_ADAPTERS_AT_MOST = 2 << 30


@dataclass(frozen=True)
class Budget:
    """Bytes for the rows that are being generated, for the shared prefixes, and for merged adapters."""

    rows: int
    prefixes: int
    adapters: int


def budget(device: torch.device) -> Budget:
    """Return a budget of half the device's free memory, as it is now; the rest is for passes and other programs.

    Half of it goes to the rows, a quarter each to prefixes and adapters, and to these at most 2 GiB each.
    """
    free = free_bytes(device)
    return Budget(free // 4, min(free // 8, _PREFIXES_AT_MOST), min(free // 8, _ADAPTERS_AT_MOST))


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes; on a CPU, what can be had without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    return psutil.virtual_memory().available


def token_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize


class Prefixes:
    """The prefixes that were computed, least recently used first out; always room for one.

    The key holds the model id too, or an adapter would find keys and values of other weights.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple, Prefix] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(prefix.nbytes for prefix in list(self._kept.values()))

    def find(self, model_id: str, ids: Sequence[int]) -> Prefix | None:
        key = model_id, tuple(ids)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def add(self, model_id: str, ids: Sequence[int], prefix: Prefix) -> None:
        self._kept[model_id, tuple(ids)] = prefix
        while len(self._kept) > 1 and self.nbytes > self.max_bytes:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()
