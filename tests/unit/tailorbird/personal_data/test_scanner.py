"""What is found, and where."""

from __future__ import annotations

import socket
from itertools import pairwise
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import FailedPrecondition, InvalidArgument, PatternTimedOut
from tailorbird.personal_data.findings import Finding, without_overlaps
from tailorbird.personal_data.folding import folded
from tailorbird.personal_data.kinds import Kind
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.options import ScanOptions
from tailorbird.personal_data.patterns import PatternDetector, compiled
from tailorbird.personal_data.scanner import Scanner


def found(scanner: Scanner, text: str, label: str = "") -> list[tuple[str, str]]:
    return [(str(each.kind), text[each.start : each.end]) for each in scanner.find(text, label)]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("email", "a.b+c@mail.example.co.uk", "Write to a.b+c@mail.example.co.uk."),
        ("phone", "(415) 555-2671", "call/ (415) 555-2671 now"),
        ("phone", "+44 7700 468934", "it is +44 7700 468934"),
        ("credit_card", "4111 1111 1111 1111", "card 4111 1111 1111 1111, thanks"),
        ("iban", "DE89 3704 0044 0532 0130 00", "to DE89 3704 0044 0532 0130 00 and then"),
        ("ip_address", "10.1.2.3", "from 10.1.2.3 today"),
        ("ip_address", "2001:db8::1", "from 2001:db8::1 today"),
        ("date_of_birth", "3rd of May 1984", "I was born on the 3rd of May 1984."),
        ("date_of_birth", "19840503", "dob: 19840503"),
        ("date_of_birth", "1984-05-03", "1984-05-03 (DOB)"),
        ("medical_record", "H5663224", "medical record number H5663224 was merged"),
        ("us_ssn", "536-90-4399", "is 536-90-4399 right?"),
        ("us_ssn", "536904399", "my social security number, 536904399"),
        ("us_itin", "912-70-1234", "ITIN 912-70-1234"),
        ("us_mbi", "1EG4-TE5-MK73", "Medicare 1EG4-TE5-MK73"),
        ("uk_nino", "AB 12 34 56 C", "NI number AB 12 34 56 C"),
        ("uk_nhs", "943 476 5919", "NHS number 943 476 5919"),
        ("au_tfn", "123 456 782", "TFN 123 456 782"),
        ("au_medicare", "2123 45670 1", "Medicare card 2123 45670 1"),
        ("ca_sin", "193 456 787", "my SIN is 193 456 787"),
        ("de_social_security", "15070649C103", "Versicherungsnummer 15070649C103"),
        ("de_tax_id", "86095742719", "Steuer-ID 86095742719"),
        ("es_nif", "12345678Z", "DNI 12345678Z"),
        ("es_nie", "X1234567L", "NIE X1234567L"),
        ("fi_personal_identity_code", "131052-308T", "hetu 131052-308T"),
        ("in_aadhaar", "2345 6789 0124", "Aadhaar 2345 6789 0124"),
        ("in_pan", "ABCPD1234E", "PAN ABCPD1234E"),
        ("it_fiscal_code", "RSSMRA85M01H501Q", "codice fiscale RSSMRA85M01H501Q"),
        ("kr_rrn", "900101-1234568", "RRN 900101-1234568"),
        ("pl_pesel", "44051401359", "PESEL 44051401359"),
        ("se_personnummer", "811228-9874", "personnummer 811228-9874"),
        ("sg_nric_fin", "S1234567D", "NRIC S1234567D"),
        ("th_tnin", "1101700230708", "Thai National ID 1101700230708"),
        ("tr_national_id", "10000000146", "TC Kimlik No 10000000146"),
        ("za_id_number", "8001015009087", "SA ID number 8001015009087"),
    ],
)
def test_each_kind_is_found_where_it_stands(
    scanner: Scanner, kind: str, value: str, text: str
) -> None:
    assert found(scanner, text) == [(kind, value)]


def test_no_kind_is_left_out_of_the_test_above() -> None:
    (mark,) = test_each_kind_is_found_where_it_stands.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(Kind) - {Kind.PERSON, Kind.PLACE}


@pytest.mark.parametrize(
    "text",
    [
        "Order 9434765919 was shipped.",
        "The reference is 4155552671.",
        "Admitted 12/04/2024, discharged 2024-04-19.",
        "born to run; released 12 songs. Order of 12/04/2024",
        "card 4111 1111 1111 1112",
        "DE88 3704 0044 0532 0130 00",
        "mail to root@localhost or me@nowhere.invalid",
        "version 1.2.3.400",
        "SSN 000-12-3456",
        "due 07-03-2022, or 08.07.2021",
        "rust peg - qty 49 - 168.93 pounds",
    ],
)
def test_what_only_looks_like_it_is_not(scanner: Scanner, text: str) -> None:
    assert found(scanner, text) == []


def test_words_beside_a_value_raise_its_score(scanner: Scanner) -> None:
    bare, beside = scanner.find("536-90-4399"), scanner.find("SSN: 536-90-4399")
    assert (bare[0].score, beside[0].score) == (0.5, 0.85)


def test_a_key_is_a_word_beside_its_value(scanner: Scanner) -> None:
    assert found(scanner, "4155552671") == []
    assert found(scanner, "4155552671", "customer_phone") == [("phone", "4155552671")]
    assert found(scanner, "1984-05-03", "date_of_birth") == [("date_of_birth", "1984-05-03")]
    # What is in the key is not in the text.
    assert found(scanner, "hello", "a.b@example.com") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("card ４１１１ １１１１ １１１１ １１１１!", "４１１１ １１１１ １１１１ １１１１"),
        ("card 4111\u200b1111\u200d11111111", "4111\u200b1111\u200d11111111"),
        ("card 4111\u20111111\u20111111\u20111111", "4111\u20111111\u20111111\u20111111"),
        ("card ٤١١١ ١١١١ ١١١١ ١١١١", "٤١١١ ١١١١ ١١١١ ١١١١"),
        ("הכרטיס \u20674111 1111 1111 1111\u2069 שלי", "4111 1111 1111 1111"),
        ("e\u0301te\u0301 \x00 4111\xa01111\xa01111\xa01111", "4111\xa01111\xa01111\xa01111"),
    ],
)  # fmt: skip
def test_offsets_are_the_text_s_own(scanner: Scanner, text: str, value: str) -> None:
    assert found(scanner, text) == [("credit_card", value)]


def test_a_long_text_is_read_to_its_end(scanner: Scanner) -> None:
    text = "x y. " * 4000 + "a@web.de " + "é " * 6000 + "4111111111111111"
    assert found(scanner, text) == [("email", "a@web.de"), ("credit_card", "4111111111111111")]


@given(st.text(max_size=200))
def test_any_text_has_spans_within_it(scanner: Scanner, text: str) -> None:
    end = 0
    for finding in scanner.find(text):
        assert end <= finding.start < finding.end <= len(text)
        end = finding.end


@given(st.text())
def test_folding_keeps_places(text: str) -> None:
    plain = folded(text)
    for index in range(len(plain.text)):
        start, end = plain.original(index, index + 1)
        assert folded(text[start:end]).text == plain.text[index]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9), st.sampled_from([0.4, 0.9]))))
def test_of_overlapping_findings_the_best_stays(spans: list[tuple[int, int, float]]) -> None:
    findings = [Finding("k", start, start + length, score) for start, length, score in spans]
    kept = without_overlaps(findings)
    assert all(one.end <= other.start for one, other in pairwise(kept))
    for lost in set(findings) - set(kept):
        rivals = [each for each in kept if each.start < lost.end and lost.start < each.end]
        assert max(each.score for each in rivals) >= lost.score


def test_nothing_is_asked_of_the_network_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    text = "mail x@some-shop.com.au, call (415) 555-2671, from 10.1.2.3, NHS 943 476 5919"
    assert len(load_scanner(scan_options()).find(text)) == 4
    assert list(home.iterdir()) == []


def test_only_the_kinds_asked_for_are_found() -> None:
    scanner = load_scanner(scan_options(kinds=("email",), patterns={"ticket": r"T-\d{4}"}))
    text = "T-1234 of a@web.de from 10.1.2.3"
    assert found(scanner, text) == [("ticket", "T-1234"), ("email", "a@web.de")]


def test_a_least_score_leaves_out_what_is_less_sure() -> None:
    scanner = load_scanner(scan_options(min_score=0.6))
    assert found(
        scanner, "536-90-4399 is one of two that were given; SSN of the other: 536-90-4398"
    ) == [("us_ssn", "536-90-4398")]


def test_a_pattern_takes_the_place_of_ours_and_may_name_its_value() -> None:
    pattern = r"case file (?P<value>Z\d{3})"
    scanner = load_scanner(scan_options(patterns={"medical_record": pattern}))
    assert found(scanner, "MRN 1234567, Case File Z123") == [("medical_record", "Z123")]


def test_a_pattern_that_matches_nothing_finds_nothing() -> None:
    scanner = load_scanner(
        scan_options(kinds=("iban",), patterns={"empty": r"x*", "absent": r"ab(?P<value>c)?"})
    )
    assert found(scanner, "ab abc") == [("absent", "c")]
    assert found(scanner, "xx") == [("empty", "xx")]
    # Of what is left out in reading, nothing either.
    assert found(scanner, "\u200babx\u200by ab") == [("empty", "x")]


def test_a_long_text_may_be_searched_for_longer_but_not_by_an_operator_s_pattern() -> None:
    ours = compiled("(a|aa)+$")
    text = "a" * 60 + "b" + " " * 40_000
    told = []
    for bounded in (True, False):
        with pytest.raises(PatternTimedOut) as raised:
            list(PatternDetector("k", ((ours, 1.0),), bounded=bounded).find(text, 0.05))
        told.append(float(raised.value.metadata["seconds"]))
    assert told == [pytest.approx(0.15, rel=0.05), 0.05]


def test_a_pattern_that_explodes_is_ended_and_named() -> None:
    options = ScanOptions(patterns={"ticket": r"(a|aa)+$"}, pattern_seconds=0.05)
    with pytest.raises(PatternTimedOut, match="the pattern for ticket did not end within") as told:
        load_scanner(options).find("a" * 60 + "b")
    assert told.value.metadata["kind"] == "ticket"
    assert "aaaa" not in repr(told.value)


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"kinds": ("emial",)}, "kinds", "'emial' is not one of email, phone"),
        ({"kinds": ("person",)}, "kinds", "'person' needs spacy_model"),
        ({"min_score": 1.5}, "min_score", "1.5 is not from 0 to 1"),
        ({"patterns": {"a": "(b"}}, "patterns", r"a: not a regular expression: .* at position 2"),
        ({"patterns": {"a": ""}}, "patterns", "a: 0 characters; 1 to 1000"),
        ({"patterns": {"a": "b" * 1001}}, "patterns", "a: 1001 characters"),
        ({"patterns": {"A b": "c"}}, "patterns", "'A b' is not a kind"),
        ({"patterns": {f"k{at}": "c" for at in range(33)}}, "patterns", "33; at most 32"),
    ],
)
def test_wrong_options_are_refused_when_they_are_made(
    given: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message) as told:
        scan_options(**given)  # type: ignore[arg-type]
    assert told.value.field == field


def test_what_is_within_the_limits_is_looked_for() -> None:
    patterns = {f"k{at}": "c" * 1000 for at in range(32)}
    options = ScanOptions(kinds=("person",), patterns=patterns, spacy_model="model")
    assert options.wanted == {"person", *patterns}


def test_a_pattern_must_have_time() -> None:
    with pytest.raises(InvalidArgument, match="0 is not above 0"):
        ScanOptions(pattern_seconds=0)


def test_names_and_places_by_a_spacy_model(tmp_path: Path) -> None:
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns(  # type: ignore[attr-defined]
        [
            {"label": "PERSON", "pattern": "Ada Byron"},
            {"label": "GPE", "pattern": "Bremen"},
            {"label": "ORG", "pattern": "Acme"},
        ]
    )
    pipeline.to_disk(tmp_path / "model")
    scanner = load_scanner(scan_options(spacy_model=str(tmp_path / "model")))
    text = "Ada Byron of Acme, Bremen, a@web.de. " + "word " * 20_000 + "Ada Byron"
    assert found(scanner, text) == [
        ("person", "Ada Byron"), ("place", "Bremen"), ("email", "a@web.de"), ("person", "Ada Byron")
    ]  # fmt: skip


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is no spaCy pipeline") as told:
        load_scanner(scan_options(spacy_model=str(tmp_path / "nothing")))
    assert told.value.field == "spacy_model"


def test_a_detector_that_fails_says_nothing_of_the_text() -> None:
    class Failing:
        kind = "ticket"
        whole = False

        def find(self, text: str, seconds: float) -> object:
            raise ValueError(f"invalid literal: {text}")

    scanner = load_scanner(scan_options(kinds=("email",)))
    scanner._detectors = (Failing(),)  # type: ignore[assignment]
    with pytest.raises(
        FailedPrecondition, match=r"looking for ticket failed \(ValueError\)"
    ) as told:
        scanner.find("secret")
    assert told.value.reason == "SCAN_FAILED"
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__
    assert "secret" not in repr(told.value)


FILLER = "the parcel was late and nobody said why, so we ask what is to be done. "


@pytest.mark.parametrize("before", range(3800, 4200, 29))
def test_a_value_is_found_wherever_a_long_text_is_cut(scanner: Scanner, before: int) -> None:
    values = ("4111 1111 1111 1111", "jane.roe@web.de", "born on the 3rd of May 1984")
    text = (FILLER * 200)[:before] + " " + "; ".join(values) + "; " + FILLER * 150
    assert [value for _, value in found(scanner, text)] == [
        values[0], values[1], "3rd of May 1984"
    ]  # fmt: skip


def test_a_long_text_without_a_space_is_cut_too(scanner: Scanner) -> None:
    text = "x" * 20_000 + ",jane.roe@web.de," + "y" * 20_000
    assert found(scanner, text) == [("email", "jane.roe@web.de")]


def test_a_value_that_two_pieces_hold_is_found_once(scanner: Scanner) -> None:
    text = " ".join(f"call 415-555-{number:04}," for number in range(1000, 2000))
    numbers = found(scanner, text)
    assert numbers == [("phone", f"415-555-{number}") for number in range(1000, 2000)]


def test_a_long_text_is_looked_at_in_pieces(scanner: Scanner) -> None:
    short, long = (sum(1 for _ in scanner.search(text)) for text in ("a", "a " * 40_000))
    # 80,000 characters, of which a piece begins 3,584 after the one before, at most.
    assert long >= short * 10


def test_an_operator_s_pattern_sees_a_text_as_a_whole() -> None:
    scanner = load_scanner(ScanOptions(kinds=("iban",), patterns={"letter": "dear.*yours"}))
    text = f"dear {FILLER * 300} yours"
    assert [(each.kind, each.end - each.start) for each in scanner.find(text)] == [
        ("letter", len(text))
    ]


def test_of_a_long_label_the_end_counts(scanner: Scanner) -> None:
    read: list[str] = []

    class Reading:
        kind = "ticket"
        whole = False

        def find(self, text: str, seconds: float) -> list[Finding]:
            read.append(text)
            return []

    reading = Scanner(ScanOptions())
    reading._detectors = (Reading(),)  # type: ignore[assignment]
    reading.find("5", "key_" * 100_000)
    assert [len(text) for text in read] == [128 + len(": 5")]
    number = "4155552671"
    assert found(scanner, number, "x" * 500 + "_phone") == found(scanner, number, "phone") != []


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 12), st.sampled_from([0.4, 0.5, 1.0])),
        max_size=12,
    )
)
def test_what_stays_is_best_and_shares_nothing(spans: list[tuple[int, int, float]]) -> None:
    findings = [Finding("k", start, start + length, score) for start, length, score in spans]
    kept = without_overlaps(findings)
    assert all(one.end <= other.start for one, other in pairwise(kept))
    for finding in findings:
        rivals = [k for k in kept if k.start < finding.end and finding.start < k.end]
        assert any((k.score, k.end - k.start) >= (finding.score, finding.end - finding.start)
                   for k in rivals)  # fmt: skip
