"""From chat messages to token ids: what is shared with other requests, and which tokens an assistant wrote.

Both questions are answered by rendering the chat template twice, once with a turn's text replaced: what stays the same
in front of it does not depend on that turn. Nothing is assumed about the template itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from btlib.errors import BtlibError

Messages = Sequence[dict[str, str]]
# What templates ask for beside the messages. Qwen3 thinks before it answers unless told not to. Llama 3.2 writes
# today's date into the system turn unless it is given one, and answers would change by the day.
OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
_MARK = "\x01"  # stands for a turn's text: no text that DSPy sends starts or ends with it


@dataclass(frozen=True)
class Row:
    """A training conversation: token ids, and for each whether it is a target (written by the assistant)."""

    ids: list[int]
    target: list[bool]


class Chat:
    """A tokenizer with a chat template (Hugging Face's, fast).

    Where the template refuses or drops a system message (Mistral 7B v0.2), it goes in front of the first user turn.
    """

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int]):
        if not getattr(tokenizer, "chat_template", None):
            raise BtlibError(f"{tokenizer.name_or_path} has no chat template; use an instruction-tuned LM")
        self.tokenizer, self.eos_ids = tokenizer, eos_ids
        self._front = lru_cache(maxsize=512)(self._render_front)
        self.takes_system = True
        self.takes_system = self._shows_system()

    def _shows_system(self) -> bool:
        try:
            return _MARK in self.render([{"role": "system", "content": _MARK}, {"role": "user", "content": "?"}])
        except BtlibError:
            return False

    def render(self, messages: Messages, *, generate: bool = False) -> str:
        """Return the template's text; `generate` ends it where the assistant is to begin. A BtlibError where the
        template refuses the messages.
        """
        messages = list(messages) if self.takes_system else _folded(messages)
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate, **OPTIONS
            )
        except TemplateError as error:
            raise BtlibError(f"the chat template of {self.tokenizer.name_or_path} refuses this: {error}") from error

    def encode(self, messages: Messages) -> tuple[list[int], int]:
        """Return the prompt's token ids, and how many of them come before the last user turn."""
        text = self.render(messages, generate=True)
        last = messages[-1]
        front = self._front(tuple((m["role"], m["content"]) for m in messages[:-1]), last["role"])
        shared = len(os.path.commonprefix([front, text]))
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        prefix = sum(1 for _, end in encoded["offset_mapping"] if end <= shared)
        return ids, min(prefix, len(ids) - 1)

    def _render_front(self, before: tuple[tuple[str, str], ...], role: str) -> str:
        messages = [{"role": r, "content": c} for r, c in before]
        return self.render([*messages, {"role": role, "content": _MARK}], generate=True)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def training_row(self, messages: Messages) -> Row:
        """Return the ids of a whole conversation and the mask of its targets.

        Targets are what the LM writes after each generation prompt: an assistant turn's text and the token that ends
        it. A turn is cut off from what is in front where a token would span both, since the LM never sees such a token
        when it generates.
        """
        text = self.render(messages)
        spans = [self._span(messages, turn, text) for turn, m in enumerate(messages) if m["role"] == "assistant"]
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        if any(begin < start < end for start, _ in spans for begin, end in offsets):
            cuts = [0, *(start for start, _ in spans), len(text)]
            ids, offsets = [], []
            for cut, following in zip(cuts, cuts[1:], strict=False):
                part = self.tokenizer(text[cut:following], add_special_tokens=False, return_offsets_mapping=True)
                ids += part["input_ids"]
                offsets += [(begin + cut, end + cut) for begin, end in part["offset_mapping"]]
        target = [
            any(start <= begin < stop and not text[stop:end].strip() for start, stop in spans) for begin, end in offsets
        ]
        for _, stop in spans:
            self._add_eos(ids, offsets, target, stop, text)
        return Row(ids, target)

    def _span(self, messages: Messages, turn: int, text: str) -> tuple[int, int]:
        """Return where an assistant turn begins and ends in the conversation's text, without what ends the turn."""
        without = [*messages[:turn], {**messages[turn], "content": _MARK}, *messages[turn + 1 :]]
        other = self.render(without)
        start = len(os.path.commonprefix([text, other]))
        stop = len(text) - len(os.path.commonprefix([text[start:][::-1], other[start:][::-1]]))
        prompt = self.render(messages[:turn], generate=True)
        return (len(prompt) if text.startswith(prompt) and len(prompt) <= start else start), stop

    def _add_eos(self, ids: list[int], offsets: list, target: list[bool], stop: int, text: str) -> None:
        """Make the token that ends a turn a target, with the space before it (Llama 2 has one): the LM writes both."""
        space = []
        for i, (begin, end) in enumerate(offsets):
            if begin < stop:
                continue
            if ids[i] in self.eos_ids:
                for j in [*space, i]:
                    target[j] = True
                return
            if text[stop:end].strip():
                return
            space.append(i)


def _folded(messages: Messages) -> list[dict[str, str]]:
    """Put a leading system message in front of the first user turn."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system["content"]}, *rest]
