"""A ChatAdapter that counts unreadable answers by their reason instead of raising (see notebooks/02_bootstrapping)."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import dspy

from btlib.errors import unknown
from btlib.lm.reading import REASONS, Cut, read
from btlib.presets import READINGS

_PROMPTS = 64  # that a search has in use at a time


class ForgivingChatAdapter(dspy.ChatAdapter):
    """Fill output fields that an answer lacks with an empty value, and count such answers in `failed_parses`, by their
    reason in `unreadable`.

    An answer that cannot be read is a wrong answer, so the metric should see it. DSPy's own way, an exception, scores
    it -1 in bootstrapping (which is truthy, so the trace is kept) and ends an evaluation after ten of them. There is
    no second call in JSON format: it doubles the cost and small LMs fail at it too. `reading` "lenient" also takes
    answers whose markers are nearly right (see `btlib.lm.reading.read`).

    What all calls of a prompt share, its system message and its demonstrations, is formatted once: DSPy does it anew
    for each call.
    """

    def __init__(self, callbacks: list | None = None, reading: str = "strict"):
        super().__init__(callbacks=callbacks, use_json_adapter_fallback=False)
        if reading not in READINGS:
            raise unknown("reading", reading, READINGS)
        self.reading = reading
        self._counts: Counter[str] = Counter()
        self._formatted: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict) -> ForgivingChatAdapter:
        """One counter for all copies of a program."""
        return self

    @property
    def failed_parses(self) -> int:
        """Answers since the last `reset` that lacked at least one field or could not be read as the field's type."""
        return sum(self.unreadable.values())

    @property
    def unreadable(self) -> dict[str, int]:
        """The same answers by the reason why they were not read whole (a key of `btlib.lm.reading.REASONS`)."""
        with self._lock:
            return {reason: self._counts[reason] for reason in REASONS if self._counts[reason]}

    def reset(self) -> int:
        """Set the counters to 0 and return what `failed_parses` was."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts.total()

    def format_system_message(self, signature: type[dspy.Signature]) -> str:
        """Return the message with the fields, the form of an answer and the instruction."""
        make = super().format_system_message
        return self._once(signature, lambda: make(signature))

    def format_demos(self, signature: type[dspy.Signature], demos: list) -> list[dict[str, Any]]:
        """Return the demonstrations as messages, incomplete ones first."""
        told = tuple(tuple((name, type(x), x if type(x) is str else repr(x)) for name, x in d.items()) for d in demos)
        make = super().format_demos
        # The demos are kept too: a repr can be an address, which must not be given to another object meanwhile.
        messages, _ = self._once((signature, told), lambda: (make(signature, demos), list(demos)))
        return [dict(message) for message in messages]

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` gave for this key before, or now."""
        with self._lock:
            if key in self._formatted:
                self._formatted.move_to_end(key)
                return self._formatted[key]
        made = make()
        with self._lock:
            self._formatted[key] = made
            while len(self._formatted) > _PROMPTS:
                self._formatted.popitem(last=False)
        return made

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return every output field of the signature; "" (None for a field that is not text) where the answer has
        none.
        """
        found = read(signature, completion, self.reading, cut=isinstance(completion, Cut))
        if found.reason:
            with self._lock:
                self._counts[found.reason] += 1
        return found.values

    def _call_postprocess(
        self, processed: type[dspy.Signature], original: type[dspy.Signature], outputs: list, *rest: Any, **more: Any
    ) -> list[dict[str, Any]]:
        """Return what each answer says: also one without text, at which DSPy raises."""
        calls = self._get_tool_call_output_field_name(original)
        outputs = [_with_text(output, bool(calls)) for output in outputs]
        return super()._call_postprocess(processed, original, outputs, *rest, **more)


def _with_text(output: Any, tools: bool) -> Any:
    """Return an answer of the LM with a blank in the place of no text, which is read as empty."""
    if not isinstance(output, dict):
        return output or _blank(output)
    if output.get("text") or (tools and output.get("tool_calls")):
        return output
    return {**output, "text": _blank(output.get("text"))}


def _blank(text: str | None) -> str:
    return Cut(" ") if isinstance(text, Cut) else " "
