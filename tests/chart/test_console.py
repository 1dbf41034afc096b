"""The web console in the chart: the command takes what it is started with, and who may reach it."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from tailorbird.cli.app import app
from tailorbird.console.config import Config
from tests.chart.conftest import rendered_profile
from tests.chart.custom_kinds import custom_objects, custom_problems
from tests.chart.helm import (
    Object,
    Rendered,
    Values,
    merged,
    nested,
    profile_values,
    refusal,
    render,
)
from tests.chart.pods import Pod, selects, services

PROFILES = ["everything", "split"]


def console(rendered: Rendered) -> Pod:
    return services(rendered)["console"]


def variables(pod: Pod) -> dict[str, Any]:
    return {each["name"]: each["value"] for each in pod.service["env"]}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_command_takes_what_it_is_started_with(
    profile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    rendered = rendered_profile(profile)
    container = console(rendered).service
    given = variables(console(rendered))
    authority = tmp_path / "ca.crt"
    authority.write_bytes(b"an authority")
    if "TAILORBIRD_ROOT_CERTIFICATES" in given:
        given["TAILORBIRD_ROOT_CERTIFICATES"] = str(authority)
    served: list[tuple[Config, str, int]] = []
    monkeypatch.setattr(
        "tailorbird.console.serve.serve",
        lambda config, host, port, *_: served.append((config, host, port)),
    )

    assert container["command"][-1] == "console"
    ran = CliRunner().invoke(app, ["console", *container["args"]], env=given)

    assert ran.exception is None, ran.output
    ((config, host, port),) = served
    assert host == profile_values(profile).get("bindAddress", "0.0.0.0")
    assert port == container["ports"][0]["containerPort"]
    assert config.encrypted
    assert config.exposed
    assert "console.example.com" in config.hosts
    # By TLS that it can check, or by a mesh.
    assert (config.root_certificates is None) == config.plaintext
    for address, name in ((config.trainer, "-trainer"), (config.serving, "-serving")):
        service = rendered.one("Service", name)
        at = f"{service['metadata']['name']}.tailorbird.svc:{service['spec']['ports'][0]['port']}"
        assert address == at


def test_the_authority_is_the_certificates_or_the_one_that_is_named() -> None:
    assert _authority(rendered_profile("split")) == ("tailorbird-tls", "ca.crt")
    own = nested("console.authoritySecret", {"name": "roots", "key": "root.pem"})
    assert _authority(render(merged(profile_values("split"), own))) == ("roots", "root.pem")
    public = render(merged(profile_values("split"), nested("tls.authorityKey", "")))
    assert "authority" not in console(public).volumes
    assert "TAILORBIRD_ROOT_CERTIFICATES" not in variables(console(public))
    assert "TAILORBIRD_PLAINTEXT" not in variables(console(public))


def _authority(rendered: Rendered) -> tuple[str, str]:
    secret = console(rendered).volumes["authority"]["secret"]
    (item,) = secret["items"]
    (mount,) = (m for m in console(rendered).service["volumeMounts"] if m["name"] == "authority")
    named = variables(console(rendered))["TAILORBIRD_ROOT_CERTIFICATES"]
    assert f"{mount['mountPath']}/{item['path']}" == named
    return secret["secretName"], item["key"]


@pytest.mark.parametrize("profile", PROFILES)
def test_it_reaches_both_services_and_nobody_but_the_gateway_reaches_it(profile: str) -> None:
    rendered = rendered_profile(profile)
    there = services(rendered)
    own = rendered.one("NetworkPolicy", "-console")["spec"]

    assert selects(own["podSelector"], there["console"].labels)
    assert (
        own["ingress"][0]["from"] == profile_values(profile)["networkPolicy"]["ingress"]["console"]
    )
    assert [each["port"] for each in own["ingress"][0]["ports"]] == [8080]
    reached = {
        (component, port["port"])
        for rule in own["egress"]
        for peer in rule["to"]
        for component, pod in there.items()
        if "podSelector" in peer
        and "namespaceSelector" not in peer
        and selects(peer["podSelector"], pod.labels)
        for port in rule["ports"]
    }
    trainer = "trainer-api" if profile == "split" else "trainer"
    called = {name: pod for name, pod in there.items() if name in (trainer, "serving")}
    assert reached == {(name, _grpc(pod)) for name, pod in called.items()}


def test_the_services_let_it_in_where_they_let_in_few() -> None:
    few = nested("networkPolicy.ingress.clients", [{"ipBlock": {"cidr": "10.9.0.0/16"}}])
    for profile in PROFILES:
        rendered = render(merged(profile_values(profile), few))
        labels = console(rendered).labels
        names = ("-trainer-api" if profile == "split" else "-trainer", "-serving")
        for name in names:
            rule = rendered.one("NetworkPolicy", name)["spec"]["ingress"][0]
            assert any(
                selects(p.get("podSelector", {"matchLabels": {"": ""}}), labels)
                for p in rule["from"]
            )
    without = render(merged(profile_values("split"), few, nested("console.enabled", False)))
    assert "console" not in str(without.of_kind("NetworkPolicy"))


def test_its_route_leads_to_it_by_its_names() -> None:
    rendered = rendered_profile("everything")
    (route,) = (
        each
        for each in custom_objects(rendered)
        if each["kind"] == "HTTPRoute" and each["metadata"]["name"].endswith("-console")
    )
    (rule,) = route["spec"]["rules"]
    service = rendered.one("Service", "-console")

    assert custom_problems(route) == []
    assert route["spec"]["hostnames"] == ["console.example.com"]
    assert rule["backendRefs"] == [
        {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}
    ]
    assert selects(service["spec"]["selector"], console(rendered).labels)
    assert rule["timeouts"] == {"request": "0s"}
    assert "HTTPRoute" not in {each["kind"] for each in custom_objects(rendered_profile("split"))}


def test_there_is_none_unless_it_is_asked_for() -> None:
    found: list[Object] = list(rendered_profile("replicated"))
    assert "console" not in {_component(each) for each in found}


REFUSED: list[tuple[str, Values, str]] = [
    ("console.hosts", nested("console.hosts", []), "is empty"),
    ("console.hosts.0", nested("console.hosts", ["*.example.com"]), "pattern"),
    ("networkPolicy.ingress.console", nested("networkPolicy.ingress.console", []), "names no peer"),
    ("console.route.enabled", nested("console.enabled", False), "does not make"),
    ("console.route.parentRefs", nested("console.route.parentRefs", []), "names no Gateway"),
    ("console.replicas", nested("console.replicas", 0), "minimum"),
]


@pytest.mark.parametrize(("key", "change", "says"), REFUSED, ids=[each[0] for each in REFUSED])
def test_what_does_not_work_is_refused(key: str, change: Values, says: str) -> None:
    said = refusal(merged(profile_values("everything"), change))
    assert key.replace(".", "/") in said or key in said
    assert says in said


def _component(document: Object) -> str:
    return str((document["metadata"].get("labels") or {}).get("app.kubernetes.io/component", ""))


def _grpc(pod: Pod) -> int:
    (port,) = (each["containerPort"] for each in pod.service["ports"] if each["name"] == "grpc")
    return int(port)
