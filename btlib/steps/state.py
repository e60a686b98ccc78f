"""A state: a program with its prompts Π and the LM with its weights Θ; and how it is kept in a run's folder.

program.json holds the prompts, adapter/ the weights (a LoRA adapter) or checkpoint/ (a whole one); neither: the base
weights. Taught in notebooks 01 and 05.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from btlib.errors import BtlibError
from btlib.lm import load_lm
from btlib.presets import Preset
from btlib.support.values import from_json, json_text, types_of
from btlib.tasks import Task

ADAPTER, CHECKPOINT = "adapter", "checkpoint"  # folders of weights in a run's folder


@dataclass(frozen=True)
class State:
    """A program with its prompts Π, and the LM with its weights Θ that every module of it runs on."""

    program: dspy.Module
    lm: dspy.LM


def vanilla_state(task: Task, lm: dspy.LM) -> State:
    """Return the task's program with its vanilla prompts, running on `lm`."""
    program = task.program()
    program.set_lm(lm)
    return State(program, lm)


def copy_program(program: dspy.Module, lm: dspy.LM | None = None) -> dspy.Module:
    """Copy a program with its prompts, never its LMs (they are shared), and set `lm` when there is one."""
    shared = {id(predictor.lm): predictor.lm for predictor in program.predictors() if predictor.lm}
    copied = copy.deepcopy(program, shared)
    if lm is not None:
        copied.set_lm(lm)
    return copied


def save_state(folder: Path, state: State, before: Path | None = None) -> None:
    """Write a state's prompts and weights into `folder`. The LM itself is not stored: `load_state` sets it anew.

    `before` is the folder that the state's first LM was loaded from: a whole checkpoint that lies there is kept on,
    unless the step has written one of its own.

    Weights that lie elsewhere (a p-step keeps those of its prefix) are hard-linked, and copied where links do not
    work: every run's folder is whole in itself, and no bytes are stored twice.
    """
    prompts = {}
    for name, predictor in state.program.named_predictors():
        demos = [_fields(demo) for demo in predictor.demos]
        prompts[name] = {"instructions": predictor.signature.instructions, "demos": demos}
    compiled = bool(getattr(state.program, "_compiled", False))
    text = json_text({"compiled": compiled, "predictors": prompts}, indent=1)
    (folder / "program.json").write_text(text + "\n", encoding="utf-8")
    source = getattr(state.lm, "weights_folder", None)  # an LM that is not btlib's has no weights to keep
    if source:
        target = folder / (ADAPTER if (source / "adapter_config.json").is_file() else CHECKPOINT)
        if source.resolve() != target.resolve():
            shutil.copytree(source, target, copy_function=_link)
    if before and (before / CHECKPOINT).is_dir() and not (folder / CHECKPOINT).is_dir():
        shutil.copytree(before / CHECKPOINT, folder / CHECKPOINT, copy_function=_link)


def _fields(demo: Any) -> dict[str, Any]:
    return dict(demo.items(include_dspy=True) if isinstance(demo, dspy.Example) else demo)


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
    program = task.program()
    adapter = None
    if folder:
        read_prompts(folder / "program.json", program)
        adapter = folder / ADAPTER if (folder / ADAPTER).is_dir() else None
        model = str(folder / CHECKPOINT) if (folder / CHECKPOINT).is_dir() else model
    lm = load_lm(model, preset, adapter=adapter)
    program.set_lm(lm)
    return State(program, lm)


def read_prompts(path: Path, program: dspy.Module) -> None:
    """Put the demonstrations and instructions of a program.json into `program`, in place."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        predictors = dict(program.named_predictors())
        if set(stored["predictors"]) != set(predictors):
            raise KeyError(f"predictors {sorted(stored['predictors'])}, the program has {sorted(predictors)}")
        for name, prompts in stored["predictors"].items():
            predictors[name].signature = predictors[name].signature.with_instructions(prompts["instructions"])
            demos = from_json(prompts["demos"], types_of(program))
            predictors[name].demos = [dspy.Example(**demo) for demo in demos]
        program._compiled = stored["compiled"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BtlibError(
            f"{path} does not fit the program ({type(error).__name__}: {error}); delete its folder and run it again"
        ) from None
