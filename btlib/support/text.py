"""Text for terminals and files that do not have every letter."""

from __future__ import annotations

import codecs
import sys
import unicodedata

# What btlib prints beyond ASCII, and how it is typed where that cannot be shown.
_PAIRS = """Π p Θ w → -> – - — - − - … ... · * • * × x ’ ' ‘ ' “ " ” " ≤ <= ≥ >= ▲ + ▼ - ● * ■ # █ #""".split()
TYPED = dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True))
ERRORS = "btlib.typed"


def typed(letters: str) -> str:
    """Return letters as they are typed in ASCII: Π→Θ as p->w, é as e, and ? for what has no like."""
    plain = (TYPED.get(c) or unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() for c in letters)
    return "".join(text or "?" for text in plain)


def _on_error(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return typed(error.object[error.start : error.end]), error.end


def say_anywhere() -> None:
    """Let standard output and error take any text: what their encoding lacks is written as it is typed."""
    codecs.register_error(ERRORS, _on_error)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)
