"""The report as one web page: the results of an executed notebook without its code, for a colleague to open.

Cells say by their tags whether they belong on the page: `answer` comes first, then `report`, each in the notebook's
order. The page asks nothing of a network: figures lie inside, formulas are MathML, and its security policy lets no
script run and nothing be fetched, whatever a table's cells hold. Taught nowhere; notebooks/06_results.ipynb is what
`btlib report` shows.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
import mistune
import nbformat

TAGS = ("answer", "report")
STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d1f23; --soft: #5d636b; --line: #d9dce0; --card: #f5f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e4e6e9; --soft: #a0a6ae; --line: #3a3e45; --card: #1f2227 }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 0.5rem }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.5rem; padding-top: 0.6rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem }
p, ul, ol { max-width: 50rem; margin: 0.5rem 0 }
.answer { background: var(--card); border-radius: 8px; padding: 0.6rem 1.1rem; margin: 1rem 0 }
.answer p { max-width: none }
.wide { overflow-x: auto; margin: 0.8rem 0 }
.wide table { font-size: 0.9rem; font-variant-numeric: tabular-nums }
.wide th, .wide td { padding: 0.25em 0.55em !important }
.wide tbody tr:hover { background: var(--card) }
.wide tbody th { font-weight: 600; white-space: nowrap }
figure { margin: 1rem 0 }
figure img { max-width: 100%; height: auto; background: #ffffff; border-radius: 8px; padding: 8px }
figure img, .wide { box-sizing: border-box }
figcaption, footer { color: var(--soft); font-size: 0.9rem; max-width: 50rem }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 0.6rem }
pre { overflow-x: auto; background: var(--card); padding: 0.6rem; border-radius: 8px; font-size: 0.85rem }
math[display="block"] { margin: 0.8rem 0; overflow-x: auto }
@media print { .answer { border: 1px solid var(--line) } figure, table { break-inside: avoid } }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
<footer>{foot}</footer>
</main>
</body>
</html>
"""


class _Renderer(mistune.HTMLRenderer):
    """Markdown as the page needs it: formulas as MathML, and no links to files that do not travel with it."""

    def inline_math(self, text: str) -> str:
        return mathml(text, "inline")

    def block_math(self, text: str) -> str:
        return mathml(text, "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, url, title) if url.startswith(("https://", "http://", "#")) else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return super().heading(re.sub(r"^\d+\.\s+", "", text), level, **attrs)  # a notebook's numbers of sections


_markdown = mistune.create_markdown(renderer=_Renderer(escape=True), plugins=["math", "table"])


def mathml(formula: str, display: str) -> str:
    """Return a LaTeX formula as MathML, which browsers draw by themselves; as it is where it cannot be read."""
    try:
        return latex2mathml.converter.convert(formula.strip(), display=display)
    except Exception:  # of many kinds: a formula must not cost the page
        return f"<code>{html.escape(formula)}</code>"


def render_output(output: dict) -> str:
    """Return an output as HTML: a table, a figure, or printed lines as paragraphs; "" for what is none of these."""
    if output["output_type"] == "stream":
        lines = output["text"].splitlines() if output["name"] == "stdout" else []
        return "\n".join(f"<p>{html.escape(line.strip())}</p>" for line in lines if line.strip())
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="wide">{data["text/html"]}</div>'
    if "image/png" in data:
        picture = "".join(data["image/png"].split())
        return f'<figure><img alt="figure" src="data:image/png;base64,{picture}"></figure>'
    if "text/markdown" in data:
        return str(_markdown(data["text/markdown"]))
    return f"<pre>{html.escape(data['text/plain'])}</pre>" if "text/plain" in data else ""


def render_cells(cells: list[dict]) -> str:
    """Return the cells one after the other; a Markdown cell that begins with *Figure is the caption of the last one."""
    parts: list[str] = []
    for cell in cells:
        if cell["cell_type"] == "code":
            parts += [part for part in map(render_output, cell["outputs"]) if part]
        elif cell["source"].startswith("*Figure") and parts and parts[-1].endswith("</figure>"):
            words = cell["source"].strip().strip("*")
            name = html.escape(words.partition(":")[0])
            whole = parts[-1].removesuffix("</figure>").replace('alt="figure"', f'alt="{name}"')
            parts[-1] = f"{whole}<figcaption>{_markdown(words)}</figcaption></figure>"
        else:
            parts.append(str(_markdown(cell["source"])))
    return "\n".join(parts)


def render_page(notebook: nbformat.NotebookNode, title: str, foot: str = "") -> str:
    """Return an executed notebook's page; `title` and `foot` are plain text."""
    chosen = {tag: [c for c in notebook.cells if tag in c["metadata"].get("tags", [])] for tag in TAGS}
    first, rest = (render_cells(chosen[tag]) for tag in TAGS)
    body = (f'<div class="answer">\n{first}\n</div>\n' if first else "") + rest
    return PAGE.format(title=html.escape(title), style=STYLE, body=body, foot=html.escape(foot))


def write_page(notebook: Path, target: Path, title: str, foot: str = "") -> Path:
    """Write an executed notebook's page to `target`, whole or not at all, and return `target`."""
    text = render_page(nbformat.read(notebook, as_version=4), title, foot)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
