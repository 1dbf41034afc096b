"""The labelled set, its scores, and the table in the document."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.personal_data.scores import scored, table
from bench.personal_data.sentences import LABELLED, Sentence, made, read, to_jsonl
from tailorbird.personal_data.kinds import Kind
from tailorbird.personal_data.loading import load_scanner, scan_options

DOC = Path(__file__).resolve().parents[3] / "docs" / "personal_data.md"


def test_the_file_is_what_the_seed_makes() -> None:
    assert LABELLED.read_text(encoding="utf-8") == to_jsonl(made())
    assert read() == list(made())


def test_it_is_large_enough_and_has_sentences_without_any() -> None:
    sentences = read()
    assert len(sentences) >= 400
    assert sum(not each.spans for each in sentences) >= 100
    for part in ("held_out", "dev"):
        kinds = Counter(span[0] for each in sentences if each.part == part for span in each.spans)
        for kind in ("email", "phone", "credit_card", "iban", "us_ssn", "uk_nino", "uk_nhs",
                     "ip_address", "date_of_birth", "medical_record"):  # fmt: skip
            assert kinds[kind] >= 10


def test_a_score_counts_what_is_covered_and_what_is_touched() -> None:
    scanner = load_scanner(scan_options(kinds=("email", "ip_address")))
    text = "a@web.de and 10.1.2.3 and 10.1.2.4"
    spans = (("email", 0, 8), ("email", 13, 21), ("ip_address", 12, 21))
    scores = scored(scanner, [Sentence(text, spans, "dev")])
    email, address = scores["email"], scores["ip_address"]
    assert (email.values, email.found, email.findings, email.right) == (2, 1, 1, 1)
    assert (email.recall, email.precision) == (0.5, 1.0)
    # One character of it is not covered.
    assert (address.values, address.found, address.findings, address.right) == (1, 0, 2, 1)
    total = scores["all"]
    assert (total.values, total.found, total.findings, total.right) == (3, 1, 3, 2)
    none = scored(scanner, [Sentence("nothing", (), "dev")])["all"]
    assert list(table({"all": none}))[-1] == "| all | 0 | 0 | – | 0 | 0 | – |"


def test_the_document_has_the_tables_and_every_kind() -> None:
    document = DOC.read_text(encoding="utf-8")
    scanner = load_scanner(scan_options())
    for part in ("held_out", "hard"):
        scores = scored(scanner, [each for each in read() if each.part == part])
        assert "\n".join(table(scores)) in document
    for kind in Kind:
        assert f"`{kind}`" in document
