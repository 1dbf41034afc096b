"""NOTES.txt: what to do next, with the names of this release."""

from __future__ import annotations

import re

from tests.chart.helm import NAMESPACE, Rendered, merged, profile_values, render

_NAMED = re.compile(r"\b(svc|service|deployment|deploy|statefulset|pod|pvc)/([a-z0-9-]+)")
_KINDS = {
    "svc": "Service",
    "service": "Service",
    "deploy": "Deployment",
    "deployment": "Deployment",
    "statefulset": "StatefulSet",
    "pod": "Pod",
    "pvc": "PersistentVolumeClaim",
}


def test_what_the_notes_name_is_in_the_release(rendered: Rendered) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in rendered}
    named = {(_KINDS[kind], name) for kind, name in _NAMED.findall(rendered.notes)}

    assert named
    assert named <= there


def test_the_notes_hold_no_template_and_no_placeholder(rendered: Rendered) -> None:
    assert "{{" not in rendered.notes
    assert "<no value>" not in rendered.notes
    assert "%!" not in rendered.notes
    assert NAMESPACE in rendered.notes


def test_the_notes_lead_to_both_services(rendered: Rendered) -> None:
    ports = {
        str(port["port"])
        for each in rendered.of_kind("Service")
        for port in each["spec"]["ports"]
        if port["name"] == "grpc" and "picker" not in each["metadata"]["name"]
    }

    assert all(re.search(rf"\b{port}\b", rendered.notes) for port in ports)


def test_the_notes_follow_the_release_s_name() -> None:
    notes = render(
        merged(profile_values("cpu"), {"fullnameOverride": "birds"}), namespace="aviary"
    ).notes

    assert "birds-serving" in notes
    assert "aviary" in notes
    assert "tailorbird-serving" not in notes
