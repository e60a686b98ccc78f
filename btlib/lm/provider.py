"""DSPy's door to fine-tuning: `lm.finetune(...)` and `dspy.BootstrapFinetune` end up here."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from dspy.clients.provider import Provider, TrainingJob

from btlib.errors import BtlibError, unknown
from btlib.lm.engine.engine import Engine
from btlib.lm.lora.train import EmptyTraining, TrainReport, train_lora

SETTINGS = tuple(
    name
    for name, p in inspect.signature(train_lora).parameters.items()
    if p.kind is p.KEYWORD_ONLY and name != "init_adapter"
)


class LoraProvider(Provider):
    """Fine-tune the LM of an engine with LoRA and register the adapter with it.

    `train_kwargs` are the settings of `train_lora` plus `output_dir` (required), and `from_base=True` to start from
    the base weights. By default an LM that has an adapter is trained on from it: Θ→Θ continues from Θ'. `reports[new
    model id]` holds the TrainReport. DSPy runs `finetune` in a thread of its own; whatever it raises becomes the
    result of DSPy's job.
    """

    def __init__(self, engine: Engine):
        super().__init__()
        self.finetunable = True
        self.engine = engine
        self.reports: dict[str, TrainReport] = {}

    def __deepcopy__(self, memo: dict) -> LoraProvider:
        """LMs are copied with programs; the engine and the reports are one."""
        return self

    def train(self, rows: list[dict[str, Any]], out_dir: Path, start: Path | None, settings: dict) -> TrainReport:
        """Train on rows from the adapter `start` (None: from the base weights) and write the new one to `out_dir`."""
        return train_lora(self.engine, rows, out_dir, init_adapter=start, **settings)

    def finetune(  # type: ignore[override]
        self,
        job: TrainingJob | None,
        model: str,
        train_data: list[dict[str, Any]],
        train_data_format: Any = None,
        train_kwargs: dict[str, Any] | None = None,
    ) -> str:
        """Train on rows of {"messages": [...]} and return the id of the tuned model."""
        settings = dict(train_kwargs or {})
        output_dir = settings.pop("output_dir", None)
        from_base = settings.pop("from_base", False)
        if output_dir is None:
            raise BtlibError("train_kwargs has no 'output_dir'; give the folder that the adapter is to be written to")
        for name in settings:
            if name not in SETTINGS:
                raise unknown("training setting", name, (*SETTINGS, "output_dir", "from_base"))
        if getattr(train_data_format, "value", train_data_format) not in (None, "chat"):
            raise BtlibError(f"training data in format {train_data_format!s} cannot be used; use chat rows")
        if not train_data:
            raise EmptyTraining("nothing to train on: there are 0 rows; no trace passed the metric")
        start = None if from_base else self.engine.adapter_path(model)
        report = self.train(train_data, Path(output_dir), start, settings)
        model_id = self.engine.add_adapter(report.path)
        self.reports[model_id] = report
        return model_id
