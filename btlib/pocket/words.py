"""The closed lists of words that documents and mini tasks are made of, and the rule that holds names out.

Every name has two words, each from a closed list, so each word is a token that pre-training sees often, while one
*pair* in eight is held out: no pre-training document draws it, and the mini tasks draw nothing else.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable


def _coin(heads: str, tails: str, count: int, taken: Iterable[str] = ()) -> tuple[str, ...]:
    """Make `count` pseudo-words from two lists of syllables, always the same ones; words already taken are left out."""
    taken = set(taken)
    words = [h + t for h in heads.split() for t in tails.split() if h + t not in taken]
    random.Random(f"{heads}|{tails}").shuffle(words)
    return tuple(sorted(words[:count]))


GIVEN = _coin("Ma Lo Ti An Be Ka Ro Su Ve Jo El Ni Pa Da Cor", "ra na lin do mi ne ris lo va to", 120)
SURNAMES = _coin(
    "Tos Bren Hal Kor Mul Fen Gar Vos Rud Sel Dor Wen", "ker by lund man ford ley tin sen wick den", 120, GIVEN
)
STEMS = _coin("Vel Tar Or Quel Bas Mir Lun Hes Cal Nor", "in sa mouth ton vik ery al ow ast und", 100, GIVEN + SURNAMES)
SUFFIXES = ("Bay", "Falls", "Ridge", "Hill", "Cross", "Port", "Vale", "Green", "Point", "Heath", "Moor", "Gate")
ADJECTIVES = tuple(
    "Silent Golden Broken Hidden Distant Frozen Gentle Hollow Iron Last Lonely Midnight Northern Paper Quiet Red "
    "Secret Seven Silver Small Southern Stone Summer Velvet White Wild Winter Wooden Crimson Early Empty Final Glass "
    "Green Late Little Lost Old Open Second Shallow Sleeping Tall Western".split()
)
NOUNS = tuple(
    "Harbor River Garden Road Lantern Mountain Window Letter Orchard Kingdom Mirror Island Bridge Forest Station Tower "
    "Shadow Journey Morning Evening Promise Valley Ocean Market House Song Stranger Dream Feather Clock Crown Desert "
    "Door Field Flame Ladder Meadow Painter Sailor School Storm Train Voyage Wheel".split()
)
COMPANY_WORDS = ("Works", "Mills", "Labs", "Motors", "Press", "Foods", "Tools", "Lines", "Glass", "Steel")
JOBS = (
    "architect",
    "painter",
    "writer",
    "singer",
    "engineer",
    "chemist",
    "lawyer",
    "teacher",
    "dancer",
    "farmer",
    "doctor",
    "pilot",
)
PRODUCTS = (
    "cheese",
    "wool",
    "glass",
    "salt",
    "honey",
    "lace",
    "paper",
    "silk",
    "copper",
    "boats",
    "clocks",
    "apples",
    "tea",
    "bricks",
)
THINGS = (
    "apples pears marbles stickers books pencils coins shells cards stamps cookies balloons tickets flowers eggs "
    "beads bottles candles oranges lemons buttons photos keys cups plates stones toys ribbons seeds muffins"
).split()
CONTAINERS = "boxes bags baskets jars trays crates packets shelves rows tins".split()
UNITS = ("cm", "mm", "kg", "g", "m", "seconds", "litres", "degrees", "points", "volts")
PARTS = (
    "leaf stem root shell wing tail body neck claw fin cap gill ear nose beak petal sepal seed crown core rim base "
    "handle blade wheel arm lens cable panel tooth"
).split()
MEASURES = "length width height depth weight size age angle area mass speed".split()
KINDS = "species type class kind group family grade variety breed category".split()
BEINGS = (
    "flower beetle bird fish mushroom shell moth fruit mineral tool lamp coin lizard leaf crab iris stone star".split()
)


def held_out(first: str, second: str) -> bool:
    """Say whether the two-word name is one of the one in eight that only the mini tasks may use."""
    return zlib.crc32(f"{first} {second}".encode()) % 8 == 0


PROBLEM_GIVEN_HELD_OUT = frozenset(g for g in GIVEN if zlib.crc32(f"problem {g}".encode()) % 6 == 0)


def label_words(rng: random.Random, count: int) -> list[str]:
    """Draw distinct class labels: coined words in lower case, letters, or ordinary words."""
    pool = rng.choice(
        (STEMS, GIVEN, SURNAMES, tuple(n for n in NOUNS), ADJECTIVES, tuple("ABCDEFGH"), JOBS, PRODUCTS, IRIS_WORDS)
    )
    return [w if len(w) == 1 else w.lower() for w in rng.sample(pool, count)]


# The words of the Iris signature may occur, as labels of classes whose shape is drawn at random each time.
IRIS_WORDS = ("setosa", "versicolour", "virginica", "alba", "rosea", "montana", "palustris", "minor")
