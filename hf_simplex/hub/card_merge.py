"""Updates a generated card and keeps the text that users wrote.

A card has a generated region between two HTML comments. The next card replaces this region and the metadata that
hf-simplex writes. Everything else belongs to the users of the repository.
"""

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote

import yaml
from huggingface_hub import ModelCard, ModelCardData
from transformers.utils import logging

from .model_index import is_generated
from .safe_text import inline, python_string

__all__ = [
    "BEGIN_CODE",
    "END",
    "END_CODE",
    "add_tags",
    "addressed_to",
    "begin_comment",
    "generated_region",
    "has_user_text",
    "merge_cards",
    "read_card",
    "without_code",
]

END = "<!-- hf-simplex card ends -->"
BEGIN_CODE, END_CODE = "<!-- needs the code in this repository -->", "<!-- needs it no more -->"
# A name in the card can hold a comment, but never as a line of its own.
_BEGIN = re.compile(r"^<!-- hf-simplex card of (?P<repository>\S+): .*? -->(?=[ \t\r]*$)", re.MULTILINE)

# Metadata that hf-simplex overwrites wherever it knows a value.
_OVERWRITTEN_KEYS = ("library_name", "pipeline_tag", "base_model", "datasets", "metrics")

logger = logging.get_logger(__name__)


def begin_comment(repository: str) -> str:
    """The HTML comment at the start of the generated region. It names the repository of the examples.

    Characters that no Hub id has are percent-encoded.

    Example:
        >>> from hf_simplex.hub.card_merge import begin_comment
        >>> begin_comment("me/digits").startswith("<!-- hf-simplex card of me/digits: ")
        True
    """
    name = quote(repository, errors="surrogatepass")
    return (
        f"<!-- hf-simplex card of {name}: generated from here to the next such comment, and replaced when the "
        "ensemble is published again. Text above and below stays. -->"
    )


def read_card(file: str | os.PathLike[str]) -> ModelCard:
    """Reads a card from a file.

    Raises:
        ValueError: the metadata are not a YAML mapping, or the model-index is invalid. The message names the file.

    Example::

        read_card("ensemble/README.md").data.tags
    """
    try:
        return ModelCard(Path(file).read_text("utf-8-sig"))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata at the top of {file} are not those of a model card: {error}") from error


def merge_cards(old: ModelCard, new: ModelCard) -> ModelCard:
    """Puts the generated region and metadata of a new card into an old one.

    - Users' text: the text of the old card stays. The text of the new card replaces it only if the old card has none,
      or if the new text repeats all of its lines. A dropped text logs a warning.
    - License: the license of the old card stays.
    - Tags: the tags of both cards are kept.
    - model-index: generated entries come from the new card, other entries from the old one.
    - A card without a generated region gets one at its end.

    Args:
        old: the card in the folder or repository. It is not changed.
        new: a card with a generated region.

    Returns:
        A new card.

    Example:
        >>> from huggingface_hub import ModelCard
        >>> from hf_simplex.hub.card_merge import END, begin_comment, merge_cards
        >>> new = ModelCard(f"---\\ntags:\\n- simplex\\n---\\n# Digits\\n\\n{begin_comment('me/digits')}\\n{END}\\n")
        >>> merge_cards(ModelCard("---\\nlicense: mit\\n---\\n# Mine\\n"), new).data.to_dict()
        {'license': 'mit', 'tags': ['simplex']}
    """
    card = ModelCard(str(old))
    data, before, now = _data(card), _data(old), _data(new)
    for key, value in vars(now).items():
        if (key in _OVERWRITTEN_KEYS and value is not None) or data.get(key) is None:
            data[key] = value
    takes_text = has_user_text(new) and (not has_user_text(old) or _user_lines(old) <= _user_lines(new))
    if has_user_text(new) and not takes_text:
        logger.warning(
            "The text of the existing card has lines that the new card lacks. The existing text stays, and the new "
            "card's text is dropped. To change it, edit the existing card, or copy its lines into the new card."
        )
    if has_user_text(new) and now.license not in (None, data.license):
        logger.warning(
            "The existing card has the license %s, which stays. The new card's license %s is dropped.",
            data.license,
            now.license,
        )
    data.tags = _union(now.tags, before.tags)
    users_results = [result for result in before.eval_results or [] if not is_generated(result)]
    data.eval_results = [*(now.eval_results or []), *users_results] or None
    data.model_name = (before.model_name if users_results else now.model_name) if data.eval_results else None
    if takes_text:
        card.text = new.text
        return card
    region, former = generated_region(new.text), generated_region(old.text)
    assert region is not None
    card.text = old.text.rstrip() + f"\n\n{region}\n" if former is None else old.text.replace(former, region)
    return card


def add_tags(card: ModelCard, tags: Sequence[str]) -> None:
    """Adds the tags that a card lacks, in place.

    Example:
        >>> from huggingface_hub import ModelCard
        >>> from hf_simplex.hub.card_merge import add_tags
        >>> card = ModelCard("---\\ntags:\\n- simplex\\n---\\n")
        >>> add_tags(card, ["simplex", "digits"])
        >>> card.data.tags
        ['simplex', 'digits']
    """
    _data(card).tags = _union(_data(card).tags, list(tags))


def generated_region(text: str) -> str | None:
    """The text between the two comments of a card, comments included; None if it has none.

    Example:
        >>> from hf_simplex.hub.card_merge import END, begin_comment, generated_region
        >>> generated_region(f"# Mine\\n{begin_comment('me/digits')}\\n{END}\\nThanks.").splitlines()[-1]
        '<!-- hf-simplex card ends -->'
    """
    begin = _BEGIN.search(text)
    end = _find_line(END, text, begin.end()) if begin else None
    return text[begin.start() : end.end()] if begin and end else None


def has_user_text(card: ModelCard) -> bool:
    """Whether a card has more than a title outside its generated region.

    Example:
        >>> from huggingface_hub import ModelCard
        >>> from hf_simplex.hub.card_merge import has_user_text
        >>> has_user_text(ModelCard("# Digits\\n")), has_user_text(ModelCard("# Digits\\n\\nRead this.\\n"))
        (False, True)
    """
    return bool(re.sub(r"\A\s*#[^\n]*", "", _user_text(card)).strip())


def addressed_to(card: ModelCard, repository: str) -> ModelCard:
    """Copies a card and names another repository in its examples, title and model-index.

    Args:
        card: a card. Without a generated region, the copy is unchanged.
        repository: Hub id.

    Returns:
        The copy.

    Example:
        >>> from huggingface_hub import ModelCard
        >>> from hf_simplex.hub.card_merge import END, addressed_to, begin_comment
        >>> card = ModelCard(f"# digits\\n\\n{begin_comment('me/digits')}\\n{END}\\n")
        >>> addressed_to(card, "me/pets").text.splitlines()[0]
        '# pets'
    """
    region, addressed = generated_region(card.text), ModelCard(str(card))
    if region is None:
        return addressed
    begin = _BEGIN.search(region)
    assert begin is not None
    former = unquote(begin["repository"], errors="surrogatepass")
    changed = re.sub(
        rf"(from_pretrained\(|model=){re.escape(python_string(former))}",
        lambda match: match[1] + python_string(repository),
        region.replace(begin[0], begin_comment(repository), 1),
    )
    old_title, title = former.split("/")[-1], repository.split("/")[-1]
    addressed.text = re.sub(
        rf"\A(\s*# ){re.escape(inline(old_title))}[ \t]*$",
        lambda match: match[1] + inline(title),
        card.text.replace(region, changed),
        count=1,
        flags=re.MULTILINE,
    )
    data = _data(addressed)
    if data.eval_results and data.model_name == old_title:
        data.model_name = title
    return addressed


def without_code(card: ModelCard) -> ModelCard:
    """Copies a card without the example that needs the code in the repository.

    Example:
        >>> from huggingface_hub import ModelCard
        >>> from hf_simplex.hub.card_merge import BEGIN_CODE, END_CODE, without_code
        >>> without_code(ModelCard(f"# Digits\\n\\n{BEGIN_CODE}\\nCode.\\n{END_CODE}\\n\\nEnd.")).text
        '# Digits\\n\\nEnd.'
    """
    shortened = ModelCard(str(card))
    begin, end = _find_line(BEGIN_CODE, card.text), _find_line(END_CODE, card.text)
    if begin and end and begin.start() < end.start():
        shortened.text = card.text[: begin.start()].rstrip("\n") + "\n\n" + card.text[end.end() :].lstrip("\n")
    return shortened


def _find_line(line: str, text: str, start: int = 0) -> re.Match[str] | None:
    return re.compile(rf"^{re.escape(line)}(?=[ \t\r]*$)", re.MULTILINE).search(text, start)


def _data(card: ModelCard) -> ModelCardData:
    # huggingface_hub does not type the metadata as those of a model card.
    return cast(ModelCardData, card.data)


def _union(first: Sequence[str] | str | None, second: Sequence[str] | str | None) -> list[str] | None:
    """Joins two lists without repeats. A metadata key may hold one name instead of a list."""
    names = [[names] if isinstance(names, str) else names or [] for names in (first, second)]
    return list(dict.fromkeys(itertools.chain(*names))) or None


def _user_text(card: ModelCard) -> str:
    region = generated_region(card.text)
    return card.text if region is None else card.text.replace(region, "")


def _user_lines(card: ModelCard) -> set[str]:
    return {line.strip() for line in _user_text(card).splitlines() if line.strip()}
