"""What runs and grids need of the world: a data folder, a scripted LM with adapters, a notebook that writes runs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from pathlib import Path

import nbformat
from fakes import FakeEngine, FakeProvider, fake_lm, field, reply, write_gsm8k, write_hotpotqa, write_iris

from btlib.runs import RunSpec, make_spec
from btlib.runs.provenance import settings
from btlib.support.files import write_json


def data_folder(path: Path) -> Path:
    """Write all three tasks with the sizes of preset smoke, and no embedded LM."""
    path.mkdir(exist_ok=True)
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
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_text(repr(train_data))
        self.engine_of().adapters[tuned] = folder
        return tuned


class World:
    """One scripted LM: `load_lm` replaces the real one, `loads` keeps what was loaded, `asked` counts calls by model.

    The LM is right when the first number is below `skill`, which every training raises by 6, and so do demonstrations;
    other answers are wrong. `answer(number, right)` turns a prompt's number into the answer's fields.
    """

    def __init__(self, skill: int = 6):
        self.skill = skill
        self.loads: list[tuple[str, Path | None]] = []
        self.provider = AdapterProvider(lambda: self.engine)
        self.lm = fake_lm(self.script, AdapterEngine, self.provider)
        self.engine = self.lm.engine

    def answer(self, prompt: str) -> tuple[int, str, dict[str, str]]:
        """Return the number that decides, the right answer, and the other fields."""
        a, b = (int(word) for word in field(prompt, "question").rstrip("?").split() if word.isdigit())
        return a, "answer", {"reasoning": "Add them.", "answer": str(a + b)}

    def script(self, model: str, prompt: str) -> str:
        number, gold, fields = self.answer(prompt)
        helps = model.count("+") + self.engine.shown.example
        return reply(**fields if number < self.skill + 6 * helps else fields | {gold: "-1"})

    def load_lm(self, name, preset=None, adapter=None, **_):
        self.loads.append((name, adapter))
        tuned = [path for path in (Path(name) / "model.safetensors",) if path.exists()]
        tuned += [adapter / "adapter_model.safetensors"] if adapter else []
        marks = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in tuned]
        model = "+".join([self.lm.model, *marks])
        if adapter:
            self.engine.adapters[model] = adapter
        return self.lm.copy(model=model)

    @property
    def asked(self):
        return self.engine.calls


RUN_CELL = """
import json, os, sys, tempfile, time
from pathlib import Path
if STRATEGY == os.environ.get("FAIL", "none"):
    raise ValueError("no luck with this one")
(Path(RUNS) / f"{STRATEGY or 'vanilla'}.pid").write_text(str(os.getpid()))
time.sleep(float(os.environ.get("SLEEP", 0)))
spec = {"task": TASK, "model": MODEL, "strategy": STRATEGY, "seed": SEED, "preset": PRESET}
run = {"spec": spec, "score": 10.0 * len(STRATEGY), "status": "ok", "steps": [], "evaluation": None}
folder = Path(RUNS, PRESET, MODEL, TASK, f"seed-{SEED}", STRATEGY.replace(" -> ", "-") or "vanilla")
folder.mkdir(parents=True, exist_ok=True)
settings = json.loads(Path("settings.json").read_text())[STRATEGY]
(folder / "run.json").write_text(json.dumps(run | {"settings": settings}))
print(json.dumps([sys.executable, tempfile.mkdtemp(), os.environ["OMP_NUM_THREADS"]]))
"""


def run_notebook(path: Path, specs: Iterable[RunSpec] = (), cell: str = RUN_CELL) -> Path:
    """Write a notebook that takes the grid's parameters and leaves one of these runs, without any LM and without
    importing btlib: a kernel's start is long enough.
    """
    parameters = 'TASK, MODEL, STRATEGY = "iris", "pocket", ""\nSEED, PRESET, RUNS = 0, "smoke", "runs"\n'
    parameters += 'CHANGES, DATA, RETRIEVER, API_BASE = {}, "", "", ""'
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["lesson"]}),
        nbformat.v4.new_code_cell(cell),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    path.with_name("settings.json").write_text(json.dumps({spec.name: settings(spec) for spec in specs}))
    return path


def store(spec: RunSpec, runs: Path, score: float | None = 50.0, **more: object) -> Path:
    """Write the run.json of a run that was not computed, and return its folder; `more` goes into its settings."""
    folder = spec.folder(runs)
    folder.mkdir(parents=True, exist_ok=True)
    head = {"spec": spec.to_dict(), "score": score, "status": "ok", "steps": [], "evaluation": None}
    write_json(folder / "run.json", head | {"settings": settings(spec) | more})
    return folder


class Ended:
    """A process that is over."""

    def __init__(self, returncode: int):
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode


class Notebooks:
    """In the place of `start_notebook`: writes the run that the parameters name, or fails, without any process."""

    def __init__(self, fail: Iterable[str] = ()):
        self.fail = set(fail)
        self.given: list[dict] = []
        self.specs: list[RunSpec] = []
        self.threads: list[int] = []

    def __call__(self, source, target, parameters, folder, scratch, threads=1) -> Ended:
        given = json.loads(json.dumps(parameters))  # as papermill writes them
        places = {"source": given["DATA"], "retriever": given["RETRIEVER"], "api_base": given["API_BASE"]}
        names = [given[name] for name in ("TASK", "MODEL", "STRATEGY", "SEED", "PRESET", "CHANGES")]
        spec = make_spec(*names, **places)
        self.given.append(given)
        self.specs.append(spec)
        self.threads.append(threads)
        target.write_text("a notebook")
        if spec.name in self.fail:
            (scratch / "log").write_text('{"error": "ValueError: no luck with this one", "cell": 3}\n')
            return Ended(1)
        store(spec, Path(given["RUNS"]), 10.0 * len(spec.name))
        return Ended(0)
