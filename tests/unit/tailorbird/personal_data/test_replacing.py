"""What takes the place of what was found."""

from __future__ import annotations

import ipaddress
import logging
import re
from datetime import date
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.personal_data import replacing
from tailorbird.personal_data.birth_dates import birth_date
from tailorbird.personal_data.findings import LabelledText
from tailorbird.personal_data.kinds import Kind
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.options import ScanOptions
from tailorbird.personal_data.replacing import Replacer
from tailorbird.personal_data.scanner import Scanner
from tailorbird.personal_data.stand_ins import luhn, stand_in


def replaced(
    scanner: Scanner, *texts: str, mode: Mode = Mode.SUBSTITUTE, record: int = 1, key: str = "k"
) -> list[str]:
    return Replacer(scanner, mode, key).replace(map(LabelledText, texts), record)[0]


def test_a_value_has_one_stand_in_in_a_record_and_another_value_another(scanner: Scanner) -> None:
    first, second = replaced(
        scanner,
        "a@web.de and b@web.de; (415) 555-2671 or 415.555.2671; born 3/5/1984",
        "A@Web.de. DOB: 03.05.1984, card 4111111111111111, card 4111-1111-1111-1111",
    )
    a, b = re.findall(r"\S+@example\.\w+", first)
    assert a != b
    assert a in second
    phones = re.findall(r"\(?\d{3}\)?[-. ]555[-. ]01\d\d", first)
    assert len({re.sub(r"\D", "", each) for each in phones}) == 1
    born, dob = re.findall(r"(?:born|DOB:) ([\d./]+)", first + second)
    assert birth_date(born) == birth_date(dob)
    cards = re.findall(r"card ([\d-]+)", second)
    assert cards[0] == cards[1].replace("-", "") != "4111111111111111"


@pytest.mark.parametrize(
    ("one", "other"), [("10.1.11.1", "10.11.1.1"), ("a.b@web.de", "ab@web.de")]
)
def test_values_that_differ_in_a_sign_are_two_where_signs_count(
    scanner: Scanner, one: str, other: str
) -> None:
    (text,) = replaced(scanner, f"from {one} to {other} and {one}")
    first, second, again = re.findall(r"\S*\d\S*", text)
    assert first == again != second


def test_stand_ins_follow_from_the_key_and_the_record_alone(scanner: Scanner) -> None:
    text = "a@web.de"
    assert replaced(scanner, text) == replaced(scanner, text)
    others = [replaced(scanner, text, record=2), replaced(scanner, text, key="l")]
    assert replaced(scanner, text) not in others
    # Of what stood there they tell nothing.
    assert replaced(scanner, "zoe.other@gmail.com") == replaced(scanner, text)


def test_many_values_have_as_many_stand_ins(scanner: Scanner) -> None:
    cards = [luhn(f"4{number:014}") for number in range(200)]
    (text,) = replaced(scanner, " ".join(f"card {each}," for each in cards))
    stand_ins = re.findall(r"card ([\d-]+)", text)
    assert len(set(stand_ins)) == 200
    assert not set(stand_ins) & set(cards)


def test_when_stand_ins_are_spent_no_more_are_tried(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def counted(kind: str, value: str, random: Random) -> str:
        drawn.append(value)
        return stand_in(kind, value, random)

    monkeypatch.setattr(replacing, "stand_in", counted)
    numbers = [f"415-555-{number:04}" for number in range(2000)]
    (text,) = replaced(scanner, " ".join(f"call {each}," for each in numbers))
    assert len(set(re.findall(r"call ([\d-]+)", text))) == 2000
    # There are 1,000: by then a few dozen are tried for each, from then on one.
    assert len(drawn) < 20_000


def test_a_record_with_many_values_pauses(scanner: Scanner) -> None:
    few, many = (
        sum(1 for _ in Replacer(scanner, Mode.REDACT, "k").replacing([LabelledText(text)]))
        for text in ("a@web.de", "a@web.de " * 300)
    )
    assert many >= few + 299


def test_redacting_leaves_a_mark(scanner: Scanner) -> None:
    texts = ["a@web.de, born 3 May 1984", "nothing here"]
    assert replaced(scanner, *texts, mode=Mode.REDACT) == [
        "<EMAIL>, born <DATE_OF_BIRTH>", "nothing here"
    ]  # fmt: skip


@pytest.mark.parametrize("mode", [Mode.SCAN, Mode.REFUSE])
def test_other_modes_count_alone(scanner: Scanner, mode: Mode) -> None:
    texts = [LabelledText("a@web.de"), LabelledText("a@web.de from 10.1.2.3")]
    kept, counts = Replacer(scanner, mode, "k").replace(texts)
    assert kept == [each.text for each in texts]
    assert counts == {"email": 2, "ip_address": 1}


def shown(kind: Kind, value: str, seed: int = 0) -> str:
    return stand_in(kind, value, Random(seed))


@given(st.integers())
def test_stand_ins_are_of_ranges_that_reach_nobody(seed: int) -> None:
    email = shown(Kind.EMAIL, "a@web.de", seed)
    assert re.fullmatch(r"[a-z]+\d+@example\.(com|org|net)", email)
    assert re.fullmatch(r"\d{3}-555-01\d\d", shown(Kind.PHONE, "415 555 2671", seed))
    assert re.fullmatch(r"020 7946 0\d{3}", shown(Kind.PHONE, "07700 900123", seed))
    assert re.fullmatch(r"\+44 20 7946 0\d{3}", shown(Kind.PHONE, "+447700900123", seed))
    card = shown(Kind.CREDIT_CARD, "5100 0000 0000 0000", seed)
    assert re.fullmatch(r"\d{4}( \d{4}){3}", card)
    assert luhn(card.replace(" ", "")[:-1]) == card.replace(" ", "")
    amex = shown(Kind.CREDIT_CARD, "3400 000000 00000", seed).replace(" ", "")
    assert luhn(amex[:-1]) == amex
    iban = shown(Kind.IBAN, "DE89 3704", seed).replace(" ", "")
    assert iban[4:8] == "TEST"
    assert int("".join(str(int(each, 36)) for each in iban[4:] + iban[:4])) % 97 == 1
    documentation = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]
    address = ipaddress.ip_address(shown(Kind.IP_ADDRESS, "8.8.8.8", seed))
    assert any(address in ipaddress.ip_network(each) for each in documentation)
    six = ipaddress.ip_address(shown(Kind.IP_ADDRESS, "2a00::1", seed))
    assert six in ipaddress.ip_network("2001:db8::/32")
    assert shown(Kind.US_SSN, "536-90-4399", seed).startswith("666-")
    assert int(shown(Kind.US_ITIN, "912-70-1234", seed)[4:6]) < 50
    assert shown(Kind.UK_NINO, "AB123456C", seed).startswith("QQ")
    nhs = shown(Kind.UK_NHS, "943 476 5919", seed)
    assert nhs.startswith("999 ")
    assert sum(int(e) * (10 - at) for at, e in enumerate(nhs.replace(" ", ""))) % 11 == 0
    assert re.fullmatch(r"X-0{2}\d{4}", shown(Kind.MEDICAL_RECORD, "A-123456", seed))
    assert re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", shown(Kind.PERSON, "Ada Byron", seed))
    assert re.fullmatch(r"[A-Z][a-z]+", shown(Kind.PLACE, "Bremen", seed))


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("1984-05-03", r"198[0-4]-\d\d-\d\d"),
        ("23/05/1984", r"\d\d/\d\d/198[0-4]"),
        ("05/23/1984", r"\d\d/\d\d/198[0-4]"),
        ("3.5.84", r"\d+\.\d+\.8[0-4]"),
        ("19840503", r"198[0-4]\d{4}"),
        ("3 May 1984", r"\d+ [A-Z][a-z]+ 198[0-4]"),
        ("May 3, 1984", r"[A-Z][a-z]+ \d+, 198[0-4]"),
        ("3rd of May 1984", r"\d+(st|nd|rd|th) of [A-Z][a-z]+ 198[0-4]"),
        ("3-May-1984", r"\d+-[A-Z][a-z]+-198[0-4]"),
        ("May 1984", r"[A-Z][a-z]+ 198[0-4]"),
        ("3rd of May 1984", r"(1st|21st|2nd|22nd|3rd|23rd|\d+(?<!\b[123])(?<!\b2[123])th) of .*"),
    ],
)
@given(seed=st.integers())
def test_a_birth_date_keeps_its_form_and_five_years(value: str, shape: str, seed: int) -> None:
    other = stand_in(Kind.DATE_OF_BIRTH, value, Random(seed))
    assert re.fullmatch(shape, other)
    if value.startswith("23"):
        assert int(other[3:5]) <= 12
    if value.startswith("05"):
        assert int(other[:2]) <= 12
    assert birth_date(other)


def test_a_birth_date_is_the_same_however_it_is_written() -> None:
    ways = ("19840503", "1984-05-03", "3.5.84", "3rd of May 1984", "May 3, '84")
    assert len({birth_date(way) for way in ways}) == 1
    assert birth_date("3.6.84") != birth_date("3.5.84") != birth_date("3.5.94")


@pytest.mark.parametrize("value", ["1980051299", "198005129", "1980051", "5"])
def test_a_number_that_is_no_date_keeps_nothing(value: str) -> None:
    drawn = [stand_in(Kind.DATE_OF_BIRTH, value, Random(seed)) for seed in range(100)]
    assert {each[:-4] for each in drawn} == {"0" * len(value[:-4])}
    assert len({each[-4:] for each in drawn}) >= 9


@pytest.mark.parametrize("value", ["19840503", "1984-05-03"])
def test_of_a_birth_date_no_more_than_five_years_is_kept(value: str) -> None:
    others = {stand_in(Kind.DATE_OF_BIRTH, value, Random(seed)) for seed in range(300)}
    dates = [date.fromisoformat(each) for each in others]
    assert {each.year for each in dates} == set(range(1980, 1985))
    assert {each.month for each in dates} == set(range(1, 13))
    assert {each.day for each in dates} == set(range(1, 29))


@pytest.mark.parametrize(
    "value",
    ["im Mai", "12.05.1980 10:30", "1980051299", "12345 May 80", "1980/1981/1982", "5", "V.VI."],
)
def test_what_an_operators_pattern_takes_for_a_birth_date_may_be_none(value: str) -> None:
    options = ScanOptions(
        kinds=(Kind.DATE_OF_BIRTH,), patterns={Kind.DATE_OF_BIRTH: r"born:(?P<value>.*)"}
    )
    first, second, other = replaced(
        Scanner(options), f"born:{value}", f"born: {value}", f"born:{value}9"
    )
    shape = re.sub(r"[^\W\d]", "X", value)
    assert re.sub(r"\d", "0", first) == f"born:{re.sub(r'[0-9]', '0', shape)}"
    assert first != f"born:{value}"
    assert (second.replace(" ", ""), other) != (first.replace(" ", ""), first)


def test_signs_that_hold_a_digit_are_no_birth_date_s_numbers() -> None:
    options = ScanOptions(
        kinds=(Kind.DATE_OF_BIRTH,), patterns={Kind.DATE_OF_BIRTH: r"born:(?P<value>.*)"}
    )
    # Each is one character, of which no number can be read.
    value = "\N{DIGIT ONE FULL STOP}\N{PARENTHESIZED DIGIT TWO}"
    (text,) = replaced(Scanner(options), f"born:{value}")
    assert re.fullmatch(r"born:\d\d", text)


def test_nothing_that_was_found_is_shown_or_logged(
    scanner: Scanner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = (
        "a.secret@web.de, IBAN DE89 3704 0044 0532 0130 0x, IT60 X054 2811 101O 0000 0123 456,"
        " born 3 May 1984"
    )
    findings = scanner.find(text)
    replacer = Replacer(scanner, Mode.SUBSTITUTE, "k")
    replacer.replace([LabelledText(text)])
    told = repr(findings) + str(findings) + repr(replacer) + repr(scanner) + caplog.text
    for planted in ("a.secret", "web.de", "3704", "X054", "May"):
        assert planted not in told
