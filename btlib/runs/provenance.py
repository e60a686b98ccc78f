"""What a run was made with: settings that can change it, hashes of its data and weights, servers that it used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btlib.errors import BtlibError
from btlib.lm.known import known
from btlib.presets import Preset
from btlib.search import is_url, public
from btlib.support.paths import at_home, data_dir
from btlib.tasks import find_task, preset_for, split_for

if TYPE_CHECKING:
    from btlib.runs.spec import RunSpec
    from btlib.tasks import Task

# Fields of a preset that can change any run; those of a step stand with the step (btlib.steps.table).
ANY_RUN = ("temperature", "top_p", "max_tokens", "context_length", "dtype", "reading")
SEARCHING = ("passages_per_hop", "num_hops")
PLACES = ("source", "retriever", "api_base")


def settings(spec: RunSpec) -> dict[str, object]:
    """Return every setting that can change this run's result, and hashes of its data and weights.

    A vanilla run does not depend on the numbers of optimization, nor a run of prompt steps on LoRA's. A step that was
    put in the place of btlib's own goes by its function's name.
    """
    from btlib.steps.table import STEPS, exchanged_for

    preset, split = preset_for(spec.preset, spec.task), vars(split_for(spec.preset, spec.task))
    names = [
        *ANY_RUN,
        *(SEARCHING if find_task(spec.task).searches else ()),
        *(name for step in STEPS if step in spec.strategy for name in STEPS[step].settings),
    ]
    if len(spec.strategy) > 1:
        names.append("shuffle_between_steps")
    exchanged = {f"step.{step}": name for step in sorted({*spec.strategy}) if (name := exchanged_for(step))}
    parts = [part for part in split if "p" in spec.strategy or part not in ("bootstrap", "validation")]
    source = preset.source if preset.source in ("mini", "hub") else "folder"  # wherever it lies: its files are hashed
    found = {name: getattr(preset, name) for name in names} | {"source": source}
    found |= {f"split.{part}": split[part] for part in parts}
    if find_task(spec.task).searches:
        found |= retriever_fingerprint(preset.retriever)
    found |= fingerprints(spec.task, spec.model, preset.source) | exchanged
    return json.loads(json.dumps(found))  # as run.json gives it back: lists for tuples


def defaults() -> dict[str, object]:
    """Return what a setting was in a run that was stored before the setting existed: its default."""
    told = [f for f in fields(Preset) if f.default is not MISSING and f.name not in (*PLACES, "base")]
    return json.loads(json.dumps({f.name: f.default for f in told}))


def sources(task: Task, lm: Any) -> dict[str, Any]:
    """Say where a run's data, passages and answers came from; a server by its URL, its LM and the LMs that it lists."""
    found = {
        "data": task.source if task.source in ("mini", "hub") else Path(task.source).name,
        "retriever": getattr(task.retriever, "name", None),
        "server": lm.server() if hasattr(lm, "server") else None,
    }
    return {name: value for name, value in found.items() if value}


def split_ids(task: Task) -> dict[str, list[str]]:
    """Return the ids of a task's examples by part; train in the order of its seed."""
    parts = {part: getattr(task, part) for part in ("train", "dev", "test")}
    return {part: [str(x.get("id", n)) for n, x in enumerate(examples)] for part, examples in parts.items()}


def check_servers(task: Task, lm: Any) -> None:
    """Refuse a run during which a server was gone: its examples were marked wrong, and the LM is not to blame."""
    for used in (task.retriever, lm):
        if getattr(used, "failed", ""):
            raise BtlibError(f"{used.failed}; the run is not kept, the same command runs it again")


def fingerprints(task: str, model: str, source: str = "mini") -> dict[str, str]:
    """Return short content hashes of a run's data files and base weights, so that runs made with others are told apart.

    What comes from a hub goes by its name alone.
    """
    files = []
    if source == "mini":
        files = [data_dir() / "iris.csv"] if task == "iris" else sorted((data_dir() / f"{task}-mini").glob("*.jsonl"))
    elif source != "hub":
        root = at_home(source)
        root = root / task if (root / task).is_dir() else root
        suffixes = (".json", ".jsonl", ".parquet", ".csv", ".tsv")  # passages.tsv beside the questions is one, too
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix in suffixes)
    entry = known(model)
    folder = data_dir() / entry.folder if entry and entry.folder else at_home(model)
    weights = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("tokenizer.json")) if folder.is_dir() else []
    return {"data": _hash(tuple(files)) or source, "weights": _hash(tuple(weights)) or model}


def retriever_fingerprint(retriever: str) -> dict[str, str]:
    """Return what tells one retriever from another: a server's URL, a file's content; nothing for the source's own."""
    if not retriever:
        return {}
    return {"retriever": public(retriever) if is_url(retriever) else _hash((at_home(retriever),))}


def _hash(files: tuple[Path, ...]) -> str:
    return _digest(tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files if f.exists()))


@lru_cache
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files' names and bytes; a change of time or size makes a new key, so a long session sees new files."""
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(Path(name).name.encode() + b"\0")
        with open(name, "rb") as file:  # in pieces: a file of passages has gigabytes
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()[:8] if files else ""
