"""LMs in this process: load them, generate in batches, fine-tune them with LoRA."""

from btlib.lm.adapter import ForgivingChatAdapter
from btlib.lm.registry import load_lm

__all__ = ["ForgivingChatAdapter", "load_lm"]
