"""Turns the report's Markdown into one web page that needs nothing else: no network, no script, no other file."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

from pipeline.pages.rendering import render

PARAGRAPH = 3  # tokens: open, inline, close


def make_page(markdown: str, figures: Mapping[str, str]) -> str:
    """Turn GitHub-flavoured Markdown into HTML, with formulas as MathML and the SVG `figures` (path → text) inside."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.use(anchors_plugin, max_level=3).use(dollarmath_plugin, renderer=_to_mathml)
    tokens = list(_with_captions(parser.parse(markdown)))
    headings: dict[str, list[tuple[str, str]]] = {"h1": [], "h2": [], "h3": []}  # (id, text) by level
    first_in_row = False
    for token, following in pairwise([*tokens, Token("end", "", 0)]):
        if token.type == "heading_open":
            headings[token.tag].append((str(token.attrs["id"]), following.content))
        elif token.type == "tr_open":
            first_in_row = True
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif first_in_row and token.type in ("td_open", "td_close"):  # the first cell of each row heads the row
            token.tag = "th"
            if token.type == "td_open":
                token.attrSet("scope", "row")
            else:
                first_in_row = False
        for child in token.children or ():
            if child.type == "image":
                svg = base64.b64encode(figures[str(child.attrs["src"])].encode()).decode()
                child.attrs["src"] = f"data:image/svg+xml;base64,{svg}"
            elif child.type == "link_open":  # to another report's page: browsers show its Markdown as plain text
                child.attrs["href"] = re.sub(r"^((?:\.\./|\w+/)*report)\.md(?=#|$)", r"\1.html", str(child.attrs["href"]))
    body = Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704 - rendered here
    return render("report.html", title=headings["h1"][0][1], sections=headings["h2"], body=body)


def _to_mathml(latex: str, options: dict[str, Any]) -> str:
    if not options["display_mode"]:
        return convert(latex, display="inline")
    return f'<div class="formula" role="group" aria-label="Formula" tabindex="0">{convert(latex, display="block")}</div>'


def _with_captions(tokens: Sequence[Token]) -> Iterator[Token]:
    """Make a paragraph `**Table …` before a table its caption, and one `**Figure …` after an image the image's.

    Each table and image also gets a box of its own, which can be scrolled by hand or by keyboard.
    """

    def box(**attributes: str) -> Token:
        names = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
        return Token("box_open", "div", 1, attrs={**names, "tabindex": "0"}, block=True)

    def wrapped(inline: Token, tag: str, **attributes: str | int | float) -> Iterator[Token]:
        yield Token(f"{tag}_open", tag, 1, attrs=attributes, block=True)
        yield inline
        yield Token(f"{tag}_close", tag, -1, block=True)

    def starts_with(text: str, at: int) -> bool:
        return at + 1 < len(tokens) and tokens[at].type == "paragraph_open" and tokens[at + 1].content.startswith(text)

    index = tables = 0
    while index < len(tokens):
        token, after = tokens[index], index + PARAGRAPH
        if starts_with("**Table ", index) and after < len(tokens) and tokens[after].type == "table_open":
            tables += 1
            yield box(class_="table", role="region", aria_labelledby=f"table-{tables}")
            yield tokens[after]
            yield from wrapped(tokens[index + 1], "caption", id=f"table-{tables}")
            index = after + 1
        elif starts_with("![", index) and starts_with("**Figure ", after):
            caption = tokens[after + 1]
            yield Token("figure_open", "figure", 1, block=True)
            yield box(class_="picture", role="group", aria_label=caption.content.split(".")[0].strip("*"))
            yield tokens[index + 1]
            yield Token("box_close", "div", -1, block=True)
            yield from wrapped(caption, "figcaption")
            yield Token("figure_close", "figure", -1, block=True)
            index = after + PARAGRAPH
        else:
            yield token
            if token.type == "table_close":
                yield Token("box_close", "div", -1, block=True)
            index += 1
