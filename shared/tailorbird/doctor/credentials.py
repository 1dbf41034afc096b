"""The tokens file, and the certificate with its key, read by the code that serves by them."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from tailorbird.doctor.finding import Finding, failed, ok, warning
from tailorbird.errors import InvalidArgument
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.tls import ServerCertificate

_DAY = 86400.0
_SOON = 14 * _DAY


def tokens_file(path: Path | None) -> Iterator[Finding]:
    """Tell whether the file can be read, knows anybody, and can be written by its owner alone."""
    subject = "tokens file"
    if path is None:
        yield ok(subject, "none: every caller on this machine acts for every tenant")
        return
    try:
        known = TokenVerifier.from_file(path).known
    except InvalidArgument as error:
        advice = (
            "mend it, or make it anew: tailorbird tokens add --file FILE --subject … --tenant …"
        )
        yield failed(subject, error.description, advice)
        return
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        told = f"{path} can be written by others, who can let anybody in"
        yield warning(subject, told, f"chmod 600 {path}")
    elif not known:
        advice = f"tailorbird tokens add --file {path} --subject … --tenant …"
        yield warning(subject, f"{path} knows no token: every call is refused", advice)
    else:
        yield ok(subject, f"{path}: {known} tokens")


def certificate(path: Path | None, key: Path | None) -> Iterator[Finding]:
    """Tell whether the pair can be served with, for which names, and how long yet."""
    subject = "TLS certificate"
    if path is None or key is None:
        yield ok(subject, "none: the services speak plaintext")
        return
    pair = ServerCertificate(path, key, CollectorRegistry())
    try:
        pair.read()
    except InvalidArgument as error:
        advice = (
            f"have a new one made, and put it in {path}"
            if "expired" in error.description
            else f"put the certificate in {path} (leaf first) and its own key, without a password,"
            f" in {key}"
        )
        yield failed(subject, error.description, advice)
        return
    left = pair.expiry - time.time()
    names = ", ".join(pair.names) or "no name"
    told = f"{path} for {names}" + (f", for {left / _DAY:.0f} more days" if pair.expiry else "")
    if not pair.names:
        advice = "have one made with subject alternative names: callers look at nothing else"
        yield failed(subject, told, advice)
    elif 0 < left < _SOON:
        advice = "have it renewed; the services take the new one without a restart"
        yield warning(subject, told, advice)
    else:
        yield ok(subject, told)
