"""Network addresses: which of them never leave this machine."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether `host`, a name or an IP address, can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local_target(target: str) -> bool:
    """Tell whether a gRPC target (`host:port`, `unix:path`) can only be this machine."""
    if target.startswith("unix:"):
        return True
    return is_loopback(target.rpartition(":")[0] or target)


def authority(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """Return where this machine reaches what is bound to `host`: every address is also loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host)  # noqa: S104
