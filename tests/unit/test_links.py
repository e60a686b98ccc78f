"""Links in the README, the pages, the cards and the notebooks' prose: every file is there, and so is every anchor."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

from btlib.support.paths import data_dir, notebooks_dir

ROOT = notebooks_dir().parent
PAGES = [ROOT / "README.md", *sorted((notebooks_dir() / "pages").glob("*.md")), *sorted(data_dir().rglob("README.md"))]
NOTEBOOKS = sorted(notebooks_dir().glob("[0-9]*.ipynb"))
TERMS = """program module signature demonstration trace metric teacher student candidate prompt-optimization
    weight-optimization strategy state prompt-adapter lora-adapter rank seed split vanilla convention gold hop bm25"""


@cache
def prose(path: Path) -> str:
    """Return a page's Markdown, or that of a notebook's Markdown cells, without code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text = re.sub(r"^( *)(```|~~~).*?^\1\2", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", text)


@cache
def anchors(path: Path) -> set[str]:
    """Return what a link into a page may name: its headings, as GitHub and as JupyterLab call them, and its ids."""
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else prose(path)
    headings = [re.sub(r"[*`]|\[|\]\(.*?\)", "", line) for line in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)]
    github = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return github | {heading.replace(" ", "-") for heading in headings} | set(re.findall(r'<a id="([^"]+)"', text))


def broken(path: Path) -> list[str]:
    """List the relative links of a page that lead nowhere."""
    found = re.findall(r'\]\(<?([^)\s>]+)|(?:href|src)="([^"]+)"', prose(path))
    lost = []
    for link in filter(None, (part for pair in found for part in pair)):
        if re.match(r"[a-z]+:", link):  # https:, mailto:, attachment:, data:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        known = target.suffix in (".md", ".ipynb") and target.is_file()
        if not target.exists() or (anchor and known and anchor not in anchors(target)):
            lost.append(link)
    return lost


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_link_leads_somewhere(path):
    assert not broken(path)


def test_a_link_to_nowhere_is_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text('# A title: Π→Θ\n<a id="word"></a>\n')
    page.write_text(
        "[1](other.md) [2](other.md#a-title-πθ) [3](other.md#word) [4](https://x.org/y) `[5](gone.md)`\n"
        "```\n[6](gone.md)\n```\n[7](gone.md) [8](other.md#gone) [9](#gone) ![10](gone.png)\n"
    )
    assert broken(page) == ["gone.md", "other.md#gone", "#gone", "gone.png"]


@pytest.mark.parametrize("term", TERMS.split())
def test_the_glossary_has_the_term_and_the_notebook_that_teaches_it(term):
    text = (notebooks_dir() / "pages" / "glossary.md").read_text(encoding="utf-8")
    entry = text.partition(f'<a id="{term}"></a>\n')[2].partition("<a id=")[0]
    assert re.search(r"\]\(\.\./0[1-6]_\w+\.ipynb\)", entry)


def test_every_page_can_be_reached_from_the_readme():
    linked = set(re.findall(r"\]\(notebooks/pages/([\w-]+\.md)", prose(ROOT / "README.md")))
    assert linked == {path.name for path in (notebooks_dir() / "pages").glob("*.md")}
