"""Count what a step costs: LM calls, tokens, seconds; and keep DSPy's progress output out of notebooks."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import dspy
from dspy.utils.usage_tracker import UsageTracker

from btlib.errors import BtlibError


class _SharedTracker(UsageTracker):
    """Stay one object: DSPy deep-copies the tracker into each thread of Evaluate, and a copy's counts are lost."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedTracker:
        return self


class Meter:
    """What an LM did between the start and `counts()`.

    An LM with `counters()` is asked; other LMs are counted by the usage that DSPy records. Answers from DSPy's
    cache, and those that the engine took from an equal request in flight, cost nothing and are not counted. One meter
    an engine at a time.
    """

    def __init__(self, lm: dspy.LM):
        self.tracker = _SharedTracker()
        self._counters = getattr(lm, "counters", lambda: None)  # an LM that is not btlib's has none
        self._before = self._counters()
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return round(time.perf_counter() - self._start, 3)

    def counts(self) -> dict[str, float]:
        """Return what was done so far.

        lm_calls, tokens_in, tokens_out, tokens_reused (of prompts, from the prefix cache); and of an engine that says
        so, occupancy (requests that grew by a token at each step, on average) and lm_seconds (in which it was busy).
        """
        if self._before is None:
            return self._from_usage()
        now = self._counters()
        names = ("requests", "repeated", "tokens_in", "tokens_out", "tokens_reused", "steps", "rows", "seconds")
        more = {name: now.get(name, 0) - self._before.get(name, 0) for name in names}
        return {
            "lm_calls": more["requests"] - more["repeated"],
            "tokens_in": more["tokens_in"],
            "tokens_out": more["tokens_out"],
            "tokens_reused": more["tokens_reused"],
            "occupancy": round(more["rows"] / more["steps"], 2) if more["steps"] else 0.0,
            "lm_seconds": round(float(more["seconds"]), 3),
        }

    def _from_usage(self) -> dict[str, float]:
        usage = [entry for entries in list(self.tracker.usage_data.values()) for entry in list(entries)]
        tokens = {
            key: sum(int(entry.get(key) or 0) for entry in usage) for key in ("prompt_tokens", "completion_tokens")
        }
        return {
            "lm_calls": len(usage),
            "tokens_in": tokens["prompt_tokens"],
            "tokens_out": tokens["completion_tokens"],
            "tokens_reused": sum(_cached(entry) for entry in usage),
            "occupancy": 0.0,
            "lm_seconds": 0.0,
        }


def _cached(entry: Mapping[str, Any]) -> int:
    details = entry.get("prompt_tokens_details") or {}
    return int((details.get("cached_tokens") if isinstance(details, Mapping) else 0) or 0)


@contextmanager
def quiet(active: bool = True) -> Iterator[None]:
    """Hold back what is printed to stdout and stderr; when DSPy fails, its last lines are shown."""
    if not active:
        yield
        return
    held = io.StringIO()
    try:
        with redirect_stdout(held), redirect_stderr(held):
            yield
    except BtlibError:
        raise
    except Exception:
        lines = held.getvalue().replace("\r", "\n").splitlines()
        print(*lines[-20:], sep="\n", file=sys.stderr)
        raise
