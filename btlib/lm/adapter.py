"""A ChatAdapter that counts unparsable answers instead of raising (see notebooks/02_bootstrapping)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

_PROMPTS = 64  # that a search has in use at a time


class ForgivingChatAdapter(dspy.ChatAdapter):
    """Fill output fields that an answer lacks with an empty value, and count such answers in `failed_parses`.

    An answer that cannot be read is a wrong answer, so the metric should see it. DSPy's own way, an exception, scores
    it -1 in bootstrapping (which is truthy, so the trace is kept) and ends an evaluation after ten of them. There is
    no second call in JSON format: it doubles the cost and small LMs fail at it too.

    What all calls of a prompt share, its system message and its demonstrations, is formatted once: DSPy does it anew
    for each call.
    """

    def __init__(self, callbacks: list | None = None):
        super().__init__(callbacks=callbacks, use_json_adapter_fallback=False)
        self._count = 0
        self._formatted: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict) -> ForgivingChatAdapter:
        """One counter for all copies of a program."""
        return self

    @property
    def failed_parses(self) -> int:
        """Answers since the last `reset` that lacked at least one field or could not be read as the field's type."""
        return self._count

    def reset(self) -> int:
        """Set the counter to 0 and return what it was."""
        with self._lock:
            count, self._count = self._count, 0
        return count

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
        try:
            return super().parse(signature, completion)
        except AdapterParseError:
            with self._lock:
                self._count += 1
        fields = {}
        for name, field in signature.output_fields.items():
            try:
                # Each field by itself, so that one unreadable field does not cost the others.
                fields.update(super().parse(_only(signature, name), completion))
            except AdapterParseError:
                fields[name] = "" if field.annotation is str else None
        return fields


def _only(signature: type[dspy.Signature], name: str) -> type[dspy.Signature]:
    """Return the signature with one of its output fields."""
    for other in signature.output_fields:
        if other != name:
            signature = signature.delete(other)
    return signature
