"""A `dspy.LM` that generates in this process and can be fine-tuned; one engine a checkpoint and process."""

from __future__ import annotations

import copy
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from btlib.errors import BtlibError
from btlib.lm.checkpoint import Checkpoint, dtype_of, find
from btlib.lm.engine.engine import AsyncEngine, Engine, best_device
from btlib.lm.provider import LoraProvider
from btlib.lm.reading import Cut

if TYPE_CHECKING:
    from btlib.lm.lora.train import TrainReport
    from btlib.presets import Preset


class LocalLM(dspy.LM):
    """A `dspy.LM` whose rollouts differ, and that can be asked about its weights and its work.

    DSPy asks for another sample of the same prompt by a new `rollout_id`, which no engine sees. Here answers depend on
    the prompt and the seed only, so the rollout becomes the seed; n > 1 becomes n rollouts.

    An answer that was cut off comes back as a `Cut`, a text that says so: DSPy hands on no finish reason.
    """

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        if isinstance(prompt, dspy.lm15.Request) or "request" in kwargs:
            return super().__call__(prompt, messages=messages, **kwargs)
        answers = []
        for each in self._rollouts(kwargs):
            with _hearing() as heard:
                answers.append(heard.mark(super().__call__(prompt, messages=messages, **each)))
        return answers[0] if len(answers) == 1 else [answer for each in answers for answer in each]

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """The same for `await`."""
        if isinstance(prompt, dspy.lm15.Request) or "request" in kwargs:
            return await super().acall(prompt, messages=messages, **kwargs)
        answers = []
        for each in self._rollouts(kwargs):
            with _hearing() as heard:
                answers.append(heard.mark(await super().acall(prompt, messages=messages, **each)))
        return answers[0] if len(answers) == 1 else [answer for each in answers for answer in each]

    def update_history(self, entry: dict[str, Any]) -> None:
        """Hear how answers ended, which DSPy tells a history only, and of answers from its cache, too."""
        heard = _HEARD.get()
        if heard is not None:
            heard.hear(entry["response"])
        if heard is None or heard.kept:
            super().update_history(entry)

    def _rollouts(self, kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the arguments of each call that a call stands for: one a rollout, with its seed."""
        settings = {**self.kwargs, **kwargs}
        rollout, n, seed = settings.get("rollout_id"), settings.get("n") or 1, settings.get("seed")
        each = [dict(kwargs)]
        if n > 1:
            each = [{**kwargs, "n": 1, "rollout_id": f"{rollout or 0}.{i}"} for i in range(n)]
        for call in each:
            name = call.get("rollout_id", rollout)
            if name is not None:
                call["seed"] = _seed(name if seed is None else f"{seed}/{name}")
        return each

    def counters(self) -> dict[str, Any] | None:
        """Return what the engine has done so far (see `Engine.counters`); None for an LM whose engine does not say."""
        return self.engine.counters() if hasattr(self.engine, "counters") else None

    @property
    def weights_folder(self) -> Path | None:
        """The folder of the adapter (or of the whole checkpoint) that this LM was tuned into; None for base weights."""
        keeper = self.provider.engine if isinstance(self.provider, LoraProvider) else self.engine
        found = keeper.adapter_path(self.model) if hasattr(keeper, "adapter_path") else None
        return Path(found) if found else None

    @property
    def training_report(self) -> TrainReport | None:
        """What the training that made this LM did; None for base weights and for an LM loaded from a folder."""
        return getattr(self.provider, "reports", {}).get(self.model)

    @property
    def failed(self) -> str:
        """The error of a server that was gone; "" where all is well, and for an LM in this process."""
        return getattr(self.provider, "failed", "")

    def server(self) -> dict[str, Any] | None:
        """Return what a run's record says of the server that answers; None for an LM in this process."""
        return None


_HEARD: ContextVar[_Heard | None] = ContextVar("btlib_heard", default=None)


class _Heard:
    """How the answers of one call ended. `kept`: the caller wants a history."""

    def __init__(self, kept: bool):
        self.kept = kept
        self.reasons: list[str | None] = []

    def hear(self, response: Any) -> None:
        each = response if isinstance(response, (list, tuple)) else getattr(response, "choices", None) or [response]
        self.reasons += [getattr(one, "finish_reason", None) for one in each]

    def mark(self, answers: list[Any]) -> list[Any]:
        """Return the answers, those that were cut off as such."""
        if "length" not in self.reasons or len(answers) != len(self.reasons):
            return answers
        return [_cut(a) if reason == "length" else a for a, reason in zip(answers, self.reasons, strict=True)]


def _cut(answer: Any) -> Any:
    if isinstance(answer, dict):
        answer = copy.copy(answer)
        answer["text"] = Cut(answer.get("text") or "")
        return answer
    return Cut(answer or "")


@contextmanager
def _hearing() -> Iterator[_Heard]:
    heard = _Heard(kept=not dspy.settings.disable_history)
    token = _HEARD.set(heard)
    try:
        with dspy.context(disable_history=False):
            yield heard
    finally:
        _HEARD.reset(token)


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


def load_local_lm(
    name: str, preset: Preset | None, adapter: Path | None, device: str, slots: int, dtype: str
) -> LocalLM:
    """Return the LM of a checkpoint; see `load_lm`."""
    dtype = dtype or ("auto" if preset is None else preset.dtype)
    context = None if preset is None else preset.context_length
    engine = shared_engine(find(name), device=device, dtype=dtype, slots=slots, context=context)
    return LocalLM(
        engine.model_id if adapter is None else engine.add_adapter(Path(adapter)),
        engine=engine,
        async_engine=AsyncEngine(engine),
        provider=LoraProvider(engine),
        **sampling(preset),
    )


def sampling(preset: Preset | None) -> dict[str, Any]:
    """Return how an LM samples with a preset; greedily without one."""
    if preset is None:
        return {"temperature": 0.0}
    return {"temperature": preset.temperature, "top_p": preset.top_p, "max_tokens": preset.max_tokens}
