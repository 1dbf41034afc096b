"""What a service's /metrics says, read without a metrics library: the base install has none."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tailorbird.address import authority, reachable
from tailorbird.errors import InvalidArgument, Unavailable

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Reading:
    """A service's metrics at one moment."""

    at: float
    """time.monotonic"""
    samples: Mapping[str, list[tuple[dict[str, str], float]]]

    @property
    def is_serving(self) -> bool:
        """Whether serving told them, and not the trainer."""
        return any(name.startswith("tailorbird_serving_") for name in self.samples)

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum over the series with these labels; None if there is no such metric."""
        found = self.samples.get(name)
        if found is None:
            return None
        return sum(value for own, value in found if labels.items() <= own.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a metric's series that are not 0, by one of their labels."""
        return {own[label]: value for own, value in self.samples.get(name, []) if value}

    def rate(self, before: Reading | None, name: str, **labels: str) -> float | None:
        """Return by how much a counter has grown a second; None where that cannot be told.

        A counter that fell began anew: its service was started again.
        """
        if before is None:
            return None
        now, then = self.total(name, **labels), before.total(name, **labels)
        if now is None or then is None or self.at <= before.at or now < then:
            return None
        return (now - then) / (self.at - before.at)


def place(address: str) -> tuple[str, int]:
    """Return the host and the port of "host:port"; InvalidArgument for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument("--metrics", f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def scrape(address: str, timeout: float = 5.0) -> Reading:
    """Read the metrics of the service whose plain HTTP port is at an address.

    Raises InvalidArgument for what is no address, and Unavailable where no metrics are.
    """
    host, port = place(address)
    where = f"http://{authority(host, port)}/metrics"
    connection = http.client.HTTPConnection(reachable(host), port, timeout=timeout)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{where} does not answer: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise Unavailable(f"{where} answers {answer.status}")
    return Reading(time.monotonic(), parsed(body.decode(errors="replace")))


def parsed(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the samples of Prometheus' text format by name; what is no sample is passed over."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        found.setdefault(name, []).append((dict(_LABEL.findall(labels or "")), number))
    return found
