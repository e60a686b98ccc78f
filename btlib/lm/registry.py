"""`load_lm`: from a name to a `dspy.LM` that generates in this process and can be fine-tuned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from btlib.lm import checkpoint
from btlib.lm.engine import AsyncEngine, shared_engine

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
    import zlib

    return zlib.crc32(str(rollout).encode())


def load_lm(
    name: str,
    preset: Preset | None = None,
    adapter: Path | None = None,
    device: str = "auto",
    slots: int = 64,
    *,
    dtype: str = "auto",
) -> dspy.LM:
    """Return an LM for DSPy: `dspy.configure(lm=load_lm("pocket"))`.

    name     "pocket" (the embedded LM), a folder in the Hugging Face format, or a registry name
    preset   gives temperature, top_p, max_tokens and the context length; without one the LM is greedy
    adapter  a LoRA adapter's folder (safetensors) to put over the weights
    device   "auto", "cpu", "cuda", "mps"
    slots    requests generated at the same time
    dtype    "auto" (bf16 where the hardware has it), "float32", "bfloat16"

    One engine is made per checkpoint and process, and all LMs of that checkpoint share it. `lm.model` names the
    weights by content: "<name>@<hash>", with an adapter "<name>@<hash>+<hash>".
    """
    from btlib.lm.provider import LoraProvider

    found = checkpoint.find(name)
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
