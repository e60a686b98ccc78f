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

# The names in records, and those of the engine's counters.
_COUNTERS = {
    "lm_calls": "requests",
    "tokens_in": "tokens_in",
    "tokens_out": "tokens_out",
    "tokens_reused": "tokens_reused",
}


class _SharedTracker(UsageTracker):
    """Stay one object: DSPy deep-copies the tracker into each thread of Evaluate, and a copy's counts are lost."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedTracker:
        return self


class Meter:
    """What an LM did between the start and `counts()`.

    An engine with `counters()` is asked (requests, tokens_in, tokens_out, tokens_reused); other LMs are counted by the
    usage that DSPy records. Answers from DSPy's cache cost nothing and are not counted. One meter an engine at a time.
    """

    def __init__(self, lm: dspy.LM):
        self.tracker = _SharedTracker()
        self._engine = lm.engine if hasattr(getattr(lm, "engine", None), "counters") else None
        self._before = dict(self._engine.counters()) if self._engine else {}
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return round(time.perf_counter() - self._start, 3)

    def counts(self) -> dict[str, int]:
        """Return lm_calls, tokens_in, tokens_out and tokens_reused so far."""
        if self._engine:
            now = self._engine.counters()
            return {name: int(now.get(key, 0) - self._before.get(key, 0)) for name, key in _COUNTERS.items()}
        usage = [entry for entries in list(self.tracker.usage_data.values()) for entry in list(entries)]
        tokens = [sum(int(entry.get(key) or 0) for entry in usage) for key in ("prompt_tokens", "completion_tokens")]
        return dict(zip(_COUNTERS, (len(usage), *tokens, sum(_cached(entry) for entry in usage)), strict=True))


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
