"""Names of a room that are imported when they are first asked for, so that a room costs only what is used of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(room: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__`: `where` says which module of the room holds a name."""

    def get(name: str) -> Any:
        if name in where:
            return getattr(import_module(f"{room}.{where[name]}"), name)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return get
