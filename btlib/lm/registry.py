"""`load_lm`: from a name to a `dspy.LM` that can be prompted and fine-tuned, here or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from btlib.lm.engine.scheduler import SLOTS
from btlib.lm.local import LocalLM, load_local_lm

if TYPE_CHECKING:
    from btlib.presets import Preset


def load_lm(
    name: str,
    preset: Preset | None = None,
    adapter: Path | None = None,
    device: str = "auto",
    slots: int = SLOTS,
    *,
    dtype: str = "",
    api_base: str | None = None,
) -> LocalLM:
    """Return an LM for DSPy: `dspy.configure(lm=load_lm("pocket"))`.

    name     "pocket" (the embedded LM), another known name (`btlib models` lists them, short or as on the hub), a
             folder in the Hugging Face format, or <owner>/<name> of an LM on the hub
    preset   gives temperature, top_p, max_tokens and the context length; without one the LM is greedy
    adapter  a LoRA adapter's folder (safetensors) to put over the weights
    device   "auto", "cpu", "cuda", "mps"
    slots    requests generated at the same time, as far as memory goes
    dtype    "auto" (bf16 where the hardware has it), "float32", "bfloat16"; "" for the preset's, or "auto"
    api_base the URL of an OpenAI-compatible server, for a name that begins with "openai/" (default: the preset's, or
             the variable BTLIB_API_BASE); device, slots, dtype and the context length are then the server's

    One engine is made per checkpoint and process, and all LMs of that checkpoint share it. `lm.model` names the
    weights by content: "<name>@<hash>", with an adapter "<name>@<hash>+<hash>".
    """
    if name.startswith("openai/"):
        from btlib.lm.server import load_server_lm

        return load_server_lm(name, preset, adapter, api_base)
    return load_local_lm(name, preset, adapter, device, slots, dtype)
