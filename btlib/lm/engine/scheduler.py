"""The thread that owns the model: it lets requests in as rows come free, and all rows grow by one token a step."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import torch

from btlib.errors import BtlibError
from btlib.lm.engine.attention import Prefix
from btlib.lm.engine.lanes import DecodePass, Job, Lane, PromptPass, in_passes, kept_tokens
from btlib.lm.engine.memory import Budget, Prefixes, budget, token_bytes
from btlib.lm.engine.merged import Weights
from btlib.lm.engine.sampling import pick, uniform

SLOTS = 256  # rows at most where memory allows: the more rows, the less each waits for calls, up to about here
_PROMPT_TOKENS = 2048  # own prompt tokens in one pass, so that its memory is bounded
_SHORTEST_PREFIX = 16  # a shorter one is not worth a pass of its own


class EngineClosed(BtlibError, RuntimeError):
    """The engine was closed, so it answers nothing any more."""


class Scheduler:
    """Continuous batching over `slots` rows. `submit` may be called from any thread; all else runs in the one thread.

    `adapter_of(model_id)` gives the PEFT folder of an id, or None for the base weights. `ends(job)` says why a job
    with its newest token is finished ("stop", "length"), or None. A request that finds no room within `limits` waits.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        adapter_of: Callable[[str], Path | None],
        ends: Callable[[Job], str | None],
        slots: int = SLOTS,
        limits: Budget | None = None,
    ):
        self._device = model.device
        self.limits = limits or budget(self._device)
        self.weights = Weights(model, self.limits.adapters)
        self.slots, self._token_bytes = slots, token_bytes(model)
        self._adapter_of, self._ends = adapter_of, ends
        self._waiting: deque[Job] = deque()
        self._running: dict[tuple, Job] = {}  # waiting and active jobs, so that a repeated request joins the first
        self._lanes: dict[str, Lane] = {}
        self.prefixes = Prefixes(self.limits.prefixes)
        self._changed = threading.Condition()
        self.closed = False
        self._counts: Counter[str] = Counter()
        self._by_model: Counter[str] = Counter()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> Job:
        """Queue a job and return the one whose future gives its answer: an equal one in flight, or itself."""
        with self._changed:
            if self.closed:
                raise EngineClosed("the engine is closed; call load_lm again")
            self._counts["requests"] += 1
            self._by_model[job.model_id] += 1
            first = self._running.get(job.key)
            if first is None or first.future.cancelled():
                self._running[job.key] = first = job
                self._counts["tokens_in"] += len(job.ids)
                self._waiting.append(job)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="btlib-engine", daemon=True)
                    self._thread.start()
                self._changed.notify()
            else:
                first.waiters += 1
                self._counts["repeated"] += 1
            return first

    def abandon(self, job: Job) -> None:
        """Say that one caller waits no longer for a job; its work stops when no other does."""
        with self._changed:
            job.waiters -= 1
            if job.waiters < 1 and not job.future.cancel():
                job.abandoned = True
                self._forget(job)

    def counters(self) -> dict:
        """Return a snapshot of what was done so far; times in seconds."""
        with self._changed:
            counts = dict(self._counts)
            by_model = dict(self._by_model)
        names = ("requests", "repeated", "failed", "tokens_in", "tokens_out", "tokens_reused", "steps", "rows")
        found = {name: int(counts.get(name, 0)) for name in names}
        found["seconds"] = float(counts.get("seconds", 0.0))
        found["occupancy"] = found["rows"] / found["steps"] if found["steps"] else 0.0
        return {**found, "slots": self.slots, "by_model": by_model, "prefix_bytes": self.prefixes.nbytes}

    def close(self) -> None:
        """Fail every request that is not answered yet, and end the thread. Closing twice does nothing."""
        with self._changed:
            self.closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        torch.set_grad_enabled(False)
        while True:
            with self._changed:
                while not (self.closed or self._waiting or self._lanes):
                    self._changed.wait()
                if self.closed:
                    unanswered = list(self._running.values())
                    self._waiting.clear()
                    break
            start = time.perf_counter()
            try:
                for jobs in self._admit():
                    self._prefill(jobs)
                for model_id in list(self._lanes):
                    self._decode(model_id)
            except Exception as error:  # not a request's own fault, but nobody may wait for ever
                self._drop(error)
            self._count(seconds=time.perf_counter() - start)
        self._lanes.clear()
        self.prefixes.clear()
        for job in unanswered:
            self._fail(job, EngineClosed("the engine was closed before it answered; call load_lm again"))

    def _count(self, **more: float) -> None:
        with self._changed:
            self._counts.update(more)

    def _admit(self) -> list[list[Job]]:
        """Take waiting jobs for the free rows, in the order they came; return them as the passes that feed them."""
        rows, admitted = [job for lane in self._lanes.values() for job in lane.jobs], []
        with self._changed:
            while self._waiting and len(rows) < self.slots:
                job = self._waiting[0]
                if rows and not job.future.done() and not self._fits([*rows, job]):
                    break
                self._waiting.popleft()
                if job.future.done() or not (job.future.running() or job.future.set_running_or_notify_cancel()):
                    self._forget(job)
                else:
                    rows.append(job)
                    admitted.append(job)
        return in_passes(admitted, _PROMPT_TOKENS)

    def _fits(self, jobs: list[Job]) -> bool:
        return not any(job.alone for job in jobs) and kept_tokens(jobs) * self._token_bytes <= self.limits.rows

    def _prefill(self, jobs: list[Job]) -> None:
        """Feed the prompts of new jobs of one model and pick their first tokens; a job that fails fails alone."""
        model_id = jobs[0].model_id
        lane = self._lanes.get(model_id)
        try:
            self.weights.use(model_id, self._adapter_of(model_id))
            for job in jobs:
                job.prefix = self._prefix(job)
            if lane is None:
                lane = Lane(self.weights.model.config.get_text_config().num_hidden_layers)
            logits = self._forward(PromptPass(lane, jobs, self._device))
        except Exception as error:
            if len(jobs) == 1:
                self._fail(jobs[0], error)
            else:
                for job in jobs:
                    self._prefill([job])
            return
        self._lanes[model_id] = lane
        lane.jobs += jobs
        self._advance(model_id, logits, first_row=len(lane.jobs) - len(jobs))

    def _decode(self, model_id: str) -> None:
        """Grow every row of a lane by one token."""
        lane = self._lanes[model_id]
        for row in reversed(range(len(lane.jobs))):
            if lane.jobs[row].abandoned:
                self._fail(lane.jobs[row], BtlibError("nobody waits for this answer any more"))
                lane.remove(row)
        if lane.jobs:
            try:
                self.weights.use(model_id, self._adapter_of(model_id))
                logits = self._forward(DecodePass(lane, self._device))
            except Exception as error:
                if len(lane.jobs) == 1:
                    self._fail(lane.jobs[0], error)
                else:
                    self._separate(lane.jobs)
                lane.jobs.clear()
            else:
                self._count(steps=1, rows=len(lane.jobs))
                self._advance(model_id, logits, first_row=0)
        if not lane.jobs:
            del self._lanes[model_id]

    def _separate(self, jobs: list[Job]) -> None:
        """Begin again with jobs whose batch failed, one at a time, so that only those fail that fail alone."""
        for job in jobs:
            job.alone = True
            job.new.clear()
        with self._changed:
            self._waiting.extendleft(reversed(jobs))

    def _forward(self, batch: Prefix | PromptPass | DecodePass) -> torch.Tensor:
        """Run the model over one pass and return the logits (rows, vocabulary) in fp32, padding rows included."""
        inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "logits_to_keep": batch.keep}
        return self.weights.model(**inputs, use_cache=False, btlib_pass=batch).logits[0].float()

    def _prefix(self, job: Job) -> Prefix | None:
        """Return the keys and values of a job's prefix, computed alone so that they are the same in any order."""
        if job.prefix_length < _SHORTEST_PREFIX:
            job.prefix_length = 0
            return None
        ids = job.ids[: job.prefix_length]
        prefix = self.prefixes.find(job.model_id, ids)
        if prefix is not None:
            self._count(tokens_reused=len(ids))
            return prefix
        prefix = Prefix(ids, self._device)
        self._forward(prefix)
        self.prefixes.add(job.model_id, ids, prefix)
        return prefix

    def _advance(self, model_id: str, logits: torch.Tensor, first_row: int) -> None:
        """Pick the next token of the rows from `first_row` on, and answer those that are finished."""
        lane = self._lanes[model_id]
        jobs = lane.jobs[first_row:]
        settings = zip(
            *((job.temperature, job.top_p, job.top_k, uniform(job.seed, len(job.new))) for job in jobs), strict=True
        )
        tokens = pick(logits[: len(jobs)], *settings)
        sane = torch.isfinite(logits[: len(jobs)]).all(dim=-1).tolist()
        self._count(tokens_out=len(jobs))
        for row in reversed(range(len(jobs))):
            job = jobs[row]
            job.new.append(tokens[row])
            reason = self._ends(job) if sane[row] else None
            if not sane[row]:
                self._fail(job, BtlibError(f"{job.model_id} computed logits that are not finite; try dtype='float32'"))
            elif reason is not None:
                with self._changed:
                    self._forget(job)
                job.future.set_result((job.new, reason))
            else:
                continue
            lane.remove(first_row + row)

    def _drop(self, error: Exception) -> None:
        """Fail every request that was let in; those that still wait are not concerned."""
        with self._changed:
            jobs = [job for job in self._running.values() if job.future.running()]
        self._lanes.clear()
        for job in jobs:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        with self._changed:
            self._forget(job)
            self._counts["failed"] += 1
        if not job.future.done():
            job.future.set_exception(error)

    def _forget(self, job: Job) -> None:
        """Take a job out of those that an equal request can join; call it with the lock held."""
        if self._running.get(job.key) is job:
            del self._running[job.key]
