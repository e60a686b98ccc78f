"""Values of any type as JSON, and back: a demonstration with a date in it is kept as what it is.

Text, numbers, lists and dicts are written as they are. Everything else is a dict with one key that begins with "$" and
says what it was. Classes (pydantic models, Enums, dataclasses, named tuples) are written by their name, and found again
among the types of the fields that they stand in: nothing is imported that a file names.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic

# By tag: the type, how it is written, how it is read. A datetime is a date, too, so it comes first.
_KINDS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "$datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "$date": (date, date.isoformat, date.fromisoformat),
    "$time": (time, time.isoformat, time.fromisoformat),
    "$timedelta": (timedelta, lambda x: [x.days, x.seconds, x.microseconds], lambda x: timedelta(*x)),
    "$decimal": (Decimal, str, Decimal),
    "$uuid": (UUID, str, UUID),
    "$bytes": (bytes, lambda x: base64.b64encode(x).decode(), base64.b64decode),
    "$float": (float, str, float),
}
_GROUPS = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
_CLASSES = ("$enum", "$object")
_TAGS = {*_KINDS, *_GROUPS, *_CLASSES, "$dict"}


def to_json(value: Any) -> Any:
    """Return a value as JSON knows it (see the module); what is of no known type becomes text."""
    if isinstance(value, enum.Enum):
        return {"$enum": type(value).__name__, "value": to_json(value.value)}
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not _TAGS & value.keys():
            return {key: to_json(item) for key, item in value.items()}
        return {"$dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    fields = _fields(value)
    if fields is not None:
        return {"$object": type(value).__name__, "fields": {name: to_json(item) for name, item in fields.items()}}
    for tag, kind in _GROUPS.items():
        if isinstance(value, kind):
            items = [to_json(item) for item in value]
            return {tag: items if kind is tuple else sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}
    for tag, (kind, write, _) in _KINDS.items():
        if isinstance(value, kind):
            return {tag: write(value)}
    return str(value)


def from_json(value: Any, types: Iterable[Any] = ()) -> Any:
    """Return what `to_json` was given. `types` are those in which its classes are looked for, such as a signature's;
    an object of a class that is not among them stays a dict of its fields, an Enum's member its value. What was not
    written by `to_json`, or does not fit its class any more, is a ValueError.
    """
    classes: dict[str, type] = {}
    for kind in types:
        _collect(kind, classes)
    try:
        return _read(value, classes)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{str(value)[:80]} is not what to_json writes: {error}") from error


def types_of(program: Any) -> list[Any]:
    """Return the types of all fields of a DSPy program."""
    return [field.annotation for each in program.predictors() for field in each.signature.fields.values()]


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON text, in one line unless there is an indent."""
    stored = to_json(value)
    text = json.dumps(stored, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which no file takes as it is
        text = json.dumps(stored, indent=indent)
    return text


def _fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, pydantic.BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else None


def _collect(kind: Any, found: dict[str, type]) -> None:
    """Note the classes that a type is made of, and those that stand in for them."""
    for part in typing.get_args(kind):
        _collect(part, found)
    named = isinstance(kind, type) and (
        issubclass(kind, (enum.Enum, pydantic.BaseModel))
        or dataclasses.is_dataclass(kind)
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )
    if not named or found.setdefault(kind.__name__, kind) is not kind:
        return
    hints = [field.annotation for field in getattr(kind, "model_fields", {}).values()]
    if not hints and not issubclass(kind, enum.Enum):
        try:
            hints = list(typing.get_type_hints(kind).values())
        except (NameError, TypeError):  # hints in words that cannot be resolved here
            hints = []
    for part in [*hints, *kind.__subclasses__()]:
        if part not in found.values():
            _collect(part, found)


def _read(value: Any, classes: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return [_read(item, classes) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if tag not in _TAGS or set(value) - {tag, "value", "fields"}:
        return {key: _read(item, classes) for key, item in value.items()}
    stored = value[tag]
    if tag in _KINDS:
        return _KINDS[tag][2](stored)
    if tag in _GROUPS:
        return _GROUPS[tag](_read(item, classes) for item in stored)
    if tag == "$dict":
        return {_read(key, classes): _read(item, classes) for key, item in stored}
    kind = classes.get(stored)
    if tag == "$enum":
        member = _read(value["value"], classes)
        return kind(member) if kind else member
    fields = {name: _read(item, classes) for name, item in value["fields"].items()}
    if kind is None:
        return fields
    return kind.model_validate(fields, by_name=True) if issubclass(kind, pydantic.BaseModel) else kind(**fields)
