"""One run: its name, its folder, how it comes about from the run of its prefix, and what it was made with.

Taught in notebook 05.
"""

from btlib.support.lazy import lazy

_WHERE = {
    "Run": "run",
    "RunSpec": "spec",
    "execute": "run",
    "make_spec": "spec",
    "read_run": "run",
}
__all__ = list(_WHERE)  # noqa: PLE0604
__getattr__ = lazy(__name__, _WHERE)
