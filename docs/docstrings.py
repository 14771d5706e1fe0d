"""Turns docstrings, which are plain text with `code` in backticks, into reStructuredText.

A formula such as |a - b| or lambda* is text, not markup. Fenced code becomes a code block.
"""

import re
from typing import Any

_CODE = re.compile(r"(`[^`]*`)")
_MARKUP = re.compile(r"[|*]|(?<=\w)_(?=\W|$)")


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place, for the event `autodoc-process-docstring`."""
    lines[:] = converted(lines)


def converted(lines: list[str]) -> list[str]:
    """The lines with fences as code blocks and markup characters escaped outside of code.

    Example:
        >>> converted(["The height |h| of `a|b`.", "```python", "x = a | b", "```"])
        ['The height \\\\|h\\\\| of `a|b`.', '', '.. code-block:: python', '', '    x = a | b', '']
    """
    result: list[str] = []
    fenced, doctest, literal = False, False, -1
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith("```"):
            fenced = not fenced
            pad = " " * indent
            result += ["", f"{pad}.. code-block:: {text[3:] or 'text'}", ""] if fenced else [""]
            continue
        if fenced:
            result.append(f"    {line}")
            continue
        if text and literal >= 0 and indent <= literal:
            literal = -1
        doctest = text.startswith(">>>") or (doctest and bool(text))
        result.append(line if literal >= 0 or doctest else _escaped(line))
        if literal < 0 and text.endswith("::"):
            literal = indent
    return result


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(part if part.startswith("`") else _MARKUP.sub(r"\\\g<0>", part) for part in parts)
