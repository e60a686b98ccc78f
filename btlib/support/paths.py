"""Where the repository's data and notebooks lie, for an editable install and for a checkout."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from btlib.errors import BtlibError

_ROOT = Path(__file__).resolve().parent.parent.parent
SHORT = 60  # characters of a folder that is to have sockets below it: a socket's path has 104 at most


def at_home(path: Path | str) -> Path:
    """Return a path with ~ and ~user replaced by the home folder; BtlibError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BtlibError(f"{path} begins with a home folder that is not known; write the path in full") from error


@contextmanager
def short_name(folder: Path, longest: int = SHORT) -> Iterator[Path]:
    """Give a folder under a name that is short enough for sockets: its own, or else a link that goes when the block
    ends.
    """
    if len(os.path.abspath(folder)) <= longest or os.name != "posix":
        yield Path(folder)
        return
    places = [Path(place) for place in (os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp") if place]
    place = next((p for p in places if p.is_absolute() and len(str(p)) < longest - 20 and os.access(p, os.W_OK)), None)
    if place is None:
        yield Path(folder)
        return
    around = Path(tempfile.mkdtemp(prefix="btlib-", dir=place))
    try:
        (around / "s").symlink_to(os.path.abspath(folder), target_is_directory=True)
        yield around / "s"
    finally:
        shutil.rmtree(around, ignore_errors=True)


def _folder(name: str, variable: str) -> Path:
    path = at_home(os.environ.get(variable) or _ROOT / name)
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
    return at_home(os.environ.get("BTLIB_CACHE") or Path(home) / "btlib")
