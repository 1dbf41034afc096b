"""The model card is Markdown that hubs read, and takes no text for more than text."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.unit.trainer_svc.report.hostile import TEXTS, with_text
from tests.unit.trainer_svc.report.reports import full_report, minimal_report
from trainer_svc.report.card import escaped, model_card
from trainer_svc.report.printable import printable

READER = MarkdownIt("commonmark").enable("table")
SECTIONS = [
    "Model Details",
    "Uses",
    "Bias, Risks, and Limitations",
    "How to Get Started with the Model",
    "Training Details",
    "Evaluation",
]


def body(card: str) -> str:
    start, front, rest = card.split("---\n", 2)
    assert start == ""
    assert front
    return rest


def kinds(card: str) -> list[str]:
    return [token.type for token in READER.parse(body(card))]


def headings(card: str) -> list[str]:
    tokens = READER.parse(body(card))
    return [tokens[place + 1].content for place, token in enumerate(tokens) if token.tag == "h2"][
        ::2
    ]


def test_a_card_has_the_front_matter_and_the_sections_of_peft() -> None:
    card = model_card(full_report(), "0.21.2")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "base_model": "tailorbird-demo-base",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "transformers", "tailorbird", "base_model:adapter:tailorbird-demo-base"],
    }
    assert headings(card) == SECTIONS
    assert headings(model_card(minimal_report(), "0.21.2")) == SECTIONS
    shown = READER.render(body(card))
    for said in (
        "<td>0.935 [0.905, 0.962]</td>",
        "Tuned less Routed now: +0.055, +0.015 to +0.100",
        "the worst, ar.",
        "1 of 48 answers changed",
        "gets 3 wrong",
        "Hate fairness in 1 text",
        "<strong>CONTRADICTORY_ANSWERS</strong>: 4 of 1,812 records",
        "PEFT 0.21.2",
    ):
        assert said in shown, said
    assert shown.count("<table>") == 5


def test_a_card_says_what_was_not_judged() -> None:
    card = model_card(minimal_report(), "0.21.2")
    assert "Neither slices, counterfactual pairs, general ability nor safety were judged" in card
    assert "Beyond the losses above, nothing was judged" in card
    assert "tailorbird generate" not in card


@pytest.mark.parametrize("text", [text for text in TEXTS if text.strip()])
def test_hostile_text_makes_no_markup(text: str) -> None:
    harmless, card = (model_card(with_text(full_report(), each), "1") for each in ("x", text))
    assert kinds(card) == kinds(harmless)
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == printable(text)
    for place in READER.parse(body(card)):
        for inline in place.children or ():
            assert inline.type not in {"html_inline", "image", "link_open"}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
@settings(max_examples=200, deadline=None)
def test_escaped_text_reads_as_it_is(text: str) -> None:
    (inline,) = (token for token in READER.parse(f"a{escaped(text)}z") if token.children)
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    shown = "".join(child.content for child in inline.children or ())
    assert shown == f"a{' '.join(printable(text).split())}z"


@pytest.mark.parametrize("text", ["https://evil.example", "www.evil.example", "a@evil.example"])
def test_an_address_does_not_become_a_link(text: str) -> None:
    assert text not in escaped(text)
