"""Where the repository's data and notebooks lie, for an editable install and for a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from btlib.errors import BtlibError

_ROOT = Path(__file__).resolve().parent.parent.parent


def _folder(name: str, variable: str) -> Path:
    path = Path(os.environ.get(variable) or _ROOT / name)
    if not path.is_dir():
        raise BtlibError(
            f"folder {path} is missing; run from a clone installed with `pip install -e .`, or set {variable}"
        )
    return path


def data_dir() -> Path:
    """Return the data folder (tasks, embedded LM, published tables); the variable BTLIB_DATA overrides it."""
    return _folder("data", "BTLIB_DATA")


def notebooks_dir() -> Path:
    """Return the folder of the numbered notebooks; the variable BTLIB_NOTEBOOKS overrides it."""
    return _folder("notebooks", "BTLIB_NOTEBOOKS")


def cache_dir() -> Path:
    """Return the folder for what can be made again (indexes, servers' answers); the variable BTLIB_CACHE overrides
    ~/.cache/btlib. It is made by whoever writes there first.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BTLIB_CACHE") or Path(home) / "btlib")
