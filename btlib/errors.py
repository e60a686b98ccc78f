"""The one error that users cause and can mend: a line that says what is wrong, what is valid, and the fix."""

from __future__ import annotations

from collections.abc import Iterable


class BtlibError(Exception):
    """An input that btlib cannot work with. The command line prints it as one line and exits with status 2."""


def unknown(kind: str, got: object, choices: Iterable[object], fix: str = "") -> BtlibError:
    """Make the error for a name that does not exist: the kind of thing, what was given, and every valid choice."""
    names = ", ".join(str(c) for c in choices)
    return BtlibError(f"unknown {kind} {str(got)!r}; choose from {names}" + (f"; {fix}" if fix else ""))
