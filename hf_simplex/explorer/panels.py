"""The explorer's answers as HTML. Every name of a label, a data set or a model goes in as text, whatever it holds."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
from torch import Tensor

from ..evaluation.answers import answer_line
from ..hub.safe_text import one_line
from ..model.decisions import Decisions
from .answers import Answer

__all__ = [
    "ask_panel",
    "compare_panel",
    "facts_panel",
    "gallery_panel",
    "head_panel",
    "message_panel",
    "picker_panel",
    "picture_panel",
    "text",
]

_SHOWN = 5
_SHOWN_OF_MEMBERS = 4


def text(value: object) -> str:
    """Escape text for HTML, on one line and without characters that hide or reorder what is around them.

    Example:
        >>> text("<b>pets</b>")
        '&lt;b&gt;pets&lt;/b&gt;'
    """
    return html.escape(one_line(str(value)))


def message_panel(message: str) -> str:
    """Show a message.

    Example:
        >>> message_panel("Choose an image.")
        '<div class="sx-panel-html"><p class="sx-verdict sx-plain" role="status">Choose an image.</p></div>'
    """
    return f'<div class="sx-panel-html"><p class="sx-verdict sx-plain" role="status">{text(message)}</p></div>'


def head_panel(name: str, facts: Sequence[str]) -> str:
    """Show the name of an ensemble, and facts in one line.

    Example:
        >>> head_panel("me/pets", ["3 labels", "2 members"])
        '<div class="sx-head"><h1>me/pets</h1><p>3 labels · 2 members</p></div>'
    """
    return f'<div class="sx-head"><h1>{text(name)}</h1><p>{" · ".join(map(text, facts))}</p></div>'


def ask_panel(answer: Answer, decisions: Decisions | None, names: Sequence[str], members: Sequence[str]) -> str:
    """Show what an ensemble says of an image, and each of its members.

    Args:
        answer: of `Answers.ask`.
        decisions: of the ensemble.
        names: of the labels.
        members: names of the members.

    Returns:
        HTML.

    Example::

        ask_panel(answers.ask(pixel_values), model.decisions, answers.names, ["mode 0", "mode 1"])
    """
    result = answer.result
    shown = {**result, "labels": result["labels"][:_SHOWN]}
    goal = None if decisions is None or decisions.abstention is None else decisions.abstention.target_error
    kind = {True: "sx-unsure", False: "", None: "sx-plain"}[result["abstain"]]
    parts = [
        f'<p class="sx-verdict {kind}" role="status">{text(answer_line(shown, goal))}</p>',
        "<h3>Most probable labels, and how far the members spread</h3>",
        _bars(
            [
                (
                    entry["label"],
                    entry["score"],
                    entry["standard_deviation"],
                    f"± {100 * entry['standard_deviation']:.0f} points",
                )
                for entry in shown["labels"]
            ]
        ),
        _facts(_decided(result, decisions)),
        "<h3>What each member says</h3>",
        _members(answer.members, names, members),
        '<p class="sx-note">Members are shown without the temperature that calibrates the ensemble.</p>',
    ]
    return f'<div class="sx-panel-html">{"".join(parts)}</div>'


def compare_panel(answer: Answer, names: Sequence[str]) -> str:
    """Show one model, the plain ensemble, the centroid and the ensemble side by side.

    Args:
        answer: of `Answers.ask`.
        names: of the labels.

    Returns:
        HTML.

    Example::

        compare_panel(answers.ask(pixel_values), answers.names)
    """
    labels = answer.parts["ensemble"].topk(min(_SHOWN_OF_MEMBERS, len(names))).indices.tolist()
    items = "".join(
        f"<li><h4>{text(part)}</h4>{_few_bars(labels, found, names)}</li>" for part, found in answer.parts.items()
    )
    return (
        f'<div class="sx-panel-html"><h3>The same image, four ways</h3><ul class="sx-parts">{items}</ul>'
        '<p class="sx-note">Only the ensemble has a temperature fitted on validation images.</p></div>'
    )


def gallery_panel(
    rows: Sequence[tuple[Tensor, str, Answer, float]], names: Sequence[str], data_set: str, split: str
) -> str:
    """Show the validation images on which the members disagree most, and what each part says.

    Args:
        rows: pixels [height, width, 3] uint8, the true label, the answer and the mutual information in nats.
        names: of the labels.
        data_set: name of the data set.
        split: what the images are to the ensemble.

    Returns:
        HTML; underlined labels are wrong.

    Example::

        gallery_panel([(image, "7", answer, 0.3)], names, "digits", "validation")
    """
    if not rows:
        return message_panel("There are no validation images: this ensemble has no explorer file.")
    parts = list(rows[0][2].parts)
    head = "".join(
        f'<th scope="col">{text(title)}</th>' for title in ["image", "true label", *parts, "disagreement (nats)"]
    )
    body = ""
    for pixels, label, answer, information in rows:
        cells = "".join(_verdict_cell(found, names, label) for found in answer.parts.values())
        picture = f'<img alt="image of {text(label)}" src="{_data_uri(pixels)}">'
        body += f"<tr><td>{picture}</td><td>{text(label)}</td>{cells}<td>{information:.3f}</td></tr>"
    return (
        f'<div class="sx-panel-html"><h3>Where the members disagree most: {text(data_set)} ({text(split)})</h3>'
        f'<div class="sx-scroll" tabindex="0" role="region" aria-label="Images on which the members disagree">'
        f'<table class="sx-gallery"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="sx-note">Underlined: not the true label.</p></div>'
    )


def picker_panel(images: Sequence[tuple[Tensor, str]]) -> str:
    """Show images as buttons, with their labels.

    Args:
        images: pixels [height, width, 3] uint8, and the label.

    Returns:
        HTML. A button has its place in `data-index`.

    Example:
        >>> import torch
        >>> picker_panel([(torch.zeros(2, 2, 3, dtype=torch.uint8), "cat")]).count("<button")
        1
    """
    buttons = "".join(
        f'<button type="button" data-index="{place}" aria-label="validation image, {text(label)}">'
        f'<img alt="" src="{_data_uri(pixels)}"><span>{text(label)}</span></button>'
        for place, (pixels, label) in enumerate(images)
    )
    return (
        '<div class="sx-panel-html"><h3>Validation images, with their true labels</h3>'
        f'<div class="sx-picker">{buttons}</div></div>'
    )


def facts_panel(title: str, facts: Mapping[str, object]) -> str:
    """Show facts by name.

    Example:
        >>> "<dt>labels</dt><dd>3</dd>" in facts_panel("Structure", {"labels": 3})
        True
    """
    return f'<div class="sx-panel-html"><h3>{text(title)}</h3>{_facts(facts)}</div>'


def picture_panel(pictures: Mapping[str, bytes]) -> str:
    """Show PNG pictures by caption; nothing where there are none.

    Example:
        >>> picture_panel({})
        ''
    """
    figures = "".join(
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
        for caption, content in pictures.items()
    )
    return f'<div class="sx-panel-html"><div class="sx-pictures">{figures}</div></div>' if figures else ""


def _decided(result: Mapping[str, Any], decisions: Decisions | None) -> dict[str, str]:
    facts = {}
    if decisions is not None and (abstention := decisions.abstention) is not None:
        if abstention.threshold is None:
            facts["abstains"] = f"never: no threshold keeps the error below {100 * abstention.target_error:g} %"
        else:
            answer = "yes" if result["abstain"] else "no"
            facts["abstains"] = f"{answer}: below a confidence of {100 * abstention.threshold:.1f} %"
    if result["prediction_set"] is not None and decisions is not None and decisions.prediction_sets is not None:
        labels = ", ".join(result["prediction_set"])
        facts[f"set that holds the label at {100 * decisions.prediction_sets.coverage:g} %"] = labels
    for name, share in (result["more_uncertain_than"] or {}).items():
        facts[f"by {name.replace('_', ' ')}"] = f"less sure than {share:.0f} % of the validation images"
    facts["members that vote for the first label"] = f"{100 * result['vote_share']:.0f} %"
    facts["uncertainty (entropy)"] = f"{result['predictive_entropy_nats']:.3f} nats"
    facts["of it, disagreement (mutual information)"] = f"{result['mutual_information_nats']:.3f} nats"
    if decisions is None:
        facts["calibrated"] = "no: hf-simplex calibrate fits temperature, threshold and prediction sets"
    return facts


def _members(probabilities: Tensor, names: Sequence[str], members: Sequence[str]) -> str:
    labels = probabilities.mean(dim=0).topk(min(_SHOWN_OF_MEMBERS, len(names))).indices.tolist()
    items = ""
    for member, found in zip(members, probabilities, strict=True):
        items += f"<li><h4>{text(member)}</h4>{_few_bars(labels, found, names)}</li>"
    return f'<ul class="sx-members">{items}</ul>'


def _few_bars(labels: Sequence[int], probabilities: Tensor, names: Sequence[str]) -> str:
    """Bars of the labels, with the most probable one in the place of the last if it is none of them."""
    best = int(probabilities.argmax())
    shown = labels if best in labels else [*labels[:-1], best]
    return _bars([(names[label], float(probabilities[label]), None, "") for label in shown])


def _verdict_cell(probabilities: Tensor, names: Sequence[str], label: str) -> str:
    best = int(probabilities.argmax())
    name = text(names[best])
    shown = (
        name
        if names[best] == label
        else f'<span class="sx-wrong">{name}</span><span class="sx-hidden"> (wrong)</span>'
    )
    return f"<td>{shown} {_percent(float(probabilities[best]))}</td>"


def _bars(rows: Sequence[tuple[str, float, float | None, str]]) -> str:
    items = ""
    for label, share, deviation, remark in rows:
        spread = ""
        if deviation is not None and math.isfinite(deviation):
            low, high = max(share - deviation, 0.0), min(share + deviation, 1.0)
            spread = f'<span class="sx-spread" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></span>'
        fill = f'<span class="sx-fill" style="width:{100 * share:.2f}%"></span>'
        value = f"{_percent(share)} {text(remark)}".strip()
        items += (
            f'<li data-label="{text(label)}" data-share="{share!r}"><span class="sx-label">{text(label)}</span>'
            f'<span class="sx-track" aria-hidden="true">{fill}{spread}</span>'
            f'<span class="sx-value">{value}</span></li>'
        )
    return f'<ul class="sx-bars">{items}</ul>'


def _facts(facts: Mapping[str, object]) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts.items())
    return f'<dl class="sx-facts">{rows}</dl>'


def _percent(share: float) -> str:
    # 99.6 % is not certainty.
    return f"{min(100 * share, 99.9):.1f} %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _data_uri(pixels: Tensor) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
