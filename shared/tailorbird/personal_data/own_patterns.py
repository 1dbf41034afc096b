"""Patterns that Presidio has not: birth dates, medical records, international telephone numbers."""

from __future__ import annotations

import regex

from tailorbird.personal_data.kinds import Kind
from tailorbird.personal_data.patterns import PatternDetector, compiled, near

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
    r"|januar|februar|märz|mai|juni|juli|oktober|dezember"
    r"|janvier|février|mars|avril|juin|juillet|août|septembre|octobre|novembre|décembre"
    r"|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre)"
    r"\.?"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:(?:18|19|20)\d\d)"
DATE = (
    rf"(?:{_YEAR}(?P<a>[-/.]){_DAY}(?P=a){_DAY}"
    rf"|{_DAY}\s?(?P<b>[-/.])\s?{_DAY}\s?(?P=b)\s?(?:{_YEAR}|\d\d)"
    rf"|{_DAY}(?:st|nd|rd|th|\.)?[\s-]+(?:of\s+|de\s+)?{_MONTH},?[\s-]+(?:de\s+)?(?:{_YEAR}|'?\d\d)"
    rf"|{_MONTH}[\s-]+{_DAY}(?:st|nd|rd|th)?,?[\s-]+{_YEAR}"
    rf"|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)"
)

_BIRTH = (
    r"(?:d\.?\s?o\.?\s?b\b\.?|date[\s_-]+of[\s_-]+birth|birth[\s_-]*date|birth[\s_-]*day|born"
    r"|geb\.|geboren|geburtsdatum|geburtstag|n[ée]e?\b|date[\s_]+de[\s_]+naissance|naissance"
    r"|nacid[oa]|fecha[\s_]+de[\s_]+nacimiento|nacimiento|nat[oa]|data[\s_]+di[\s_]+nascita"
    r"|geboortedatum|data[\s_]+de[\s_]+nascimento)"
)

# What may stand between "born" and the date: no digit, no end of a sentence.
_UP_TO = r"[^\d\n;!]{0,32}?"

_MEDICAL_LABEL = (
    r"(?:MRN|medical[\s_]+record|(?:patient|hospital|chart|clinic)[\s_]+(?:id|no|number|record))"
    r"(?:[\s_]+(?:id|no|number))?"
)

_FLAGS = regex.IGNORECASE


_whole_date = compiled(DATE, _FLAGS)


def is_date(text: str) -> bool:
    """Tell whether `text` is a date and nothing else."""
    return _whole_date.fullmatch(text) is not None


def international_phone() -> PatternDetector:
    """Return what finds "+" and 8 to 15 digits (E.164), whoever may have such a number.

    phonenumbers knows the ranges of its release, and what people mistype lies in none.
    """
    digits = compiled(r"(?<![\w+])\+[1-9](?:[ ().\-/]{0,2}\d){7,14}(?!\d)")
    return PatternDetector(Kind.PHONE, ((digits, 0.5),))


def date_of_birth() -> PatternDetector:
    """Return what finds a date behind words such as "born" or "DOB", or before them."""
    return PatternDetector(
        Kind.DATE_OF_BIRTH,
        windows=near(compiled(rf"(?<!\w){_BIRTH}", _FLAGS), 96, 96),
        expressions=(
            (compiled(rf"(?<!\w){_BIRTH}{_UP_TO}(?<![\w/.-])(?P<value>{DATE})", _FLAGS), 0.9),
            (
                compiled(
                    rf"(?<![\w/.-])(?P<value>{DATE})[\s,(\[=:-]{{0,3}}"
                    rf"(?:(?:is|was|as|my|the|when|i|he|she|they)\s+){{0,5}}{_BIRTH}(?!\w)",
                    _FLAGS,
                ),
                0.8,
            ),
        ),
    )


def medical_record() -> PatternDetector:
    """Return what finds a number behind words such as "MRN" or "patient ID"."""
    return PatternDetector(
        Kind.MEDICAL_RECORD,
        (
            (
                compiled(
                    rf"(?<!\w){_MEDICAL_LABEL}(?:\W{{0,4}}|\W+(?:is|was)\W+)"
                    r"(?P<value>[A-Z]{0,3}-?\d(?:[\d-]{3,13})\d)(?!\w)",
                    _FLAGS,
                ),
                0.9,
            ),
        ),
    )
