"""The clock, compared with that of the object store, which stamps its answers."""

from __future__ import annotations

import email.utils
import http.client
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from tailorbird.doctor.finding import Finding, failed, ok, warning

_SECONDS = 5.0
_NOTICED, _REFUSED = 30.0, 900.0
"""S3 refuses what was signed a quarter of an hour off; leases and certificates bear less."""


def store_clock(url: str, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Tell how far this clock is from the store's; of a folder, that it is this machine's own."""
    endpoint = _endpoint(url, environ)
    if not endpoint:
        yield ok("clock", "the store is on this machine: there is no other to compare with")
        return
    parts = urlsplit(endpoint)
    if parts.hostname is None:
        yield warning("clock", f"not compared: {endpoint} is no URL", "set AWS_ENDPOINT_URL right")
        return
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_SECONDS)
    try:
        began = time.time()
        connection.request("HEAD", "/")
        # Whatever it answers to who does not sign: the head has the time.
        stamp = connection.getresponse().headers.get("Date", "")
        middle = (began + time.time()) / 2
        theirs = email.utils.parsedate_to_datetime(stamp).timestamp()
    except (OSError, http.client.HTTPException, ssl.SSLError, ValueError, TypeError) as error:
        told = type(error).__name__
        yield ok("clock", f"not compared: {parts.hostname} says none ({told})")
        return
    finally:
        connection.close()
    yield told_skew(middle - theirs, f"the object store's ({parts.hostname})")


def told_skew(skew: float, whose: str) -> Finding:
    """Tell how far this clock is before (positive, in seconds) another."""
    off = abs(skew)
    # A stamp is in whole seconds.
    if off <= _NOTICED:
        return ok("clock", f"within {max(1.0, off):.0f} s of {whose}")
    told = f"{off:.0f} s {'before' if skew > 0 else 'behind'} {whose}"
    advice = "set this machine's clock, and keep it by NTP (timedatectl, chronyc tracking)"
    return (failed if off >= _REFUSED else warning)("clock", told, advice)


def _endpoint(url: str, environ: Mapping[str, str]) -> str:
    match urlsplit(url).scheme:
        case "s3":
            region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            own = environ.get("AWS_ENDPOINT_URL") or environ.get("AWS_ENDPOINT")
            return own or f"https://s3.{region}.amazonaws.com"
        case "gs":
            return "https://storage.googleapis.com"
        case "az":
            account = environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
            return f"https://{account}.blob.core.windows.net" if account else ""
        case _:
            return ""
