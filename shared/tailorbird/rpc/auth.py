"""Who calls: every handler asks `current_caller()` and checks each name against it.

A tokens file is JSON, and holds digests only:

    {"tokens": [{"sha256": "<hex digest>", "subject": "billing", "tenants": ["acme"]}]}

`tenants` is a list, or "*" for an operator who acts for every tenant. Callers send the token as the
metadata `authorization: Bearer <token>`. `tailorbird tokens add` writes the file; services read it
again when it changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tailorbird.errors import InvalidArgument, NotFound, Unauthenticated
from tailorbird.manifest import Sha256
from tailorbird.names import check_id
from tailorbird.reread import read_file


class _Named(Protocol):
    @property
    def tenant(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and for which tenants; `tenants` None means every tenant."""

    subject: str
    tenants: frozenset[str] | None

    def check(self, name: _Named) -> None:
        """Raise NotFound, with no hint that it exists, if `name` is another tenant's."""
        if self.tenants is not None and name.tenant not in self.tenants:
            raise NotFound(name)


LOCAL_CALLER = Caller(subject="local", tenants=None)
"""The caller of a service without a verifier, which serves loopback only."""

_caller: ContextVar[Caller] = ContextVar("tailorbird_caller")


def current_caller() -> Caller:
    """Return the caller of the call being handled."""
    return _caller.get()


def set_current_caller(caller: Caller) -> None:
    """Set the caller for the handler that runs in this context."""
    _caller.set(caller)


class _Token(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    subject: Annotated[str, Field(min_length=1, max_length=128)]
    tenants: list[str] | Literal["*"]


class _TokensFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: list[_Token]


class TokenVerifier:
    """Finds the caller by a bearer token's digest."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._callers = dict(callers)

    @classmethod
    def from_file(cls, path: Path) -> TokenVerifier:
        """Read a tokens file; InvalidArgument says what is wrong in it."""
        verifier = cls({})
        verifier.read(path)
        return verifier

    def read(self, path: Path) -> None:
        """Know the callers of a tokens file from now on, and no others; errors as `from_file`."""
        # Put in place whole: a call looks at the one mapping or at the other.
        self._callers = _callers_in(path)

    @property
    def known(self) -> int:
        """How many tokens are known."""
        return len(self._callers)

    def verify(self, metadata: Mapping[str, str | bytes]) -> Caller:
        """Return the caller that `metadata` proves; Unauthenticated otherwise."""
        value = metadata.get("authorization", "")
        scheme, _, token = (value if isinstance(value, str) else value.decode()).partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("the metadata 'authorization: Bearer <token>' is missing")
        # Looked up by digest, so the time it takes tells nothing of the tokens.
        caller = self._callers.get(hashlib.sha256(token.encode()).hexdigest())
        if caller is None:
            raise Unauthenticated("the token is not known")
        return caller


def _callers_in(path: Path) -> dict[str, Caller]:
    try:
        content = _TokensFile.model_validate_json(read_file("tokens_file", path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InvalidArgument("tokens_file", f"{path}: {where}: {first['msg']}") from error
    callers = {}
    for token in content.tokens:
        tenants = None if token.tenants == "*" else frozenset(token.tenants)
        for tenant in tenants or ():
            check_id("tokens_file", tenant)
        callers[token.sha256] = Caller(token.subject, tenants)
    return callers
