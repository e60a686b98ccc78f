"""What runs and grids need of the world: a data folder, a scripted LM with adapters, a notebook that writes runs."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import nbformat
from fakes import FakeEngine, FakeProvider, fake_lm, field, reply, write_gsm8k, write_hotpotqa, write_iris


def data_folder(path: Path) -> Path:
    """Write all three tasks with the sizes of preset smoke, and no embedded LM."""
    write_iris(path)
    for name, write in (("gsm8k-mini", write_gsm8k), ("hotpotqa-mini", write_hotpotqa)):
        (path / name).mkdir()
        write(path / name, 24, 12, 24)
    return path


class AdapterEngine(FakeEngine):
    """Knows which folder a model id's adapter lies in, as btlib's engine does, and whether it was shown an example."""

    def __init__(self, script):
        super().__init__(script)
        self.adapters: dict[str, Path] = {}
        self.shown = threading.local()

    def complete(self, request):
        self.shown.example = any(message.role == "assistant" for message in request.messages)
        return super().complete(request)

    def adapter_path(self, model):
        return self.adapters.get(model)


class AdapterProvider(FakeProvider):
    """Writes an adapter folder whose content depends on what it was trained on."""

    def __init__(self, engine_of):
        super().__init__()
        self.engine_of = engine_of

    def finetune(self, job, model, train_data, train_data_format, train_kwargs):
        tuned = super().finetune(job, model, train_data, train_data_format, train_kwargs)
        folder = Path(train_kwargs["output_dir"])
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text(repr(train_data))
        self.engine_of().adapters[tuned] = folder
        return tuned


class World:
    """One scripted LM: `load_lm` replaces the real one, `asked` counts calls by model id.

    The LM adds right when the first number is below `skill`, which every adapter raises by 6, and so
    do demonstrations; other answers are wrong.
    """

    def __init__(self, skill: int = 6):
        self.skill = skill
        self.loads: list[Path | None] = []
        self.provider = AdapterProvider(lambda: self.engine)
        self.lm = fake_lm(self.script, AdapterEngine, self.provider)
        self.engine = self.lm.engine

    def script(self, model: str, prompt: str) -> str:
        a, b = (int(word) for word in field(prompt, "question").rstrip("?").split() if word.isdigit())
        helps = model.count("+") + self.engine.shown.example
        return reply(reasoning="Add them.", answer=str(a + b if a < self.skill + 6 * helps else -1))

    def load_lm(self, name, preset=None, adapter=None, **_):
        self.loads.append(adapter)
        if not adapter:
            return self.lm.copy()
        content = (adapter / "adapter_model.safetensors").read_bytes()
        model = f"{self.lm.model}+{hashlib.sha256(content).hexdigest()[:8]}"
        self.engine.adapters[model] = adapter
        return self.lm.copy(model=model)

    @property
    def asked(self):
        return self.engine.calls


RUN_CELL = """
import os, sys, time
from pathlib import Path
from btlib.support.files import whole_folder, write_json
from btlib.runs.run import make_spec, settings
if STRATEGY == os.environ.get("FAIL", "none"):
    raise ValueError("no luck with this one")
(Path(RUNS) / f"{STRATEGY or 'vanilla'}.pid").write_text(str(os.getpid()))
time.sleep(float(os.environ.get("SLEEP", 0)))
spec = make_spec(TASK, MODEL, STRATEGY, SEED, PRESET)
run = {"spec": spec.to_dict(), "score": 10.0 * len(STRATEGY), "status": "ok", "steps": [], "evaluation": None}
with whole_folder(spec.folder(RUNS)) as work:
    write_json(work / "run.json", run | {"settings": settings(spec)})
print(sys.executable)
"""


def run_notebook(path: Path) -> Path:
    """Write a notebook that takes the grid's parameters and leaves a run without any LM."""
    parameters = 'TASK, MODEL, STRATEGY = "iris", "pocket", ""\nSEED, PRESET, RUNS = 0, "smoke", "runs"'
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["lesson"]}),
        nbformat.v4.new_code_cell(RUN_CELL),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path
