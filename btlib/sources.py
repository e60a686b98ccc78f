"""What a run uses from outside: where its data, passages and answers come from, and whether a server was gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from btlib.errors import BtlibError

if TYPE_CHECKING:
    from btlib.tasks import Task


def describe(task: Task, lm: Any) -> dict[str, Any]:
    """Say where a run's data, passages and answers came from; a server by its URL, its LM and the LMs that it lists."""
    server = getattr(getattr(lm, "provider", None), "engine", None)
    found = {
        "data": task.source if task.source in ("mini", "hub") else Path(task.source).name,
        "retriever": getattr(task.retriever, "name", None),
        "server": server.describe() if hasattr(server, "describe") else None,
    }
    return {name: value for name, value in found.items() if value}


def split_ids(task: Task) -> dict[str, list[str]]:
    """Return the ids of a task's examples by part; train in the order of its seed."""
    return {part: [example.id for example in getattr(task, part)] for part in ("train", "dev", "test")}


def check_servers(task: Task, lm: Any) -> None:
    """Refuse a run during which a server was gone: its examples were marked wrong, and the LM is not to blame."""
    for used in (task.retriever, getattr(lm, "provider", None)):
        if getattr(used, "failed", ""):
            raise BtlibError(f"{used.failed}; the run is not kept, the same command runs it again")
