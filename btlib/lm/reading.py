"""What an answer says, field by field, and why it could not be read whole.

A pure function of the answer's text and the signature. What DSPy's ChatAdapter reads is read alike, apart from four
misreadings of its: a marker that is indented ("]] 42" for 42), a marker within a value, a code fence around the whole
answer, and a copy of the prompt's template, `{answer}`, which is never an answer. No value holds a piece of a marker.
What an unreadable answer costs is seen in notebook 02.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from btlib.errors import unknown
from btlib.lm.markers import MARKER, OPENED, Found, Mark, Shape, in_order, shape_of
from btlib.presets import READINGS

if TYPE_CHECKING:
    import dspy

# Why an answer was not read whole, and how a count says it.
REASONS = {
    "no marker": "without a marker",
    "template": "copied the template",
    "near miss": "near miss",
    "cut": "cut at max_tokens",
    "type": "not of the field's type",
    "empty": "empty",
    "missing": "without one of the fields",
}
_FIRST = ("template", "near miss", "type", "cut", "empty", "missing", "no marker")  # where fields have several reasons


class Cut(str):
    """An answer that `max_tokens` (or the end of the context) cut off, as the LM has told."""

    __slots__ = ()


@dataclass(frozen=True)
class Reading:
    """An answer's values, one for each output field, and the reason (a key of REASONS) why it was not read whole.

    A field without a readable value has "", or None where it is not text; `reason` is "" where all is well.
    """

    values: dict[str, Any]
    reason: str = ""


def read(signature: type[dspy.Signature], text: str | None, reading: str = "strict", cut: bool = False) -> Reading:
    """Read an answer's output fields.

    `reading` "lenient" also takes near misses for the fields that are missing otherwise: markers that are decorated,
    unspaced, in another case or in the midst of a line, and `Answer: 42` at a line's start. `cut` says that the LM did
    not come to its end. Whatever ends a line (U+2028, say) is a newline, as for DSPy. Nothing raises: what a field's
    type refuses, in whatever way, is not of its type.
    """
    if reading not in READINGS:
        raise unknown("reading", reading, READINGS)
    text = "\n".join((text or "").splitlines())
    text = OPENED.sub("", text) if cut else text
    fields = signature.output_fields
    if not text.strip():
        return Reading({name: _blank(field) for name, field in fields.items()}, "cut" if cut else "empty")
    shape = shape_of(tuple(fields), tuple(signature.input_fields))
    marks = [Mark(m.start(), m.end(), m[1]) for m in MARKER.finditer(text)]
    found = {name: each[0] for name, each in shape.sections(text, marks).items()}
    values, why = _take(signature, found, shape, cut)
    if not why:
        return Reading(values)
    near = shape.near(text, [name for name in fields if name not in found])
    others = {
        name: next((x for x in each if x.text and not shape.copied(x.text)), each[0])
        for name, each in shape.sections(text, in_order([*marks, *near])).items()
    }
    if reading == "lenient":
        values, why = _take(signature, {n: x for n, x in others.items() if n in found or x.text}, shape, cut)
    begun = bool(marks or near) or text.lstrip().startswith("<think")
    for name in [name for name, reason in why.items() if reason == "missing"]:
        if name in others:
            why[name] = "template" if shape.copied(others[name].text) else "near miss"
        elif shape.echoes(text):
            why[name] = "template"
        elif cut and begun:
            why[name] = "cut"
        elif not marks and not shape.piece.search(text):
            why[name] = "no marker"
    return Reading(values, next((reason for reason in _FIRST if reason in why.values()), ""))


def told(counts: Mapping[str, int] | None) -> str:
    """Say counts of unreadable answers in words: "50: 39 without a marker, 11 near misses"; "" where there is none."""
    shown = sorted(((n, reason) for reason, n in (counts or {}).items() if n), key=lambda pair: -pair[0])
    parts = [f"{n} {REASONS.get(r, r)}{'es' if r == 'near miss' and n > 1 else ''}" for n, r in shown]
    return f"{sum(n for n, _ in shown)}: {', '.join(parts)}" if parts else ""


def _blank(field: Any) -> Any:
    return "" if field.annotation is str else None


def _take(
    signature: type[dspy.Signature], found: Mapping[str, Found], shape: Shape, cut: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return every field's value, and the reason for each that has none."""
    from dspy.adapters.utils import apply_output_field_defaults

    values, why = {}, {}
    for name, field in signature.output_fields.items():
        if name not in found:
            continue
        text, last = found[name]
        values[name] = _blank(field)
        if shape.copied(text):
            why[name] = "template"
            continue
        try:
            values[name] = _typed(text, field)
        except Exception:  # a type's parser is anybody's code, and raises what it likes
            why[name] = "cut" if cut and last else "type" if text else "empty"
    values = apply_output_field_defaults(signature, values)
    why |= dict.fromkeys((name for name in signature.output_fields if name not in values), "missing")
    return {n: values.get(n, _blank(field)) for n, field in signature.output_fields.items()}, why


def _typed(text: str, field: Any) -> Any:
    """Return a text as a value of the field's type, as DSPy reads it; and where DSPy does not read what it would write
    for a value itself (bytes that look like a number, an Enum of numbers, Decimal("1.10")), that value.
    """
    from dspy.adapters.utils import format_field_value, parse_value

    if field.annotation in (str, int, float, bool):
        return parse_value(text, field.annotation)
    value = error = None
    try:
        value = parse_value(text, field.annotation)
        if format_field_value(field, value) == text:
            return value
    except Exception as caught:
        error = caught
    for other in _plain(text, field.annotation):
        if format_field_value(field, other) == text:
            return other
    if error:
        raise error
    return value


def _plain(text: str, annotation: Any) -> Iterable[Any]:
    """Yield what the text itself, not read as JSON, can be of this type."""
    from enum import EnumMeta

    from pydantic import TypeAdapter

    if isinstance(annotation, EnumMeta):
        yield from annotation
        return
    try:
        yield TypeAdapter(annotation).validate_python(text)
    except Exception:
        return
