"""Names that hold markup, comments, code or line breaks change neither the card's structure nor its examples."""

import ast
import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tiny import complete

from hf_simplex import SimplexForImageClassification
from hf_simplex.hub.card_merge import (
    BEGIN_CODE,
    END,
    END_CODE,
    addressed_to,
    begin_comment,
    generated_region,
    merge_cards,
    read_card,
    without_code,
)
from hf_simplex.hub.evidence import Evidence
from hf_simplex.hub.model_card import new_card, write_card
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets

HOSTILE = {
    "lines": "a\n\n# b\n---\n- c\n\n    d\n```\ne",
    "the end of a block of code": "a\n```\n# b",
    "carriage returns": "a\r\n\r\n# b\r---\r",
    "backticks": "``` a `b`` c```",
    "comments": "a --> <!-- <b>b</b>",
    "the card's end": f"a\n{END}\nb",
    "only the card's end": END,
    "the card's beginning": f"\n{begin_comment('eve/other')}\n",
    "the code's beginning and end": f"\n{END_CODE}\n{BEGIN_CODE}\n",
    "HTML": "<script>alert(1)</script></code></table><!--",
    "pipes": "a | b \\| c ||",
    "Jinja": "{{ 7 * 7 }}{% for a in b %}{# c #}",
    "quotes": "a\"b'c\"\"\"d'''\\",
    "Python": '"); import os; os.system("id")  #',
    "YAML": "a: b\n---\n- !c {d: &e",
    "a line of the metadata": "\n---\n",
    "characters": "\u2028\x00\x1b\u202e\ud800 é 🙂 \x85",
    "links": "[a](javascript:1) ![b](http://c) <http://d> &amp; *e* __f__ ~~g~~ $h$",
    "spaces": "  a  ",
}
FIELDS = (
    "label",
    "data_set",
    "backbone",
    "repository",
    "namespace",
    "role",
    "argument",
    "value",
    "hardware",
    "reason",
    "member_rule",
    "fitted_on",
    "note",
    "split",
    "tag",
    "part",
)


@cache
def ensemble() -> SimplexForImageClassification:
    return complete()


@cache
def card(field: str = "", name: str = "") -> ModelCard:
    """The card of an ensemble with a name in one place, and names without any markup in the others."""
    names = dict.fromkeys(FIELDS, "name") | {"data_set": "someone/pets", "backbone": "timm/a"} | {field: name}
    model, evidence, arguments = ingredients(names)
    return new_card(model, evidence, **arguments)


def ingredients(names: dict[str, str]) -> tuple[SimplexForImageClassification, Evidence, dict[str, Any]]:
    """What a card is made of, with a name in each field."""
    model = ensemble()
    model.config = copy.deepcopy(ensemble().config)
    config = model.config
    config.id2label = {0: names["label"], 1: "b", 2: "c"}
    config.roles = ["mode", "connector", names["role"]]
    record = {"images": 50, "of": 100, "fraction": 0.5, "seed": 0, "fingerprint": "0" * 16}
    # Otherwise it would be looked for on the backbone's card.
    config.backbone_config.pretrained_cfg = {"license": "mit"}
    config.provenance |= {
        "backbone": names["backbone"],
        "data_set": names["data_set"],
        "strategy": {"asked": "auto", "reason": names["reason"]},
        "images": {
            "train": {**record, "source": "train"},
            "validation": None,
            "test": {**record, "source": names["split"]},
            "notes": [names["note"]],
        },
    }
    model.decisions = Decisions(
        temperature=1.5,
        abstention=Abstention(0.05, 0.95, 0.8, coverage=0.75, error=0.02),
        prediction_sets=PredictionSets("lac", 0.9, 0.6),
        selection={"name": names["member_rule"]},
        fitted_on={"images": names["fitted_on"]},
    )
    row: Any = {"accuracy": 0.9, "nll": 0.3, "ece": 0.1, "brier": 0.2, "training_epochs": 4.0, "forward_passes": 8}
    evidence = Evidence(
        data_set=names["data_set"],
        test_images=50,
        results={"espro": {**row, "calibrated": {"nll": 0.25, "ece": 0.05}}, names["part"]: row},
        arguments={names["argument"]: 1, "value": names["value"], "list": [names["value"]]},
        hardware=names["hardware"],
    )
    repository = f"{names['namespace']}/{names['repository']}"
    return model, evidence, {"repository": repository, "tags": [names["tag"]]}


def structure(text: str) -> list[Any]:
    """The kinds of blocks of a card, and of what is in their lines, but for text."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return [
        (
            token.type,
            token.tag,
            token.level,
            [c.type for c in token.children or [] if c.type not in ("text", "softbreak")],
        )
        for token in parser.parse(text)
    ]


def snippets(text: str) -> list[ast.Module]:
    """The Python of a card."""
    tokens = MarkdownIt("commonmark").parse(text)
    return [ast.parse(token.content) for token in tokens if token.type == "fence" and token.info == "python"]


class WithoutNames(ast.NodeTransformer):
    """Replaces the repository's name, which is the only value that differs, by another."""

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self.found = 0

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if node.value != self.repository:
            return node
        self.found += 1
        return ast.Constant("repository")


def shape(text: str, repository: str) -> list[str]:
    names = WithoutNames(repository)
    found = [ast.dump(names.visit(module)) for module in snippets(text)]
    assert len(found) == 3 and names.found == 5, "the repository's name, in three examples"
    return found


def repository_of(field: str, name: str) -> str:
    return {"repository": f"name/{name}", "namespace": f"{name}/name"}.get(field, "name/name")


in_every_field = pytest.mark.parametrize("field", FIELDS)


@in_every_field
def test_a_name_is_text_wherever_it_stands(field: str) -> None:
    plain = card()
    region = generated_region(plain.text)
    assert region is not None
    for kind, name in HOSTILE.items():
        found = card(field, name)
        assert structure(found.text) == structure(plain.text), kind
        assert shape(found.text, repository_of(field, name)) == shape(plain.text, "name/name"), kind
        own = generated_region(found.text)
        assert own is not None, kind
        # Only the title is outside.
        assert structure(found.text.replace(own, "")) == structure(plain.text.replace(region, "")), kind
        assert structure(without_code(found).text) == structure(without_code(plain).text), kind


@in_every_field
def test_the_metadata_are_as_they_were_written(field: str) -> None:
    for kind, name in HOSTILE.items():
        expected = card().data.to_dict()
        entry = expected["model-index"][0]["results"][0]
        if field == "tag":
            expected["tags"][-1] = name
        if field == "repository":
            expected["model-index"][0]["name"] = name.split("/")[-1]
        if field == "data_set":
            del expected["datasets"]
            entry["dataset"]["type"] = entry["dataset"]["name"] = Path(name).name
        if field == "split":
            entry["dataset"]["split"] = f"{name}, 50 of 100 images held out of training"
        if field == "backbone":
            del expected["base_model"], expected["base_model_relation"]
        assert ModelCard(str(card(field, name))).data.to_dict() == expected, kind


@in_every_field
def test_the_next_card_replaces_this_one_and_leaves_the_users_text(field: str) -> None:
    region = generated_region(card().text)
    assert region is not None
    for kind, name in HOSTILE.items():
        first = card(field, name)
        edited = ModelCard(f"{first}\n## Thanks\n\nThis stays.\n")
        assert merge_cards(edited, first).text == edited.text, kind
        again = merge_cards(edited, card()).text
        assert again.count(region) == 1 and again.endswith("## Thanks\n\nThis stays.\n"), kind
        assert again.splitlines().count(END) == again.count(END) == 1, kind


def test_a_card_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    for kind, name in HOSTILE.items():
        values = dict.fromkeys(FIELDS, name)
        model, evidence, arguments = ingredients(values)
        expected = new_card(model, evidence, **arguments)
        for _ in range(2):
            found = read_card(write_card(model, tmp_path / kind, evidence, **arguments))
            assert found.text.rstrip() == expected.text.rstrip(), kind
            assert found.data.to_dict() == expected.data.to_dict(), kind


@pytest.mark.parametrize("field", ["repository", "namespace"])
def test_a_card_is_addressed_to_another_repository_and_back(field: str) -> None:
    for kind, name in HOSTILE.items():
        found, plain = card(field, name), card()
        there = addressed_to(found, "name/name")
        assert (there.text, there.data.to_dict()) == (plain.text, plain.data.to_dict()), kind
        back = addressed_to(there, repository_of(field, name))
        assert (back.text, back.data.to_dict()) == (found.text, found.data.to_dict()), kind


def test_a_name_without_a_letter_breaks_nothing() -> None:
    for field in FIELDS:
        found = card(field, " \n ")
        assert generated_region(found.text) is not None, field
        if field not in ("hardware", "reason", "note"):  # each alone in its paragraph, which is not there now
            assert structure(found.text) == structure(card().text), field
        assert merge_cards(found, card()).text.count(END) == 1, field


def test_only_the_repository_is_replaced_in_the_examples() -> None:
    moved = addressed_to(card("repository", "image-classification"), "me/pets")
    assert shape(moved.text, "me/pets") == shape(card().text, "name/name")
    bare = new_card(ensemble(), Evidence(), repository="image-classification")
    assert 'pipeline("image-classification", model="me/pets")' in addressed_to(bare, "me/pets").text


def test_a_user_may_name_the_comments() -> None:
    found = ModelCard(str(card()))
    found.text = f"# Mine\n\nWhat is before `{END}` is generated.\n{found.text}\nSee `{BEGIN_CODE}`.\n"
    again = merge_cards(found, card("hardware", "Another abacus."))
    assert again.text.startswith(f"# Mine\n\nWhat is before `{END}` is generated.\n")
    assert again.text.endswith(f"\nSee `{BEGIN_CODE}`.\n") and "Another abacus." in again.text
    assert without_code(again).text.endswith(f"\nSee `{BEGIN_CODE}`.\n")
