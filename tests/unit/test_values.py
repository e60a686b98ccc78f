"""Values of any type come back from files as what they were: demonstrations, predictions, traces, training rows."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import NamedTuple
from uuid import UUID

import dspy
import pydantic
import pytest

from btlib.errors import BtlibError
from btlib.lm import ForgivingChatAdapter
from btlib.steps.bootstrap import Call, Trace, TraceSet
from btlib.steps.evaluation import Evaluation, prediction_rows
from btlib.steps.state import State, read_prompts, save_state
from btlib.support.files import read_jsonl, write_lines
from btlib.support.values import from_json, to_json, types_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Card(pydantic.BaseModel):
    name: str
    due: date
    level: Level = Level.LOW
    weight: float = 0.0


class DearCard(Card):
    price: Decimal


@dataclasses.dataclass
class Point:
    x: int
    y: tuple[int, ...]


class Pair(NamedTuple):
    left: int
    right: Point


HISTORY = dspy.History(messages=[{"question": "What is 1 + 1?", "answer": 2, "on": date(2024, 1, 2)}])

# type of the field, a value of it
TYPED = [
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (date, date(2024, 2, 29)),
    (datetime, datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=timezone.utc)),  # noqa: UP017
    (time, time(23, 59)),
    (timedelta, timedelta(days=-1, microseconds=5)),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (bytes, b"123"),
    (bytes, b"\xff\x00"),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"b", "a"})),
    (tuple[int, str], (1, "a")),
    (Card, Card(name="n", due=date(2024, 1, 2), level=Level.HIGH)),
    (list[Card] | None, [Card(name="n", due=date(2024, 1, 2))]),
    (dict[str, set[date]], {"a": {date(2024, 1, 2)}}),
    (float, math.inf),
]
STORED = [
    *TYPED,
    (Card, DearCard(name="n", due=date(2024, 1, 2), price=Decimal("9.90"))),
    (Point, Point(1, (2, 3))),
    (Pair, Pair(1, Point(2, ()))),
    (dspy.History, HISTORY),
    (dict[int, str], {1: "a", 2: "b"}),
    (dict[str, str], {"$date": "no date"}),
    (str, ["a passage", "of a field that says str"]),
    (str, "half a character: \ud800"),
    (int, None),
]


def program_of(kind: object) -> dspy.Module:
    signature = dspy.Signature({"given": (kind, dspy.InputField()), "answer": (kind, dspy.OutputField())}, "Solve it.")
    return dspy.Predict(signature)


def same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


@pytest.mark.parametrize(("kind", "value"), STORED, ids=[f"{type(v).__name__}-{i}" for i, (_, v) in enumerate(STORED)])
def test_every_file_of_a_run_gives_typed_values_back(kind, value, tmp_path):
    program = program_of(kind)
    demo = dspy.Example(given=value, answer=value, augmented=True)
    program.demos = [demo, {"given": value, "answer": value}]
    save_state(tmp_path, State(program, SimpleNamespace()))
    again = program_of(kind)
    read_prompts(tmp_path / "program.json", again)
    assert again.demos == [demo, dspy.Example(given=value, answer=value)]
    assert all(same(found.answer, value) and same(found.given, value) for found in again.demos)

    call = Call("self", {"given": value}, {"answer": value})
    traces = TraceSet((Trace("1", (call,), {"answer": value}, True),))
    traces.to_jsonl(tmp_path / "traces.jsonl")
    found = TraceSet.from_jsonl(tmp_path / "traces.jsonl", again)
    assert found == traces and same(found.traces[0].calls[0].outputs["answer"], value)

    example = dspy.Example(id="1", given=value, answer="42").with_inputs("given")
    judged = Evaluation(0.0, (dspy.Prediction(answer=value),), 1, 1, 1, 0, 0, 0, 0.0)
    write_lines(tmp_path / "predictions.jsonl", prediction_rows([example], judged, lambda example, pred, trace: True))
    (row,) = read_jsonl(tmp_path / "predictions.jsonl", {"id": str})
    row = from_json(row, types_of(program))
    assert same(row["inputs"]["given"], value) and same(row["outputs"]["answer"], value)


@pytest.mark.parametrize(("kind", "value"), TYPED, ids=[f"{type(v).__name__}-{i}" for i, (_, v) in enumerate(TYPED)])
def test_a_training_row_and_a_demonstration_say_what_is_read_again(kind, value):
    adapter, signature = ForgivingChatAdapter(), program_of(kind).signature
    row = adapter.format_finetune_data(signature, [], {"given": value}, {"answer": value})["messages"][-1]
    demo = adapter.format_demos(signature, [dspy.Example(given=value, answer=value)])[-1]
    for message in (row, demo):
        assert same(adapter.parse(signature, message["content"])["answer"], value)
    assert adapter.failed_parses == 0


def test_nan_comes_back_and_a_file_of_it_is_json(tmp_path):
    rows = [{"a": math.nan, "card": Card(name="n", due=date(2024, 1, 2), weight=math.nan)}]
    write_lines(tmp_path / "rows.jsonl", rows)
    text = (tmp_path / "rows.jsonl").read_text()
    (row,) = [from_json(json.loads(line, parse_constant=pytest.fail), [Card]) for line in text.splitlines()]
    assert math.isnan(row["a"]) and math.isnan(row["card"].weight) and type(row["card"]) is Card


def test_plain_values_are_written_as_they_always_were():
    plain = {"text": "é", "n": 1, "x": 0.5, "yes": True, "none": None, "list": ["a", {"b": []}]}
    assert to_json(plain) == plain == from_json(plain) and from_json({}) == {}


def test_without_its_type_an_object_stays_a_dict_of_its_fields():
    stored = to_json([Card(name="n", due=date(2024, 1, 2)), Colour.RED, object])
    assert from_json(stored)[:2] == [{"name": "n", "due": date(2024, 1, 2), "level": 1, "weight": 0.0}, "red"]
    assert isinstance(stored[2], str)


def test_a_damaged_value_is_one_line_that_names_the_file(tmp_path):
    program = program_of(Card)
    program.demos = [dspy.Example(given=Card(name="n", due=date(2024, 1, 2)))]
    save_state(tmp_path, State(program, SimpleNamespace()))
    path = tmp_path / "program.json"
    for old, new in (("2024-01-02", "soon"), ('"name": "n",', "")):
        damaged = tmp_path / "damaged.json"
        damaged.write_text(path.read_text().replace(old, new))
        with pytest.raises(BtlibError, match="damaged.json does not fit the program"):
            read_prompts(damaged, program_of(Card))
