"""Reading an answer: what DSPy reads is read alike, no value is made up, and every unreadable answer has a reason."""

from __future__ import annotations

import asyncio
import math
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Literal

import dspy
import pydantic
import pytest
from fakes import FakeEngine, fake_lm, field, reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btlib.errors import BtlibError
from btlib.lm import ForgivingChatAdapter
from btlib.lm.reading import REASONS, Cut, read, told
from btlib.presets import load_preset


class Card(pydantic.BaseModel):
    name: str
    due: date


def signature_of(**fields) -> type[dspy.Signature]:
    found = {"question": (str, dspy.InputField())} | {n: (kind, dspy.OutputField()) for n, kind in fields.items()}
    return dspy.Signature(found, "Solve it.")


SOLVE = signature_of(reasoning=str, answer=str)
COUNT = signature_of(reasoning=str, answer=int)
LIST = signature_of(answer=list[int])
THINK = "[[ ## reasoning ## ]]\nSix times seven.\n\n"
SIX, ECHO = "Six times seven.", "Respond with the corresponding output fields, starting with the field "
COPY = "[[ ## reasoning ## ]]\n{reasoning}"
CODE, WIKI = "```py\n42\n```", "[[Paris]], C#"
GOOD = THINK + "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"

# name, signature, text, values read strictly, reason, what the lenient reading makes of the answer
ROWS = [
    ("plain", SOLVE, GOOD, (SIX, "42"), "", "42"),
    ("indented", SOLVE, THINK + "  [[ ## answer ## ]] 42", (SIX, "42"), "", "42"),
    ("indented by a tab, a number", COUNT, THINK + "\t[[ ## answer ## ]] 42", (SIX, 42), "", 42),
    ("marker in a value", SOLVE, THINK + "[[ ## answer ## ]] 42[[ ## completed ## ]]", (SIX, "42"), "", "42"),
    ("bold marker in a value", SOLVE, THINK + "[[ ## answer ## ]]\n42 **[[##completed##]]**", (SIX, "42"), "", "42"),
    ("half a marker", SOLVE, THINK + "[[ ## answer ## ]]\n42\n\n[[ ## comple", (SIX, "42"), "", "42"),
    ("a numbered value", SOLVE, THINK + "[[ ## answer ## ]]\n3. [[ ## completed ## ]]", (SIX, "3."), "", "3."),
    ("fenced", SOLVE, f"```\n{THINK}[[ ## answer ## ]]\n42\n```", (SIX, "42"), "", "42"),
    ("fenced, then chatter", SOLVE, f"Sure:\n```text\n{THINK}[[ ## answer ## ]]\n42\n```\nBye!", (SIX, "42"), "", "42"),
    ("code in a value", SOLVE, THINK + "[[ ## answer ## ]]\n" + CODE, (SIX, CODE), "", CODE),
    (
        "code in a fenced answer",
        SOLVE,
        f"```\n{THINK}[[ ## answer ## ]]\n{CODE}\n```",
        (SIX, CODE),
        "",
        CODE,
    ),
    ("repeated: the first counts", SOLVE, GOOD + "\n\n" + GOOD.replace("42", "7"), (SIX, "42"), "", "42"),
    ("another order", SOLVE, "[[ ## answer ## ]]\n42\n\n" + THINK, (SIX, "42"), "", "42"),
    ("CRLF", SOLVE, GOOD.replace("\n", "\r\n"), (SIX, "42"), "", "42"),
    ("a value that is empty", SOLVE, THINK + "[[ ## answer ## ]]", (SIX, ""), "", ""),
    ("wiki links are text", SOLVE, THINK + "[[ ## answer ## ]]\n" + WIKI, (SIX, WIKI), "", WIKI),
    ("bold", SOLVE, THINK + "**[[ ## answer ## ]]** 42", (SIX, ""), "near miss", "42"),
    ("in a list", SOLVE, THINK + "- [[ ## answer ## ]]\n42", (SIX, ""), "near miss", "42"),
    ("numbered", SOLVE, THINK + "2. **[[ ## answer ## ]]**\n42", (SIX + "\n\n2.", ""), "near miss", "42"),
    ("a heading", SOLVE, THINK + "### [[ ## answer ## ]]\n42\n### [[ ## completed ## ]]", (SIX, ""), "near miss", "42"),
    ("unspaced", SOLVE, THINK + "[[##answer##]]\n42", (SIX, ""), "near miss", "42"),
    ("half spaced", SOLVE, THINK + "[[## answer ## ]]: 42", (SIX, ""), "near miss", "42"),
    ("another case", COUNT, THINK + "[[ ## Answer ## ]]\n42", (SIX, None), "near miss", 42),
    ("one line", SOLVE, GOOD.replace("\n", " "), (SIX, ""), "near miss", "42"),
    ("in a sentence", SOLVE, THINK.strip() + " [[ ## answer ## ]] 42", (SIX, ""), "near miss", "42"),
    ("fence on the line", SOLVE, THINK + "```[[ ## answer ## ]] 42```", (SIX, ""), "near miss", "42"),
    ("without brackets", SOLVE, THINK + "## answer ##\n42", (SIX + "\n\n## answer ##\n42", ""), "near miss", "42"),
    ("labels", SOLVE, f"Reasoning: {SIX}\n**Answer: 42**\n\nI hope this helps.", ("", ""), "near miss", "42"),
    ("label, fenced", SOLVE, "```\nreasoning: r\nAnswer:** 42\n```", ("", ""), "near miss", "** 42"),
    ("only spoken of", SOLVE, THINK + "I fill `[[ ## answer ## ]]` now.", (SIX + "\n\nI fill", ""), "missing", ""),
    ("template", SOLVE, THINK + "[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]", (SIX, ""), "template", ""),
    ("template of all", SOLVE, COPY + "\n\n[[ ## answer ## ]]\n**{Answer}**", ("", ""), "template", ""),
    ("template, nearly", SOLVE, "[[##reasoning##]]\n{reasoning}\n[[##answer##]]\n{answer}", ("", ""), "template", ""),
    (
        "template of a number",
        COUNT,
        THINK + "[[ ## answer ## ]]\n{answer}        # note: the value you produce must be a single int value",
        (SIX, None),
        "template",
        None,
    ),
    ("template of a list", LIST, "[[ ## answer ## ]]\n{answer}", (None,), "template", None),
    ("template, then a value", SOLVE, THINK + "[[ ## answer ## ]]\n{answer}\n\n" + GOOD, (SIX, ""), "template", "42"),
    ("the request", SOLVE, ECHO + "`[[ ## reasoning ## ]]`, then `[[ ## answer ## ]]`.", ("", ""), "template", ""),
    ("prose", SOLVE, "It is 42.", ("", ""), "no marker", ""),
    ("one field lacks", SOLVE, THINK, (SIX, ""), "missing", ""),
    ("not a number", COUNT, THINK + "[[ ## answer ## ]]\nforty-two", (SIX, None), "type", None),
    ("a number, empty", COUNT, THINK + "[[ ## answer ## ]]\n\n[[ ## completed ## ]]", (SIX, None), "empty", None),
    ("nothing", SOLVE, "", ("", ""), "empty", ""),
    ("null", COUNT, None, ("", None), "empty", None),
    ("blanks", SOLVE, " \n\u2028 ", ("", ""), "empty", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("signature", "text", "values", "reason", "lenient"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_an_answer_is_read_as(signature, text, values, reason, lenient):
    found = read(signature, text)
    assert (tuple(found.values.values()), found.reason) == (values, reason)
    assert read(signature, text, "lenient").values["answer"] == lenient
    assert list(found.values) == list(signature.output_fields)


CUT = [
    ("in the reasoning", SOLVE, THINK.strip()[:-4], (SIX[:-4], ""), "cut"),
    ("in the marker", SOLVE, THINK + "[[", (SIX, ""), "cut"),
    ("in a number", COUNT, THINK + "[[ ## answer ## ]]\n-", (SIX, None), "cut"),
    ("before any text", SOLVE, "", ("", ""), "cut"),
    ("while thinking", SOLVE, "<think>\nLet me see", ("", ""), "cut"),
    ("after the answer", SOLVE, GOOD[:-8], (SIX, "42"), ""),
    ("prose without end", SOLVE, "I like flowers. " * 9, ("", ""), "no marker"),
    ("a template without end", SOLVE, "[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## ans", ("", ""), "template"),
]


@pytest.mark.parametrize(("signature", "text", "values", "reason"), [r[1:] for r in CUT], ids=[r[0] for r in CUT])
def test_an_answer_that_was_cut_is_told_apart(signature, text, values, reason):
    found = read(signature, text, cut=True)
    assert (tuple(found.values.values()), found.reason) == (values, reason)


def test_a_parser_may_raise_what_it_likes():
    class Odd(pydantic.BaseModel):
        @pydantic.model_validator(mode="before")
        @classmethod
        def refuse(cls, value):
            raise ZeroDivisionError

    found = read(signature_of(reasoning=str, answer=Odd), GOOD)
    assert (found.values, found.reason) == ({"reasoning": SIX, "answer": None}, "type")


def test_an_optional_field_may_lack():
    signature = signature_of(answer=int | None, note=str).append("more", dspy.OutputField(default=7), int)
    assert read(signature, "[[ ## note ## ]]\nx").values == {"answer": None, "note": "x", "more": 7}
    assert read(signature, "[[ ## note ## ]]\nx").reason == ""


def test_an_unknown_reading_is_one_line():
    for make in (lambda: read(SOLVE, "x", "loose"), lambda: ForgivingChatAdapter(reading="loose")):
        with pytest.raises(BtlibError, match="unknown reading 'loose'; choose from strict, lenient"):
            make()
    with pytest.raises(BtlibError, match="unknown reading"):
        load_preset("smoke", {"reading": "loose"})
    assert load_preset("smoke", {"reading": "lenient"}).name == "smoke+reading=lenient"


def test_counts_in_words():
    counts = {"near miss": 1, "no marker": 39, "template": 10, "cut": 0}
    assert told(counts) == "50: 39 without a marker, 10 copied the template, 1 near miss"
    assert told({"near miss": 2}) == "2: 2 near misses" and told({}) == told(None) == ""


def test_the_adapter_counts_by_reason_under_threads():
    adapter = ForgivingChatAdapter()
    answers = ["It is 42.", THINK, GOOD, THINK + "[[##answer##]] 42"] * 25
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda answer: adapter.parse(SOLVE, answer), answers))
    assert adapter.unreadable == {"no marker": 25, "near miss": 25, "missing": 25} and adapter.failed_parses == 75
    lenient = ForgivingChatAdapter(reading="lenient")
    assert [lenient.parse(SOLVE, answer)["answer"] for answer in answers[:4]] == ["", "", "42", "42"]
    assert lenient.reset() == 2 and lenient.unreadable == {}


class CuttingEngine(FakeEngine):
    def complete(self, request):
        response = super().complete(request)
        end = "length" if response.message.text.endswith("...") or not response.message.text else "stop"
        return type(response)(
            id=None, model=response.model, message=response.message, finish_reason=end, usage=response.usage
        )


def test_an_lm_says_which_answers_were_cut_also_from_dspys_cache():
    lm = fake_lm(lambda model, prompt: "a..." if "long" in prompt else "a", CuttingEngine)
    for _ in range(2):
        (long,), (short,) = lm("a long one"), lm("a short one")
        assert (long, short) == ("a...", "a") and isinstance(long, Cut) and not isinstance(short, Cut)
    assert lm.engine.calls.total() == 2 and len(lm.history) == 4
    assert [type(x) for x in lm("long", n=2, temperature=1.0)] == [Cut, Cut]
    with dspy.context(disable_history=True):
        assert isinstance(lm("a long one")[0], Cut) and len(lm.history) == 6
    assert lm.history[0]["outputs"] == ["a..."]


def test_answers_that_were_cut_or_empty_do_not_end_a_program():
    texts = {"cut": THINK.strip() + "...", "empty": "", "good": reply(reasoning="r", answer="42")}
    adapter, lm = ForgivingChatAdapter(), fake_lm(lambda model, prompt: texts[field(prompt, "question")], CuttingEngine)
    with dspy.context(lm=lm, adapter=adapter):
        predict = dspy.Predict(SOLVE)
        answers = [predict(question=name).answer for name in texts]
        assert answers == ["", "", "42"] and adapter.unreadable == {"cut": 2}
    plain = dspy.LM("plain", engine=FakeEngine(lambda model, prompt: ""), cache=False)
    with dspy.context(lm=plain, adapter=adapter):
        assert dspy.Predict(COUNT)(question="?").answer is None
    assert adapter.unreadable == {"cut": 2, "empty": 1}


# Anything at all

FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
NAMES = ("reasoning", "answer", "kind", "due_date", "n")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ODD = st.sampled_from(
    ["\r\n", "\x00", "\u202e", "\u2028", "\ufeff", "\x85", "é" * 3, "long " * 2000, "42", "{", "[1, 2"]
)
PLAIN = TEXT.map(lambda text: re.sub(r"[\[\]#{}`~]", "", text))
LINES = PLAIN.map(lambda text: "\n".join(text.splitlines()).strip())  # for DSPy, whatever ends a line is a newline
VALUES = {
    str: LINES,
    int: st.integers(),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    Literal["red", "dark green"]: st.sampled_from(["red", "dark green"]),
    list[int]: st.lists(st.integers(), max_size=5),
    Card: st.builds(Card, name=LINES, due=st.dates()),
}
SIGNATURES = st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=5).map(
    lambda kinds: signature_of(**dict(zip(NAMES, kinds, strict=False)))
)


@st.composite
def answers(draw) -> tuple[type[dspy.Signature], str]:
    """Pieces of answers in any order, cut anywhere."""
    signature = draw(SIGNATURES)
    name = st.sampled_from([*signature.output_fields, "completed", "question", "other"])
    marker = st.builds(
        lambda before, form, name, after: before + form.format(name) + after,
        st.sampled_from(["", "\n", "\n  ", " ", "**", "- ", "\n### ", "`", "```", "\n> "]),
        st.sampled_from(["[[ ## {} ## ]]"] * 3 + ["[[##{}##]]", "[[ ## {} ##", "[[{}]]", "## {} ##", "{}: ", "{{{}}}"]),
        name | name.map(str.upper),
        st.sampled_from(["", "\n", " ", "**", "\r\n", ":"]),
    )
    fence = st.sampled_from(["\n```\n", "```json\n", "\n~~~\n"])
    text = "".join(draw(st.lists(marker | TEXT | ODD | fence, max_size=12)))
    return signature, text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


def pieces(value: object) -> bool:
    return isinstance(value, str) and bool(re.search(r"\[\[\s{0,3}##|##\s{0,3}\]\]|\[\[\s?completed", value, re.I))


@FEW
@given(answers(), st.booleans())
def test_whatever_is_written_is_read_without_an_exception_and_no_value_holds_a_marker(case, cut):
    signature, text = case
    strict, lenient = (read(signature, text, reading, cut) for reading in ("strict", "lenient"))
    for found in (strict, lenient):
        assert list(found.values) == list(signature.output_fields) and found.reason in {"", *REASONS}
        assert not any(map(pieces, found.values.values()))
        assert not any(
            re.fullmatch(r"\{\w+\}", str(v)) and str(v)[1:-1] in signature.fields for v in found.values.values()
        )
    if not strict.reason:
        assert repr(strict) == repr(lenient)


@FEW
@given(answers())
def test_what_dspy_reads_is_read_alike_where_dspy_takes_no_marker_for_text(case):
    signature, text = case
    rest = re.sub(r"^\[\[ ## \w+ ## \]\]", "", "\n".join(text.splitlines()), flags=re.M)
    if not text.strip() or re.search(r"\[\[|\]\]|##|```|~~~|\{", rest):
        return
    found = read(signature, text)
    try:
        fields = dspy.ChatAdapter().parse(signature, text)
    except Exception:
        assert found.reason
    else:
        assert repr(found.values) == repr(fields) and not found.reason


def written(signature: type[dspy.Signature], draw) -> dict[str, object]:
    return {name: draw(VALUES[field.annotation]) for name, field in signature.output_fields.items()}


@FEW
@given(SIGNATURES, st.data())
def test_what_the_formatter_writes_is_read_again(signature, data):
    values = written(signature, data.draw)
    adapter = ForgivingChatAdapter()
    assert adapter.parse(signature, adapter.format_assistant_message_content(signature, values)) == values
    (_, answer) = adapter.format_demos(signature, [{"question": "?", **values}])
    assert adapter.parse(signature, answer["content"]) == values and not adapter.failed_parses


@FEW
@given(SIGNATURES, st.data())
def test_what_is_written_plainly_comes_back_in_any_order_and_form(signature, data):
    values = written(signature, data.draw)
    adapter = ForgivingChatAdapter()
    lines = {
        n: adapter.format_assistant_message_content(signature, values).split(f"[[ ## {n} ## ]]\n")[1] for n in values
    }
    lines = {n: re.split(r"\n\n\[\[ ## \w+ ## \]\]", text)[0] for n, text in lines.items()}
    order = data.draw(st.permutations(list(values)))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    text = f"{end}{end}".join(f"[[ ## {n} ## ]]{end}{lines[n]}" for n in order)
    wrapped = data.draw(st.sampled_from(["{}", "Well: {}", "```\n{}\n```", "  {}", "\ufeff\n{}"])).replace(
        "{}", f"\n{text}"
    )
    assert read(signature, wrapped).values == values
    marker = data.draw(st.sampled_from(["[[##{}##]]", "**[[ ## {} ## ]]**", "- [[ ## {} ## ]]", "### [[ ## {} ##]]"]))
    near = "\n\n".join(f"{marker.format(n.title())}\n{lines[n]}" for n in order)
    if all(line.strip() for line in lines.values()):  # an empty value behind a near miss is none
        assert read(signature, near, "lenient").values == values and read(signature, near).reason == "near miss"


@pytest.mark.parametrize(
    "long", ["x ", " ", "\n", "[", "[[ ## answer ## ]] ", "{answer} ", "**", "```\n", "Answer: ", "#", "[[ "]
)
def test_100_kb_are_read(long):
    for reading in ("strict", "lenient"):
        for text in (
            THINK + "[[ ## answer ## ]]\n" + long * (100_000 // len(long)),
            long * (100_000 // len(long)) + ".",
        ):
            found = read(SOLVE, text, reading, cut=True)
            assert not any(map(pieces, found.values.values()))


def test_nan_is_read():
    assert math.isnan(read(signature_of(answer=float), "[[ ## answer ## ]]\nnan").values["answer"])


def test_awaited_answers_are_told_apart_too():
    lm = fake_lm(lambda model, prompt: "a...", CuttingEngine)

    class Awaited:
        def __deepcopy__(self, memo):
            return self

        async def complete(self, request):
            return lm.engine.complete(request)

    other = type(lm)(lm.model, engine=lm.engine, async_engine=Awaited(), cache=False)
    assert [type(x) for x in asyncio.run(other.acall("long"))] == [Cut]
