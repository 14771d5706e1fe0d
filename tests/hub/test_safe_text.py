"""Whatever a text holds, Markdown shows it as text or code, and Python reads it as a string."""

import ast
import re

import jinja2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hf_simplex.hub.safe_text import Markdown, code_block, code_span, inline, one_line, python_string, render

MARKUP = r"""<>&`*_~#=+-.)(0123456789[]!|\{}%$"' /:ab"""
texts = st.text(st.sampled_from(MARKUP + "\n\t")) | st.text()
COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"])

# Where the template inserts text: its Markdown, and what it is without any.
PLACES = {
    "paragraph": "{}\n",
    "within a paragraph": "Trained on {} and\nevaluated.\n",
    "heading": "# {}\n\nText.\n",
    "item": "- {}\n- another\n",
    "cell": "| a | b |\n|---|---|\n| {} | c |\n",
}


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """Kinds of the blocks of a text, each with the kinds of what is in its lines, but for text."""
    kinds = []
    for token in COMMONMARK.parse(text):
        children = [child.type for child in token.children or []]
        kinds.append((token.type, [kind for kind in children if kind not in ("text", "softbreak")]))
    return kinds


def shown(tokens: list[Token]) -> str:
    return "".join(child.content for token in tokens for child in token.children or [])


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=300, deadline=None)
@given(text=texts.filter(lambda text: one_line(text) != ""))
@example(text="---")
@example(text="1. a")
@example(text="a #")
@example(text="| --- |")
@example(text="<!-- a -->")
@example(text="&lt;b&gt; \\&amp;")
@example(text="a__b__ _c_ d_e_")
def test_inline_text_is_nothing_but_text(place: str, text: str) -> None:
    assert blocks(PLACES[place].format(inline(text))) == blocks(PLACES[place].format("a"))


@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_inline_text_reads_as_it_was(text: str) -> None:
    assert shown(COMMONMARK.parse(inline(text))) == one_line(text)


@settings(max_examples=500, deadline=None)
@given(text=texts)
@example(text="`` ` ``")
@example(text="")
def test_a_code_span_shows_its_text(text: str) -> None:
    (token,) = COMMONMARK.parseInline(f"On {code_span(text)} images")
    first, code, last = token.children or []
    assert (first.content, last.content) == ("On ", " images")
    assert code.type == "code_inline" and code.content == (one_line(text) or "  ")


@settings(max_examples=500, deadline=None)
@given(text=texts.map(lambda text: re.sub(r"[\r\0]", "", text)))
@example(text="```\n# a\n~~~~")
def test_a_block_of_code_shows_its_text(text: str) -> None:
    fence, after, _, _ = COMMONMARK.parse(f"{code_block(text, 'yaml')}\nAfter.\n")
    assert (fence.type, fence.info, fence.content) == ("fence", "yaml", f"{text}\n")
    assert after.type == "paragraph_open"


@settings(max_examples=500, deadline=None)
@given(text=texts | st.text(st.characters()))
@example(text="\ud800\u2028\x00\r\n\\`\"'")
def test_python_reads_a_string_as_it_was(text: str) -> None:
    literal = python_string(text)
    assert ast.literal_eval(literal) == text
    assert len(literal.splitlines()) == 1 and "`" not in literal and literal[0] == literal[-1] == '"'


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_a_line_can_be_encoded_and_has_no_control_characters(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1 and line.encode("utf-8").decode("utf-8") == line


def test_a_template_inserts_text_unless_it_is_told_otherwise() -> None:
    template = (
        "{% for name in names %}{{ name }};{% endfor %}{{ names|join(', ') }} {{ '%.1f'|format(0.25) }} {{ own }}"
    )
    values = {"names": ["<b>", "{{ own }}"], "own": Markdown("**a**")}
    assert render(template, **values) == "&lt;b&gt;;{{ own }};&lt;b&gt;, {{ own }} 0.2 **a**"
    with pytest.raises(jinja2.UndefinedError, match="'missing' is undefined"):
        render("{{ missing }}")
