"""Scripted stand-ins: an in-process engine, a provider that "trains" by name, and small data files."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import Counter
from types import SimpleNamespace

import dspy
from dspy.clients.provider import Provider
from dspy.lm15 import Message, Response, TextPart, Usage

from btlib.lm.local import LocalLM


def reply(**fields: str) -> str:
    """Write fields as DSPy's ChatAdapter expects them from an LM."""
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()) + "\n\n[[ ## completed ## ]]"


def field(request_text: str, name: str) -> str:
    """Return the last value of an input field in a prompt."""
    return re.findall(rf"\[\[ ## {name} ## \]\]\n(.*?)(?=\n\n|\Z)", request_text, flags=re.S)[-1].strip()


class Prompt(str):
    """The last turn of a request; `shown` has the answers of the demonstrations before it."""

    shown: str = ""


class FakeEngine:
    """Answer with `script(model, prompt) -> str`; count calls by model id, and keep each (model, turns)."""

    def __init__(self, script):
        self.script = script
        self.calls: Counter[str] = Counter()
        self.prompts: list[tuple[str, list[str]]] = []
        self.lock = threading.Lock()  # makes a naive deep copy fail, as a real engine would

    def complete(self, request):
        turns = [message.text or "" for message in request.messages]
        with self.lock:
            self.calls[request.model] += 1
            self.prompts.append((request.model, turns))
        prompt = Prompt(turns[-1])
        prompt.shown = "\n".join(turns[1:-1:2])
        text = self.script(request.model, prompt)
        usage = Usage(input_tokens=10, output_tokens=5, total_tokens=15)
        message = Message.assistant([TextPart(text)])
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    def close(self):
        pass

    def __deepcopy__(self, memo):
        return self


class CountingEngine(FakeEngine):
    """The same with the counters of the in-process engine."""

    def counters(self):
        calls = sum(self.calls.values())
        return {"requests": calls, "tokens_in": 7 * calls, "tokens_out": 3 * calls, "tokens_reused": 2 * calls}


class FakeProvider(Provider):
    """Name the tuned weights after the old ones; keep what it was given."""

    def __init__(self, error: Exception | None = None):
        super().__init__()
        self.finetunable = True
        self.error = error
        self.jobs: list[SimpleNamespace] = []
        self.reports: dict[str, SimpleNamespace] = {}

    def finetune(self, job, model, train_data, train_data_format, train_kwargs):
        if self.error:
            raise self.error
        self.jobs.append(SimpleNamespace(model=model, rows=train_data, kwargs=train_kwargs))
        tuned = f"{model}+tuned{len(self.jobs)}"
        self.reports[tuned] = SimpleNamespace(rows=len(train_data), tokens=100 * len(train_data))
        return tuned


# Answers of one test run must not come back in the next one.
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
_names = itertools.count()


def fake_lm(script, engine=FakeEngine, provider=None, model=None) -> dspy.LM:
    """A DSPy LM over a scripted engine. Each has a name of its own: DSPy's cache does not tell engines apart."""
    return LocalLM(
        model or f"fake-{next(_names)}", engine=engine(script), provider=provider or FakeProvider(), temperature=0.1
    )


def write_jsonl(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_gsm8k(folder, train=12, dev=4, test=6) -> None:
    """Sums of two numbers."""
    for part, count in (("train", train), ("dev", dev), ("test", test)):
        rows = [
            {
                "id": f"{part}-{i}",
                "question": f"What is {i} plus {len(part)}?",
                "answer": str(i + len(part)),
                "steps": [],
            }
            for i in range(count)
        ]
        write_jsonl(folder / f"{part}.jsonl", rows)


def write_hotpotqa(folder, train=8, dev=2, test=4) -> None:
    """Who mentored the director of a film: two hops over passages about films and people."""
    passages, number = [], 0
    for part, count in (("train", train), ("dev", dev), ("test", test)):
        rows = []
        for _ in range(count):
            film, director, mentor = f"Film{number}", f"Director{number}", f"Mentor{number}"
            passages.append({"title": film, "text": f"{film} was directed by {director}."})
            passages.append({"title": director, "text": f"{director} learned from {mentor}."})
            question = f"Who mentored the director of {film}?"
            rows.append({"id": f"q{number}", "question": question, "answer": mentor, "gold_titles": [film, director]})
            number += 1
        write_jsonl(folder / f"{part}.jsonl", rows)
    write_jsonl(folder / "passages.jsonl", passages)


def write_iris(folder, count=150) -> None:
    """Flowers with made-up lengths; each third of the file is one species."""
    lines = ["petal_length,petal_width,sepal_length,sepal_width,species"]
    for i in range(count):
        label = ("setosa", "versicolour", "virginica")[3 * i // count]
        lines.append(f"{1 + i / 100:.2f},0.2,{4 + i / 100:.2f},3.1,{label}")
    (folder / "iris.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
