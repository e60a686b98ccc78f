"""Markers of fields in an answer: where they stand, nearly right ones too, and what stands behind them.

See btlib.lm.reading, which makes values of it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

_S = r"[^\S\n]{0,3}"  # repetitions are bounded: an answer of 100 KB must not take minutes
_DECORATION = r"[*_`~#>+\- \t]{0,12}"
MARKER = re.compile(r"^[^\S\n]*\[\[ ## (\w+) ## \]\]", re.M)
_FENCE = re.compile(r"^[^\S\n]{0,9}(?:`{3,9}|~{3,9})[^\S\n]{0,9}([\w+.-]*)[^\S\n]{0,9}$", re.M)
OPENED = re.compile(rf"(?:\A|\n){_S}\[\[?{_S}#?{_S}\Z")


class Mark(NamedTuple):
    """Where a marker stands; no name: the end of what may be a value. `near`: it is not written as it should be."""

    start: int
    end: int
    name: str | None
    near: bool = False
    lead: str = ""
    label: bool = False


def in_order(marks: list[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda mark: mark.start)


class Found(NamedTuple):
    text: str
    last: bool = False  # nothing follows: an answer that was cut was cut here


class Shape:
    """The patterns of a signature's markers and template."""

    def __init__(self, outputs: tuple[str, ...], inputs: tuple[str, ...]):
        self.outputs = outputs
        names = "|".join(map(re.escape, (*outputs, "completed")))
        marker = rf"\[\[{_S}#{{0,4}}{_S}(?:{names}){_S}#{{0,4}}{_S}\]\]"
        around = r"(?P<around>[*_`~]{1,3})(?=\[\[[^\]\n]{0,80}\]\](?P=around))"
        piece = rf"\[\[{_S}##|##{_S}\]\]|\[\[{_S}#{_S}\Z|{marker}"
        self.piece = re.compile(rf"(?:^{_DECORATION}|{around})?(?:{piece})", re.M | re.I)
        every = "|".join(map(re.escape, (*outputs, *inputs)))
        note = r"(?:[ \t]{0,20}# ?note: the value you produce[^\n]*)?"
        self.copy = re.compile(rf"(?:\$?\{{+{_S}(?:{every}){_S}\}}+{note}[\s.,;]*)+", re.I)

    def copied(self, text: str) -> bool:
        """Tell whether a value is nothing but the template's `{answer}`."""
        return bool(self.copy.fullmatch(text.strip(" \t\n*_`~\"'<>")))

    def echoes(self, text: str) -> bool:
        """Tell whether the answer repeats the prompt's own words on its form."""
        return self.copied(text) or "Respond with the corresponding output fields, starting with" in text

    def sections(self, text: str, marks: list[Mark]) -> dict[str, list[Found]]:
        """Return what stands behind the markers of each output field, in order."""
        found: dict[str, list[Found]] = {}
        stops = in_order([*marks, *_closing_fence(text, marks)])
        for mark, following in pairwise([*stops, Mark(len(text), len(text), None)]):
            if mark.name in self.outputs:
                value = self._value(text[mark.end : following.start], mark)
                found.setdefault(mark.name, []).append(Found(value, following.start == len(text)))
        return found

    def _value(self, text: str, mark: Mark) -> str:
        if mark.near:
            text = _undecorated(text, mark)
        first, _, rest = text.partition("\n")
        text = f"{first.strip()}\n{rest}".strip()
        found = self.piece.search(text)
        return text[: found.start()].rstrip() if found else text

    def near(self, text: str, names: list[str]) -> list[Mark]:
        """Return the markers of these fields that are not written as they should be; labels only where there are no
        others.
        """
        found = []
        for name in names:
            word = re.escape(name).replace("_", "[ _-]")
            lead = rf"(?P<lead>^{_DECORATION}(?:\d{{1,2}}[.)][ \t]{{0,2}})?[*_`~]{{0,3}}|[*_`~]{{1,3}})?"
            bracketed = rf"\[\[{_S}#{{0,4}}{_S}{word}{_S}#{{0,4}}{_S}\]\]"
            hashed = rf"(?:(?<=\n)|\A){_S}\[?{_S}##{_S}{word}{_S}##{_S}\]?"
            patterns = [rf"{lead}{bracketed}|{hashed}", rf"^{lead}{word}[*_`~]{{0,3}}{_S}[:=：]"]
            for label, pattern in enumerate(patterns):
                matches = [m for m in re.finditer(pattern, text, re.M | re.I) if not _quoted(text, m)]
                if matches:
                    found += [Mark(m.start(), m.end(), name, True, m["lead"] or "", bool(label)) for m in matches]
                    break
        return found


@lru_cache(maxsize=256)
def shape_of(outputs: tuple[str, ...], inputs: tuple[str, ...]) -> Shape:
    return Shape(outputs, inputs)


def _quoted(text: str, match: re.Match) -> bool:
    """Tell whether a marker in the midst of a line is only spoken of: `[[ ## answer ## ]]` in quotes."""
    begins_line = not text[text.rfind("\n", 0, match.start()) + 1 : match.start()].strip()
    return not begins_line and (text[match.start()] == "`" or text[match.start() - 1] in "`'\"“‘")


def _undecorated(text: str, mark: Mark) -> str:
    """Take the end of a decoration that began before the marker from what follows it, and a label's end."""
    decoration = re.search(r"[*_`~]*$", mark.lead)[0]
    text = text.lstrip(" \t")
    if decoration and text.startswith(decoration):
        text = text[len(decoration) :].lstrip(" \t")
    elif decoration and (line := text.partition("\n")[0].rstrip()).endswith(decoration):
        text = line.removesuffix(decoration) + text[len(text.partition("\n")[0]) :]
    text = text if mark.label else text.removeprefix(":")
    return text.strip().partition("\n\n")[0] if mark.label else text


def _closing_fence(text: str, marks: list[Mark]) -> list[Mark]:
    """Return the end of a code fence that was opened before the first marker, as a stop."""
    if not marks or len(_FENCE.findall(text, 0, marks[0].start)) % 2 == 0:
        return []
    inner = list(_FENCE.finditer(text, marks[0].start))
    bare = [fence for fence in inner if not fence[1]]
    # Fences within a value come in pairs, of which the first may name a language.
    return [Mark(bare[-1].start(), bare[-1].end(), None)] if (2 * len(bare) - len(inner)) % 2 else []
