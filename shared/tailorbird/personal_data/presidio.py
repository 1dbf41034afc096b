"""Presidio's pattern recognisers as detectors; the one file that imports Presidio.

Of a recogniser its expressions, its checksum and its context words are taken; matching is ours
(`patterns`), because Presidio's goes on for a minute, and then on without what it did not search.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tailorbird.personal_data.context import ContextWords
from tailorbird.personal_data.findings import Finding
from tailorbird.personal_data.kinds import Kind
from tailorbird.personal_data.own_patterns import is_date
from tailorbird.personal_data.patterns import (
    PatternDetector,
    Verdict,
    Window,
    compiled,
    near,
    whole_match,
    whole_text,
)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Let imports of these modules fail meanwhile, unless they are there already.

    Presidio brings spaCy, which imports torch wherever it is installed: 400 MB and four seconds for
    patterns that need neither.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _without("torch", "transformers"):
    import tldextract
    from presidio_analyzer import PatternRecognizer, predefined_recognizers

# It logs texts that it could not check.
logging.getLogger("presidio-analyzer").disabled = True

# The list of top-level domains that comes with the package: it fetches and stores none.
_domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

# RFC 5321: a local part and a domain are at most that long.
_email_windows = near(compiled("@"), 65, 256)


@dataclass(frozen=True)
class _Rule:
    recogniser: str
    needs_context: bool = False
    context: tuple[str, ...] = ()
    least: float = 0.05
    """Expressions of a lower score are left out."""


_RULES = {
    Kind.CREDIT_CARD: _Rule("CreditCardRecognizer"),
    Kind.IP_ADDRESS: _Rule("IpRecognizer"),
    Kind.US_SSN: _Rule("UsSsnRecognizer", context=("ss#", "social security number", "ss no")),
    Kind.US_ITIN: _Rule("UsItinRecognizer"),
    Kind.US_MBI: _Rule("UsMbiRecognizer"),
    Kind.UK_NINO: _Rule("UkNinoRecognizer", context=("ni no", "insurance number")),
    Kind.UK_NHS: _Rule("NhsRecognizer", needs_context=True),
    Kind.AU_MEDICARE: _Rule("AuMedicareRecognizer", needs_context=True, least=0.01),
    Kind.AU_TFN: _Rule("AuTfnRecognizer", needs_context=True, least=0.01),
    Kind.CA_SIN: _Rule("CaSinRecognizer", needs_context=True),
    Kind.DE_SOCIAL_SECURITY: _Rule("DeSocialSecurityRecognizer"),
    Kind.DE_TAX_ID: _Rule("DeTaxIdRecognizer", needs_context=True),
    Kind.ES_NIE: _Rule("EsNieRecognizer"),
    Kind.ES_NIF: _Rule("EsNifRecognizer"),
    Kind.FI_PERSONAL_IDENTITY_CODE: _Rule("FiPersonalIdentityCodeRecognizer", least=0.5),
    Kind.IN_AADHAAR: _Rule("InAadhaarRecognizer", needs_context=True, least=0.01),
    Kind.IN_PAN: _Rule("InPanRecognizer"),
    Kind.IT_FISCAL_CODE: _Rule("ItFiscalCodeRecognizer"),
    Kind.KR_RRN: _Rule("KrRrnRecognizer", needs_context=True),
    Kind.PL_PESEL: _Rule("PlPeselRecognizer", needs_context=True),
    Kind.SE_PERSONNUMMER: _Rule("SePersonnummerRecognizer", needs_context=True, least=0.5),
    Kind.SG_NRIC_FIN: _Rule("SgFinRecognizer", least=0.5),
    Kind.TH_TNIN: _Rule("ThTninRecognizer", needs_context=True),
    Kind.TR_NATIONAL_ID: _Rule("TrNationalIdRecognizer", needs_context=True),
    Kind.ZA_ID_NUMBER: _Rule("ZaIdNumberRecognizer", needs_context=True),
}


def presidio_detectors() -> Iterator[PatternDetector | PhoneDetector]:
    """Yield a detector for each kind that one of Presidio's recognisers finds."""
    for kind, rule in _RULES.items():
        recogniser = getattr(predefined_recognizers, rule.recogniser)()
        yield _detector(kind, rule, recogniser, _verdict(recogniser))
    yield _detector(
        Kind.EMAIL,
        _Rule("EmailRecognizer"),
        predefined_recognizers.EmailRecognizer(),
        _has_known_domain,
        windows=_email_windows,
    )
    yield _detector(
        Kind.IBAN,
        _Rule("IbanRecognizer"),
        recogniser := predefined_recognizers.IbanRecognizer(),
        _verdict(recogniser),
        spans=_shorter_and_shorter,
    )
    yield PhoneDetector()


def _detector(
    kind: Kind,
    rule: _Rule,
    recogniser: PatternRecognizer,
    verdict: Verdict,
    spans: Callable[[Any], Iterable[Window]] = whole_match,
    windows: Callable[[str], Iterable[Window]] = whole_text,
) -> PatternDetector:
    return PatternDetector(
        kind,
        tuple(
            (compiled(pattern.regex, recogniser.global_regex_flags), pattern.score)
            for pattern in recogniser.patterns
            if pattern.score >= rule.least
        ),
        ContextWords([*recogniser.context, *rule.context]),
        rule.needs_context,
        verdict,
        spans,
        windows=windows,
    )


def _verdict(recogniser: PatternRecognizer) -> Verdict:
    def verdict(text: str) -> bool | None:
        if recogniser.invalidate_result(text):
            return False
        found: bool | None = recogniser.validate_result(text)
        return found

    return verdict


def _has_known_domain(address: str) -> bool:
    # Presidio's own check reads the list that it would fetch.
    return bool(_domains(address.rpartition("@")[2]).fqdn)


def _shorter_and_shorter(match: Any) -> Iterator[Window]:
    # An IBAN's groups are followed by words that look like one more: the checksum tells.
    for group in reversed(range(1, match.re.groups + 1)):
        yield match.start(), match.end(group)


class PhoneDetector:
    """Finds telephone numbers with Presidio's recogniser, which reads them as phonenumbers does.

    A number without a sign between its digits needs a word such as "phone" beside it.
    """

    kind = Kind.PHONE
    whole = False
    _PLAIN = 0.05
    _LEAST_DIGITS = 7
    # Digits in groups, as many as a number has; the recogniser is slow, and not asked elsewhere.
    _windows = staticmethod(near(compiled(r"[+(]{0,2}\d(?:[^\w\n]{0,3}\d){6,16}"), 8, 8))
    _WORDS = (
        "phone", "telephone", "tel", "telefon", "téléphone", "teléfono", "mobile", "cell",
        "cellphone", "call", "callback", "fax", "ring", "dial", "text", "sms", "whatsapp", "reach",
        "reached", "contact", "landline", "handy", "hotline",
    )  # fmt: skip

    def __init__(self) -> None:
        self._recogniser = predefined_recognizers.PhoneRecognizer()
        self._context = ContextWords(self._WORDS)

    def find(self, text: str, seconds: float) -> Iterator[Finding]:
        """Yield what stands in `text`. Its time is bounded by the length alone."""
        del seconds
        for start, end in self._windows(text):
            for result in self._recogniser.analyze(text[start:end], []):
                begin, behind = start + result.start, start + result.end
                number = text[begin:behind].strip()
                # Of "49 - 168.93" it may take the amount alone for one. It knows some ways to
                # write a date, but not 05-05-2019.
                digits = sum(map(str.isdecimal, number))
                if digits >= self._LEAST_DIGITS and not is_date(number):
                    yield self._judged(text, begin, behind, result.score)

    def _judged(self, text: str, start: int, end: int, score: float) -> Finding:
        # The recogniser takes white space before a parenthesis for a part of the number.
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if text[start:end].isdecimal():
            score = self._PLAIN
        if self._context.beside(text, start, end):
            score = ContextWords.raised(score)
        return Finding(self.kind, start, end, score)
