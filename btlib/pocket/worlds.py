"""Small made-up worlds: people, works, towns and firms, each with a short abstract, and two-hop questions on them.

The same generator makes the passages of hotpotqa-mini (held-out names, one world of a few thousand abstracts) and the
two-hop documents of pre-training (all other names, a fresh world of a dozen abstracts each).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from btlib.pocket import words as w

# kind of work -> (how its page says who made it, how a question names that person)
WORKS = {
    "film": (("is a {year} film directed by {p}.", "is a film of {year}, directed by {p}."), "director"),
    "novel": (
        ("is a {year} novel written by {p}.", "is a novel by the author {p}, written by {p} in {year}."),
        "author",
    ),
    "song": (("is a song recorded by {p} in {year}.", "is a {year} song recorded by {p}."), "singer"),
    "bridge": (("is a bridge designed by {p} in {year}.", "is a bridge of {year}, designed by {p}."), "designer"),
    "company": (("is a company founded by {p} in {year}.", "is a firm that was founded by {p} in {year}."), "founder"),
}
MADE = {"film": "directed", "novel": "written", "song": "recorded", "bridge": "designed", "company": "founded"}


@dataclass(frozen=True)
class Fact:
    """One sentence that a page states: who or what it is about, the relation, the value."""

    subject: str
    relation: str
    value: str
    sentence: str


@dataclass(frozen=True)
class Question:
    """A two-hop question: the entity that it names, the bridge in between, the answer and the facts that prove it."""

    question: str
    answer: str
    entity: str
    bridge: str
    facts: tuple[Fact, Fact]
    keywords: str

    @property
    def gold_titles(self) -> tuple[str, str]:
        return self.entity, self.bridge


@dataclass
class World:
    """Pages by title, and the facts on them."""

    pages: dict[str, str] = field(default_factory=dict)
    facts: dict[tuple[str, str], Fact] = field(default_factory=dict)
    people: list[str] = field(default_factory=list)
    works: dict[str, str] = field(default_factory=dict)
    towns: list[str] = field(default_factory=list)

    def passage(self, title: str) -> str:
        return f"{title} | {self.pages[title]}"

    def state(self, subject: str, relation: str, value: str, sentence: str) -> None:
        self.facts[subject, relation] = Fact(subject, relation, value, sentence)


def _pool(rng: random.Random, names: tuple[str, ...], size: int | None) -> tuple[str, ...]:
    return tuple(rng.sample(names, size)) if size else names


def make_world(rng: random.Random, people: int, works: int, towns: int, held: bool, pool: int | None = None) -> World:
    """Make a world of the given size; a small `pool` of name words makes names overlap, so that passages distract."""
    world = World()
    given, surnames = _pool(rng, w.GIVEN, pool), _pool(rng, w.SURNAMES, pool)
    adjectives, nouns = _pool(rng, w.ADJECTIVES, pool), _pool(rng, w.NOUNS, pool)
    used: set[str] = set()

    def fresh(
        first: tuple[str, ...], second: tuple[str, ...], full: tuple[tuple[str, ...], ...], joint: str = " "
    ) -> str:
        for tries in range(2000):
            a, b = (rng.choice(first), rng.choice(second)) if tries < 40 else (rng.choice(full[0]), rng.choice(full[1]))
            name = f"{a}{joint}{b}"
            if a != b and w.held_out(a, b) is held and name not in used:
                used.add(name)
                return name
        raise ValueError("too few names for a world of this size")

    for _ in range(towns):
        town, region = fresh(w.STEMS, w.SUFFIXES, (w.STEMS, w.SUFFIXES)), rng.choice(w.STEMS) + "shire"
        product, river = rng.choice(w.PRODUCTS), rng.choice(w.STEMS)
        kind = rng.choice(("town", "city", "village"))
        world.towns.append(town)
        world.pages[town] = rng.choice(
            (
                f"{town} is a {kind} in {region} on the {river} river, known for its {product}.",
                f"{town} is a {kind} on the {river} river in {region}. It is known for its {product}.",
            )
        )
        world.state(town, "region", region, f"{town} is in {region}.")
        world.state(town, "river", river, f"{town} is on the {river} river.")
        world.state(town, "product", product, f"{town} is known for its {product}.")
    for _ in range(people):
        person, town, job = fresh(given, surnames, (w.GIVEN, w.SURNAMES)), rng.choice(world.towns), rng.choice(w.JOBS)
        year, college = rng.randint(1900, 1989), rng.choice(w.STEMS) + " " + rng.choice(("College", "School"))
        article = "an" if job[0] in "aeiou" else "a"
        world.people.append(person)
        world.pages[person] = rng.choice(
            (
                f"{person} is {article} {job} born in {town} in {year}, who studied at {college}.",
                f"{person}, born in {year} in {town}, is {article} {job}. {person} studied at {college}.",
            )
        )
        world.state(person, "birthplace", town, f"{person} was born in {town}.")
        world.state(person, "year", str(year), f"{person} was born in {year}.")
        world.state(person, "job", job, f"{person} is {article} {job}.")
        world.state(person, "college", college, f"{person} studied at {college}.")
    for _ in range(works):
        kind = rng.choice(tuple(WORKS))
        if kind == "company":
            title = fresh(surnames, w.COMPANY_WORDS, (w.SURNAMES, w.COMPANY_WORDS))
        elif rng.random() < 0.5:
            title = fresh(adjectives, nouns, (w.ADJECTIVES, w.NOUNS))
        else:
            title = fresh(nouns, nouns, (w.NOUNS, w.NOUNS), " and ")
        person, year = rng.choice(world.people), rng.randint(1920, 2019)
        world.works[title] = kind
        world.pages[title] = f"{title} " + rng.choice(WORKS[kind][0]).format(year=year, p=person)
        world.state(title, "maker", person, f"{title} was {MADE[kind]} by {person}.")
    return world


PERSON_ASKS = {
    "birthplace": (
        (
            "Where was the {r} of {e} born?",
            "In which town was the {r} of {e} born?",
            "What is the birthplace of the {r} of {e}?",
        ),
        "birthplace",
    ),
    "year": (("When was the {r} of {e} born?", "In what year was the {r} of {e} born?"), "year of birth"),
    "job": (("What is the profession of the {r} of {e}?", "What is the job of the {r} of {e}?"), "profession"),
    "college": (("Where did the {r} of {e} study?", "At which place did the {r} of {e} study?"), "studied"),
}
TOWN_ASKS = {
    "region": (("In which region was {e} born?", "In what region is the birthplace of {e}?"), "region"),
    "river": (
        ("Which river runs through the town where {e} was born?", "On which river is the birthplace of {e}?"),
        "river town",
    ),
    "product": (
        ("What is the birthplace of {e} known for?", "What is the town where {e} was born known for?"),
        "known for",
    ),
}


def ask(rng: random.Random, world: World) -> Question:
    """Draw a two-hop question: work -> maker -> attribute, or person -> birthplace -> attribute."""
    if rng.random() < 0.7:
        entity = rng.choice(sorted(world.works))
        role, first = WORKS[world.works[entity]][1], world.facts[entity, "maker"]
        relation = rng.choice(("birthplace", "birthplace", "year", "job", "college"))
        texts, key = PERSON_ASKS[relation]
        keywords = f"{role} {key}"
    else:
        entity = rng.choice(world.people)
        role, first = "", world.facts[entity, "birthplace"]
        relation = rng.choice(tuple(TOWN_ASKS))
        texts, key = TOWN_ASKS[relation]
        keywords = f"birthplace {key}"
    second = world.facts[first.value, relation]
    text = rng.choice(texts).format(r=role, e=entity)
    return Question(text, second.value, entity, first.value, (first, second), keywords)
