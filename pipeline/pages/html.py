"""From the report's Markdown to one web page that needs nothing else: no network, no script, no other file."""

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
    _give_table_headers_scope(tokens)
    _inline_images(tokens, figures)
    _link_pages(tokens)
    body = parser.renderer.render(tokens, parser.options, {})
    headings = {level: list(_headings(tokens, level)) for level in ("h1", "h2")}
    return render("report.html", title=headings["h1"][0][1], sections=headings["h2"], body=Markup(body))  # noqa: S704 - rendered here


def _to_mathml(latex: str, options: dict[str, Any]) -> str:
    if not options["display_mode"]:
        return convert(latex, display="inline")
    return f'<div class="formula" role="group" aria-label="Formula" tabindex="0">{convert(latex, display="block")}</div>'


def _with_captions(tokens: Sequence[Token]) -> Iterator[Token]:
    """Make a paragraph `**Table …` before a table its caption, and one `**Figure …` after an image the image's.

    Each table and image also gets a box of its own, in which it can be scrolled by hand or by keyboard.
    """
    index = tables = 0
    while index < len(tokens):
        token, following = tokens[index], tokens[index + PARAGRAPH : index + 2 * PARAGRAPH]
        if _starts_with(tokens[index:], "**Table ") and following and following[0].type == "table_open":
            tables += 1
            yield _box_open({"class": "table", "role": "region", "aria-labelledby": f"table-{tables}"})
            yield following[0]
            yield from _wrapped(tokens[index + 1], "caption", {"id": f"table-{tables}"})
            index += PARAGRAPH + 1
        elif _starts_with(tokens[index:], "![") and _starts_with(following, "**Figure "):
            yield Token("figure_open", "figure", 1, block=True)
            yield _box_open({"class": "picture", "role": "group", "aria-label": following[1].content.split(".")[0].strip("*")})
            yield tokens[index + 1]
            yield _box_close()
            yield from _wrapped(following[1], "figcaption", {})
            yield Token("figure_close", "figure", -1, block=True)
            index += 2 * PARAGRAPH
        else:
            yield token
            if token.type == "table_close":
                yield _box_close()
            index += 1


def _starts_with(tokens: Sequence[Token], text: str) -> bool:
    return len(tokens) >= PARAGRAPH and tokens[0].type == "paragraph_open" and tokens[1].content.startswith(text)


def _box_open(attributes: Mapping[str, str | int | float]) -> Token:
    return Token("box_open", "div", 1, attrs={**attributes, "tabindex": "0"}, block=True)


def _box_close() -> Token:
    return Token("box_close", "div", -1, block=True)


def _wrapped(inline: Token, tag: str, attributes: dict[str, str | int | float]) -> Iterator[Token]:
    yield Token(f"{tag}_open", tag, 1, attrs=attributes, block=True)
    yield inline
    yield Token(f"{tag}_close", tag, -1, block=True)


def _give_table_headers_scope(tokens: Sequence[Token]) -> None:
    """Say which cells head a column and which, the first of each row, head a row."""
    first_in_row = False
    for token in tokens:
        if token.type == "tr_open":
            first_in_row = True
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif first_in_row and token.type in ("td_open", "td_close"):
            token.tag = "th"
            if token.type == "td_open":
                token.attrSet("scope", "row")
            else:
                first_in_row = False


def _inline_images(tokens: Sequence[Token], figures: Mapping[str, str]) -> None:
    for image in (child for token in tokens for child in token.children or () if child.type == "image"):
        svg = base64.b64encode(figures[str(image.attrs["src"])].encode()).decode()
        image.attrs["src"] = f"data:image/svg+xml;base64,{svg}"


def _link_pages(tokens: Sequence[Token]) -> None:
    """Lead from page to page where the Markdown leads to another report's Markdown, which browsers show as plain text."""
    for link in (child for token in tokens for child in token.children or () if child.type == "link_open"):
        link.attrs["href"] = re.sub(r"^((?:\.\./|\w+/)*report)\.md(?=#|$)", r"\1.html", str(link.attrs["href"]))


def _headings(tokens: Sequence[Token], level: str) -> Iterator[tuple[str, str]]:
    """Give (id, text) of each heading of a level."""
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag == level:
            yield str(token.attrs["id"]), inline.content
