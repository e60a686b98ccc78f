"""LMs in this process: load them, generate in batches, fine-tune them with LoRA."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {"ForgivingChatAdapter": "btlib.lm.adapter", "load_lm": "btlib.lm.registry"}

__all__ = ["ForgivingChatAdapter", "load_lm"]


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more: the list of known LMs (btlib.lm.known) needs neither torch nor DSPy."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
