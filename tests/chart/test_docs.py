"""What docs/deploy.md and the chart's README say of the chart: values render, keys exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, Object, Rendered, default_values, render
from tests.chart.pods import both, pods

ROOT = Path(__file__).parents[2]
RELEASE = "tailorbird"
"""The name that the documents install, in a namespace of the same name."""

DOCUMENTS = {
    "docs/deploy.md": (ROOT / "docs" / "deploy.md").read_text(),
    "chart": (CHART / "README.md").read_text(),
}
WALKS = ("docs/deploy.md",)

# In backticks, and no key: what values, objects, files and commands are called.
NO_KEYS = {
    "ca.crt",
    "devicePlugin",
    "dmesg",
    "mps",
    "none",
    "secretName",
    "hostname",
    "tailorbird",
    "trainer.db",
    "values.schema.json",
    "values.yaml",
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"([a-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)*)(?=$|: )")


def fences(document: str, language: str) -> list[str]:
    found = _FENCE.findall(DOCUMENTS[document])
    return [text for spoken, text in found if spoken == language]


def values_of(document: str) -> list[Object]:
    """Return the files of values in it; other YAML is an object, which has a kind."""
    blocks = [yaml.safe_load(text) for text in fences(document, "yaml")]
    return [block for block in blocks if "kind" not in block]


def walk(document: str) -> Rendered:
    (values,) = values_of(document)
    return render(values, release=RELEASE, namespace=RELEASE)


def keys(values: Any, path: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{path}{key}.")


def named_keys(text: str) -> set[str]:
    """Return what stands in backticks and could be a key of values.yaml, or several."""
    spans = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    parts = [part.strip() for span in spans for part in span.split(", ")]
    return {match[1] for part in parts if (match := _KEY.match(part))}


@pytest.mark.parametrize("document", WALKS)
def test_the_values_shown_render(document: str) -> None:
    rendered = walk(document)

    assert {"trainer", "serving"} == both(rendered).keys()
    assert any(not pod.is_service for pod in pods(rendered)), "helm test has nothing to run"


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_every_key_named_exists(document: str) -> None:
    known = set(keys(default_values()))
    ends = {path[start:] for path in known for start in _starts(path)}

    assert named_keys(DOCUMENTS[document]) - ends - NO_KEYS == set()


def _starts(path: str) -> Iterator[int]:
    yield 0
    yield from (at + 1 for at, letter in enumerate(path) if letter == ".")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("set `serving.gpuCount: 2`", {"serving.gpuCount"}),
        ("`maxSurge: 1, maxUnavailabel: 0`", {"maxSurge", "maxUnavailabel"}),
        ("`trainer.storag.size`", {"trainer.storag.size"}),
        ("`helm test`, `AWS_REGION`, `s3://bucket`, `file:///store`", set()),
    ],
)
def test_a_key_is_found_in_prose(text: str, found: set[str]) -> None:
    assert named_keys(text) == found


@pytest.mark.parametrize("document", WALKS)
def test_the_secret_made_is_the_one_that_pods_mount(document: str) -> None:
    """Each key of a Secret that the release asks for is a file that the walk puts into it."""
    commands = "".join(fences(document, "console"))
    (made,) = re.findall(r"create secret generic (\S+) \\\n(.*)--from-file=ca.crt", commands)
    given = set(re.findall(r"--from-file=([^=\s]+)", made[1])) | {"ca.crt"}
    for pod in pods(walk(document)):
        for volume in pod.volumes.values():
            secret = volume.get("secret")
            if secret:
                assert secret["secretName"] == made[0]
                assert {item["key"] for item in secret["items"]} <= given
        for variable in pod.service.get("env") or []:
            reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if reference:
                assert reference["name"] == made[0]
                assert reference["key"] in given


@pytest.mark.parametrize("document", WALKS)
def test_the_certificate_names_every_service(document: str) -> None:
    commands = "".join(fences(document, "console"))
    (names,) = re.findall(r"subjectAltName=(\S+)", commands)
    services = walk(document).of_kind("Service")
    dialled = {f"DNS:{each['metadata']['name']}.{RELEASE}.svc" for each in services}

    assert {*dialled, "DNS:localhost"} - set(names.split(",")) <= {
        # Nobody balances over one trainer.
        f"DNS:{RELEASE}-trainer-headless.{RELEASE}.svc"
    }


@pytest.mark.parametrize("document", WALKS)
def test_the_ports_forwarded_are_the_services(document: str) -> None:
    commands = "".join(fences(document, "console"))
    ports = {
        each["metadata"]["name"]: each["spec"]["ports"][0]["port"]
        for each in walk(document).of_kind("Service")
    }
    forwarded = re.findall(r"port-forward svc/(\S+) (\d+)", commands)

    assert len(forwarded) == 2
    assert all(ports[name] == int(port) for name, port in forwarded)
