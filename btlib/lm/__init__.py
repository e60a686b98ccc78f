"""LMs: load them by name, generate in batches, fine-tune them with LoRA; in this process, or on a server."""

from btlib.support.lazy import lazy

# The list of known LMs (btlib.lm.known) needs neither torch nor DSPy, so nothing is imported before it is asked for.
_WHERE = {"ForgivingChatAdapter": "adapter", "load_lm": "registry"}
__all__ = ["ForgivingChatAdapter", "load_lm"]
__getattr__ = lazy(__name__, _WHERE)
