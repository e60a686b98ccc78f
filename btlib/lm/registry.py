"""`load_lm`: from a name to a `dspy.LM` that generates in this process and can be fine-tuned."""

from __future__ import annotations

import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from btlib.errors import BtlibError
from btlib.lm.checkpoint import Checkpoint, dtype_of, find
from btlib.lm.engine import AsyncEngine, Engine, best_device
from btlib.lm.provider import LoraProvider
from btlib.lm.scheduler import SLOTS

if TYPE_CHECKING:
    from btlib.presets import Preset


class LocalLM(dspy.LM):
    """A `dspy.LM` whose rollouts differ.

    DSPy asks for another sample of the same prompt by a new `rollout_id`, which no engine sees. Here answers depend on
    the prompt and the seed only, so the rollout becomes the seed; n > 1 becomes n rollouts.
    """

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        if isinstance(prompt, dspy.lm15.Request) or "request" in kwargs:
            return super().__call__(prompt, messages=messages, **kwargs)
        settings = {**self.kwargs, **kwargs}
        rollout = settings.get("rollout_id")
        n = settings.get("n") or 1
        if n > 1:
            rollouts = [f"{rollout or 0}.{i}" for i in range(n)]
            return [
                answer
                for each in rollouts
                for answer in self(prompt, messages=messages, **{**kwargs, "n": 1, "rollout_id": each})
            ]
        if rollout is not None and settings.get("seed") is None:
            kwargs["seed"] = _seed(rollout)
        return super().__call__(prompt, messages=messages, **kwargs)


def _seed(rollout: object) -> int:
    return zlib.crc32(str(rollout).encode())


_ENGINES: dict[tuple, Engine] = {}
_LOCK = threading.Lock()


def shared_engine(checkpoint: Checkpoint, *, device: str, dtype: str, slots: int, context: int | None) -> Engine:
    """Return this process's one engine for a checkpoint; the latest call's slots and context hold.

    A folder whose files have changed since (an LM trained again) gets a new engine.
    """
    key = (checkpoint.folder.resolve(), best_device(device), dtype_of(dtype, best_device(device)))
    with _LOCK:
        engine = _ENGINES.get(key)
        if engine is None or engine.closed or engine.model_id != checkpoint.model_id(engine.dtype):
            _check_attention(checkpoint)
            engine = _ENGINES[key] = Engine(checkpoint, device=device, dtype=dtype, slots=slots, context=context)
        engine.scheduler.slots = slots
        engine.context = min(context or engine.max_context, engine.max_context)
        return engine


def _check_attention(checkpoint: Checkpoint) -> None:
    """Refuse an LM whose layers see a window of tokens only (Mistral 7B v0.1): the engine computes full attention."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False).get_text_config()
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BtlibError(f"{checkpoint.folder / 'config.json'} is of no use ({reason}); fetch the LM again") from error
    window = getattr(config, "sliding_window", None)
    if window and "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"]):
        raise BtlibError(
            f"LM {checkpoint.name} attends to a sliding window of {window} tokens, which btlib's engine does not "
            "compute; choose one with full attention, such as Mistral 7B v0.2"
        )


def load_lm(
    name: str,
    preset: Preset | None = None,
    adapter: Path | None = None,
    device: str = "auto",
    slots: int = SLOTS,
    *,
    dtype: str = "",
    api_base: str | None = None,
) -> dspy.LM:
    """Return an LM for DSPy: `dspy.configure(lm=load_lm("pocket"))`.

    name     "pocket" (the embedded LM), another known name (`btlib models` lists them, short or as on the hub), a
             folder in the Hugging Face format, or <owner>/<name> of an LM on the hub
    preset   gives temperature, top_p, max_tokens and the context length; without one the LM is greedy
    adapter  a LoRA adapter's folder (safetensors) to put over the weights
    device   "auto", "cpu", "cuda", "mps"
    slots    requests generated at the same time, as far as memory goes
    dtype    "auto" (bf16 where the hardware has it), "float32", "bfloat16"; "" for the preset's, or "auto"
    api_base the URL of an OpenAI-compatible server, for a name that begins with "openai/" (default: the variable
             BTLIB_API_BASE); device, slots, dtype and the context length are then the server's

    One engine is made per checkpoint and process, and all LMs of that checkpoint share it. `lm.model` names the
    weights by content: "<name>@<hash>", with an adapter "<name>@<hash>+<hash>".
    """
    if name.startswith("openai/"):
        from btlib.lm.server import load_server_lm

        return load_server_lm(name, preset, adapter, api_base)
    found = find(name)
    dtype = dtype or ("auto" if preset is None else preset.dtype)
    engine = shared_engine(
        found, device=device, dtype=dtype, slots=slots, context=None if preset is None else preset.context_length
    )
    sampling: dict[str, Any] = {"temperature": 0.0}
    if preset is not None:
        sampling = {"temperature": preset.temperature, "top_p": preset.top_p, "max_tokens": preset.max_tokens}
    return LocalLM(
        engine.model_id if adapter is None else engine.add_adapter(Path(adapter)),
        engine=engine,
        async_engine=AsyncEngine(engine),
        provider=LoraProvider(engine),
        **sampling,
    )
