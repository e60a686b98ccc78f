"""DSPy's engine protocol over the in-process scheduler: `dspy.LM(model, engine=Engine(...))`.

Taught in notebooks/01_programs. One engine holds one checkpoint; LMs that differ only in a LoRA adapter share it, and
each request says by its model id which adapter it wants.
"""

from __future__ import annotations

import asyncio
import atexit
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import torch
from dspy.lm15 import (
    ContextLengthError,
    InvalidRequestError,
    Message,
    ProviderError,
    Request,
    Response,
    TextPart,
    UnsupportedFeatureError,
    UnsupportedModelError,
    Usage,
    response_to_events,
)

from btlib.errors import BtlibError
from btlib.lm.chat import Chat
from btlib.lm.checkpoint import Checkpoint, adapter_hash, dtype_of
from btlib.lm.engine.attention import NAME as ATTENTION
from btlib.lm.engine.lanes import Job
from btlib.lm.engine.memory import Budget
from btlib.lm.engine.sampling import request_seed
from btlib.lm.engine.scheduler import SLOTS, Scheduler
from btlib.lm.quiet import without_bars

DEFAULT_MAX_TOKENS = 256


class Engine:
    """Answer `dspy.lm15.Request`s with one Hugging Face model in this process, batched.

    At most `slots` requests are generated at once; `context` is the most tokens that a prompt and its answer have
    together (None: what the model was made for). `limits` bounds what is kept in memory (None: shares of what is free
    now), and `timeout` is how many seconds a request may take, waiting included (None: as long as it takes). The answer
    to a request does not depend on what else is being generated.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = SLOTS,
        context: int | None = None,
        limits: Budget | None = None,
        timeout: float | None = None,
    ):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.checkpoint = checkpoint
        self.device = best_device(device)
        self.dtype = dtype_of(dtype, self.device)
        self.model_id = checkpoint.model_id(self.dtype)
        with without_bars():
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder, use_safetensors=True, trust_remote_code=False, dtype=self.dtype
            )
        model.set_attn_implementation(ATTENTION)
        model.to(self.device).eval()
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
        eos = model.generation_config.eos_token_id
        eos_ids = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        self.chat = Chat(tokenizer, frozenset(eos_ids))
        self.max_context = model.config.get_text_config().max_position_embeddings
        self.context = min(context or self.max_context, self.max_context)
        self._adapters: dict[str, Path] = {}
        self.timeout = timeout
        self.scheduler = Scheduler(model, adapter_of=self._adapters.get, ends=self._ends, slots=slots, limits=limits)
        # An engine thread that lives on while the interpreter ends would abort the process.
        atexit.register(_close, weakref.ref(self))

    def __deepcopy__(self, memo: dict) -> Engine:
        """Programs are copied by DSPy's optimizers all the time; the model is not."""
        return self

    def add_adapter(self, folder: Path) -> str:
        """Make a PEFT LoRA folder available and return the model id that asks for it, named by its content."""
        model_id = f"{self.model_id}+{adapter_hash(folder)}"
        self._adapters[model_id] = Path(folder)
        return model_id

    def adapter_path(self, model_id: str) -> Path | None:
        """Return the folder of a model id's adapter; None for the base weights, an error for an unknown id."""
        self._check_model(model_id)
        return self._adapters.get(model_id)

    def counters(self) -> dict:
        """Return a snapshot of what was done since the engine was made.

        requests, repeated (of these, answered from an equal one in flight; no tokens are counted for them), failed,
        tokens_in, tokens_out, tokens_reused (of tokens_in, found in the prefix cache), steps, rows (that grew by a
        token, over all steps), occupancy (rows a step), slots, seconds busy, by_model (requests by model id),
        prefix_bytes.
        """
        return self.scheduler.counters()

    def close(self) -> None:
        """Stop the engine; unanswered requests fail. Called at interpreter exit too."""
        self.scheduler.close()

    @property
    def closed(self) -> bool:
        return self.scheduler.closed

    def complete(self, request: Request) -> Response:
        """Answer one request; blocks, so call it from as many threads as there are slots."""
        job = self._submit(request)
        try:
            ids, reason = job.future.result(self.timeout)
        except (CancelledError, Exception) as error:
            raise _public(error if job.future.done() else self._late(job)) from error
        except BaseException:  # the user's interrupt
            self.scheduler.abandon(job)
            raise
        return self._response(request, job, ids, reason)

    def stream(self, request: Request) -> Iterator[Any]:
        """Answer as a stream that brings the whole answer at once."""
        return response_to_events(self.complete(request))

    def _late(self, job: Job) -> BtlibError:
        self.scheduler.abandon(job)
        return BtlibError(f"no answer within {self.timeout:g} s; raise the engine's timeout, or ask less at once")

    def _submit(self, request: Request) -> Job:
        if request.tools or request.config.response_format is not None:
            feature = "tools" if request.tools else "response_format"
            raise UnsupportedFeatureError(f"btlib's engine generates plain text, without {feature}; use ChatAdapter")
        self._check_model(request.model)
        ids, prefix = self.chat.encode(_messages(request))
        if not ids:
            raise InvalidRequestError("the prompt is empty: the chat template made no token of it")
        room = self.context - len(ids)
        if room < 1:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens and the context {self.context}; use fewer or shorter demonstrations"
            )
        config = request.config
        job = Job(
            model_id=request.model,
            ids=ids,
            prefix_length=prefix,
            limit=min(config.max_tokens or DEFAULT_MAX_TOKENS, room),
            temperature=config.temperature or 0.0,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=config.top_k or 0,
            seed=request_seed(config.seed, ids),
            stop=tuple(config.stop),
        )
        try:
            return self.scheduler.submit(job)
        except BtlibError as error:
            raise _public(error) from error

    def _check_model(self, model_id: str) -> None:
        if model_id != self.model_id and model_id not in self._adapters:
            known = ", ".join([self.model_id, *self._adapters])
            raise UnsupportedModelError(f"this engine has no model {model_id!r}, only {known}; load it with load_lm")

    def _ends(self, job: Job) -> str | None:
        if job.new[-1] in self.chat.eos_ids or self._stop_at(job) is not None:
            return "stop"
        return "length" if len(job.new) >= job.limit else None

    def _stop_at(self, job: Job) -> int | None:
        """Return where in the answer's text the first stop string begins."""
        if not job.stop:
            return None
        text = self.chat.decode(job.new)
        found = [at for at in map(text.find, job.stop) if at >= 0]
        return min(found) if found else None

    def _response(self, request: Request, job: Job, ids: list[int], reason: str) -> Response:
        text = self.chat.decode(ids[:-1] if ids[-1] in self.chat.eos_ids else ids)[: self._stop_at(job)]
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason=reason,
            usage=Usage(input_tokens=len(job.ids), output_tokens=len(ids)),
        )


class AsyncEngine:
    """The same engine for `await lm.acall(...)`."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def __deepcopy__(self, memo: dict) -> AsyncEngine:
        return self

    async def complete(self, request: Request) -> Response:
        return await asyncio.to_thread(self.engine.complete, request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        for event in response_to_events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Nothing: the engine is shared, and closed by its owner."""


def best_device(device: str) -> torch.device:
    """Return the device of a name; "auto" takes CUDA, then MPS, then the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(device)


def _messages(request: Request) -> list[dict[str, str]]:
    messages = []
    if request.system is not None:
        text = request.system if isinstance(request.system, str) else "".join(part.text for part in request.system)
        messages.append({"role": "system", "content": text})
    for message in request.messages:
        if any(part.type != "text" for part in message.parts):
            raise InvalidRequestError("btlib's engine takes text messages only")
        messages.append({"role": message.role, "content": "".join(part.text for part in message.parts)})
    return messages


def _public(error: BaseException) -> ProviderError:
    """Return the error that DSPy shows and does not retry: one line."""
    text = next(iter(str(error).splitlines()), "no message")
    return ProviderError(text if isinstance(error, BtlibError) else f"{type(error).__name__}: {text}", provider="btlib")


def _close(reference: weakref.ref) -> None:
    engine = reference()
    if engine is not None:
        engine.close()
