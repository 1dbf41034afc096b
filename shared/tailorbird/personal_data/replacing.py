"""The texts of one record, with what was found in them replaced."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable
from random import Random

from tailorbird.personal_data.birth_dates import birth_date, is_birth_date
from tailorbird.personal_data.findings import Finding, LabelledText
from tailorbird.personal_data.folding import folded
from tailorbird.personal_data.kinds import Kind
from tailorbird.personal_data.modes import Mode
from tailorbird.personal_data.scanner import Scanner
from tailorbird.personal_data.stand_ins import stand_in
from tailorbird.pieces import drained

_DRAWS = 32
_SIGNS_COUNT = frozenset({Kind.EMAIL, Kind.IP_ADDRESS})


class Replacer:
    """Replaces what `scanner` finds, as `mode` says.

    The same `key` and record give the same stand-ins. The key is no secret: stand-ins are drawn by
    it, and not made from what they stand for.
    """

    def __init__(self, scanner: Scanner, mode: Mode, key: str) -> None:
        self._scanner = scanner
        self._mode = mode
        self._key = key

    def replace(
        self, texts: Iterable[LabelledText], record: int = 0
    ) -> tuple[list[str], Counter[str]]:
        """Return the texts of record number `record` as `mode` leaves them, and findings by kind.

        In one record the same value, however it is written, has the same stand-in, and another has
        another. Modes that rewrite nothing (scan, refuse) return the texts as they are. Raises what
        `Scanner.find` raises.
        """
        return drained(self.replacing(texts, record))

    def replacing(
        self, texts: Iterable[LabelledText], record: int = 0
    ) -> Generator[None, None, tuple[list[str], Counter[str]]]:
        """Return what `replace` does; in pieces of a bounded time."""
        counts: Counter[str] = Counter()
        stand_ins = _StandIns(f"{self._key}\0{record}")
        replaced = []
        for each in texts:
            findings = yield from self._scanner.search(each.text, each.label)
            counts.update(finding.kind for finding in findings)
            replaced.append((yield from self._rewritten(each.text, findings, stand_ins)))
        return replaced, counts

    def _rewritten(
        self, text: str, findings: list[Finding], stand_ins: _StandIns
    ) -> Generator[None, None, str]:
        if not findings or not self._mode.rewrites:
            return text
        parts, end = [], 0
        for finding in findings:
            parts.append(text[end : finding.start])
            value = text[finding.start : finding.end]
            parts.append(
                f"<{finding.kind.upper()}>"
                if self._mode is Mode.REDACT
                else stand_ins.of(finding.kind, value)
            )
            end = finding.end
            yield
        return "".join([*parts, text[end:]])


class _StandIns:
    """The stand-ins of one record."""

    def __init__(self, seed: str) -> None:
        digest = hashlib.sha256(seed.encode(errors="surrogatepass")).digest()
        self._random = Random(digest)  # noqa: S311
        self._drawn: dict[tuple[str, str], tuple[int, str]] = {}
        self._taken: set[str] = set()
        self._spent: set[str] = set()
        """Kinds of which there are more values than stand-ins."""

    def of(self, kind: str, value: str) -> str:
        plain = folded(value).text
        dated = kind == Kind.DATE_OF_BIRTH and is_birth_date(plain)
        who = (kind, birth_date(plain) if dated else _bare(kind, plain))
        if who not in self._drawn:
            self._drawn[who] = self._draw(kind, plain)
        seed, suffix = self._drawn[who]
        # The same draw for another way to write the value: (415) 555-0100 and 415-555-0100.
        return stand_in(kind, plain, Random(seed)) + suffix  # noqa: S311

    def _draw(self, kind: str, value: str) -> tuple[int, str]:
        suffix = ""
        for _ in range(1 if kind in self._spent else _DRAWS):
            seed = self._random.getrandbits(64)
            bare = _bare(kind, stand_in(kind, value, Random(seed)))  # noqa: S311
            if bare not in self._taken and bare != _bare(kind, value):
                break
        else:
            self._spent.add(kind)
            suffix = f"-{len(self._taken)}"
        self._taken.add(bare + suffix)
        return seed, suffix


def _bare(kind: str, value: str) -> str:
    """Return what is equal for two ways to write one value."""
    if kind in _SIGNS_COUNT:
        return value.lower()
    return "".join(each for each in value.lower() if each.isalnum())
