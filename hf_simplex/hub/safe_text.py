"""Renders a template of Markdown in which no value can be taken for markup, code or a comment of the card."""

import re
import unicodedata
from typing import Any

import jinja2

__all__ = ["Markdown", "code_block", "code_span", "inline", "one_line", "python_string", "render"]

# Characters that begin or end markup anywhere in a line, pipes of tables included.
_MARKUP = re.compile(r"[\\`*\[\]|~$]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# An underscore within a word is one.
_UNDERSCORES = re.compile(r"(?<!_)(?:(?<![^\W_])_+|_++(?![^\W_]))")
# What would make a line a heading, an item of a list, an underline or a rule.
_BLOCK_START = re.compile(r"^(?:[#=]|[-+](?=[-+\s]|$))")
_NUMBERED_ITEM = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
# A heading ends before its last number signs.
_CLOSING_SIGNS = re.compile(r"(?<=\s)#(?=#*$)")
# Unpaired surrogates cannot be encoded. The others hide or reorder the text around them.
_HIDDEN_CATEGORIES = ("Cc", "Cs")
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Markdown(str):
    """Text that `render` inserts as it is.

    Example:
        >>> from hf_simplex.hub.safe_text import Markdown, render
        >>> render("{{ given }} {{ written }}", given="*a*", written=Markdown("*b*"))
        '\\\\*a\\\\* *b*'
    """

    __slots__ = ()


def render(template: str, /, **values: Any) -> str:
    """Fills a Jinja template of Markdown. Values are text, see `inline`, unless they are `Markdown`.

    Args:
        template: the template.
        **values: of its variables.

    Returns:
        The Markdown.

    Raises:
        jinja2.UndefinedError: the template uses a variable without a value.

    Example:
        >>> from hf_simplex.hub.safe_text import render
        >>> render("On {{ images }} images of {{ name }}", images=50, name="<b>pets</b>")
        'On 50 images of &lt;b&gt;pets&lt;/b&gt;'
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=_as_markdown, autoescape=False)
    return environment.from_string(template).render(**values)


def one_line(text: str) -> str:
    """Joins lines by spaces, and shows control characters as U+FFFD.

    Example:
        >>> from hf_simplex.hub.safe_text import one_line
        >>> one_line("pets\\nand more")
        'pets and more'
    """
    return "".join(
        "\ufffd" if unicodedata.category(c) in _HIDDEN_CATEGORIES or c in _BIDIRECTIONAL else c
        for c in " ".join(text.split())
    )


def inline(text: str) -> Markdown:
    """Escapes text for a paragraph, a heading, an item of a list or a cell of a table.

    Args:
        text: any text.

    Returns:
        Markdown of one line that shows the text.

    Source: CommonMark 0.31, section 2.4; GitHub Flavored Markdown, sections 4.10 and 6.5.

    Example:
        >>> from hf_simplex.hub.safe_text import inline
        >>> inline("# a_b | *c* <!-- d -->")
        '\\\\# a_b \\\\| \\\\*c\\\\* &lt;!-- d --&gt;'
    """
    escaped = re.sub(r"[&<>]", lambda match: _ENTITIES[match[0]], _MARKUP.sub(r"\\\g<0>", one_line(text)))
    escaped = _UNDERSCORES.sub(lambda match: r"\_" * len(match[0]), escaped)
    escaped = _CLOSING_SIGNS.sub(r"\\#", _BLOCK_START.sub(r"\\\g<0>", escaped))
    return Markdown(_NUMBERED_ITEM.sub(r"\1\\\2", escaped))


def code_span(text: str) -> Markdown:
    """Formats text as code within a line.

    Args:
        text: any text.

    Returns:
        Markdown of one line, between more backticks than any run in the text. A table needs `inline` text.

    Source: CommonMark 0.31, section 6.1.

    Example:
        >>> from hf_simplex.hub.safe_text import code_span
        >>> code_span("pets"), code_span("`")
        ('`pets`', '`` ` ``')
    """
    line, fence = one_line(text), "`" * (_longest_run(text) + 1)
    padding = " " if not line or line[0] == "`" or line[-1] == "`" else ""
    return Markdown(f"{fence}{padding}{line}{padding}{fence}")


def code_block(text: str, language: str) -> Markdown:
    """Formats text as a block of code.

    Args:
        text: any text.
        language: for the colours.

    Returns:
        Markdown of several lines, between fences longer than any run of backticks in the text.

    Source: CommonMark 0.31, section 4.5.

    Example:
        >>> from hf_simplex.hub.safe_text import code_block
        >>> print(code_block("seed: 0", "yaml"))
        ```yaml
        seed: 0
        ```
    """
    fence = "`" * max(3, _longest_run(text) + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def python_string(text: str) -> Markdown:
    """Writes text as a Python string in double quotes, on one line and without backticks.

    Example:
        >>> from hf_simplex.hub.safe_text import python_string
        >>> python_string('me/digits'), python_string('a"b')
        ('"me/digits"', '"a\\\\"b"')
    """
    return Markdown('"' + "".join(map(_python_character, text)) + '"')


def _python_character(character: str) -> str:
    if character == '"':
        return r"\""
    # A backtick could end the block of code.
    if character == "`":
        return r"\x60"
    if character == "\\" or not character.isprintable():
        return character.encode("unicode_escape").decode("ascii")
    return character


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _as_markdown(value: Any) -> str:
    return value if isinstance(value, Markdown) else inline(str(value))
