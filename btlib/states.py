"""A run's state on disk: program.json holds the prompts Π, adapter/ the weights Θ; and the fingerprints that tell
other data or weights.

Taught in notebooks/05_bettertogether.ipynb.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from btlib.search import is_url, public
from btlib.errors import BtlibError
from btlib.lm.known import known
from btlib.paths import data_dir

if TYPE_CHECKING:
    from btlib.evaluation import State
    from btlib.presets import Preset
    from btlib.tasks import Task


def save_state(folder: Path, state: State) -> None:
    """Write a state's prompts and weights into `folder`. The LM itself is not stored: `load_state` sets it anew.

    The adapter is hard-linked when it lies elsewhere (a p-step keeps the weights of its prefix), and copied where
    links do not work: every run's folder is whole in itself, and no bytes are stored twice.
    """
    prompts = {}
    for name, predictor in state.program.named_predictors():
        demos = [demo.toDict() if hasattr(demo, "toDict") else dict(demo) for demo in predictor.demos]
        prompts[name] = {"instructions": predictor.signature.instructions, "demos": demos}
    text = json.dumps(
        {"compiled": bool(getattr(state.program, "_compiled", False)), "predictors": prompts},
        indent=1,
        ensure_ascii=False,
    )
    (folder / "program.json").write_text(text + "\n", encoding="utf-8")
    source = adapter_of(state.lm)
    if source and source.resolve() != (folder / "adapter").resolve():
        shutil.copytree(source, folder / "adapter", copy_function=_link)


def adapter_of(lm: object) -> Path | None:
    """Return the folder of the LoRA adapter that `lm` generates with; None for base weights."""
    engine = getattr(lm, "engine", None)
    if isinstance(engine, str):  # the name of DSPy's own engine: an LM on a server, whose provider knows
        engine = getattr(getattr(lm, "provider", None), "engine", None)
    path = engine.adapter_path(lm.model) if hasattr(engine, "adapter_path") else None
    return Path(path) if path else None


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
    return target


def load_state(folder: Path | None, task: Task, model: str, preset: Preset) -> State:
    """Return the state that a run left in `folder`; the vanilla program on base weights when there is no folder.

    Prompts that do not fit the task's program are a BtlibError.
    """
    from btlib.evaluation import State
    from btlib.lm import load_lm

    program = task.program()
    adapter = None
    if folder:
        read_prompts(folder / "program.json", program)
        adapter = folder / "adapter" if (folder / "adapter").is_dir() else None
    lm = load_lm(model, preset, adapter=adapter)
    program.set_lm(lm)
    return State(program, lm)


def read_prompts(path: Path, program: object) -> None:
    """Put the demonstrations and instructions of a program.json into `program`, in place."""
    import dspy

    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        predictors = dict(program.named_predictors())
        if set(stored["predictors"]) != set(predictors):
            raise KeyError(f"predictors {sorted(stored['predictors'])}, the program has {sorted(predictors)}")
        for name, prompts in stored["predictors"].items():
            predictors[name].signature = predictors[name].signature.with_instructions(prompts["instructions"])
            predictors[name].demos = [dspy.Example(**demo) for demo in prompts["demos"]]
        program._compiled = stored["compiled"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BtlibError(
            f"{path} does not fit the program ({type(error).__name__}: {error}); delete its folder and run it again"
        ) from None


def fingerprints(task: str, model: str, source: str = "mini") -> dict[str, str]:
    """Return short content hashes of a run's data files and base weights, so that runs made with others are told apart.

    What comes from a hub goes by its name alone.
    """
    files = []
    if source == "mini":
        files = [data_dir() / "iris.csv"] if task == "iris" else sorted((data_dir() / f"{task}-mini").glob("*.jsonl"))
    elif source != "hub":
        root = Path(source) / task if (Path(source) / task).is_dir() else Path(source)
        files = sorted(
            p for p in root.rglob("*") if p.is_file() and p.suffix in (".json", ".jsonl", ".parquet", ".csv")
        )
    entry = known(model)
    folder = data_dir() / entry.folder if entry and entry.folder else Path(model)
    weights = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("tokenizer.json")) if folder.is_dir() else []
    return {"data": _hash(tuple(files)) or source, "weights": _hash(tuple(weights)) or model}


def retriever_fingerprint(retriever: str) -> dict[str, str]:
    """Return what tells one retriever from another: a server's URL, a file's content; nothing for the source's own."""
    if not retriever:
        return {}
    return {"retriever": public(retriever) if is_url(retriever) else _hash((Path(retriever).expanduser(),))}


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
