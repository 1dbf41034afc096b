"""Traffic by adapter and scaling: what is rendered for other projects' controllers, and refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

from tailorbird.adapters.v1 import adapter_service_pb2
from tailorbird.serving.v1 import inference_service_pb2
from tailorbird.tuning.v1 import tuning_service_pb2
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
from tests.chart.pods import Pod, pods, selects

GRPC_ROUTE: Values = {
    "traffic": {
        "route": {"enabled": True, "kind": "GRPCRoute", "parentRefs": [{"name": "public"}]},
        "inferencePool": {"enabled": False},
        "picker": {"create": False},
    }
}
OPENAI_POOL = nested("traffic.inferencePool.api", "openai")
# Mappings whose keys are the user's.
_FREE = {"labels", "annotations", "matchLabels"}


def everything(*changes: Values) -> Rendered:
    return render(merged(profile_values("everything"), *changes))


def only(rendered: Rendered, kind: str) -> Object:
    """Return the one object of a kind; the console's route is no route of calls."""
    found = [each for each in custom_objects(rendered) if each["kind"] == kind]
    (one,) = (each for each in found if not str(each.get("metadata")).count("'console'"))
    return one


def running(rendered: Rendered) -> dict[str, Pod]:
    """Return the pods that run until they are stopped, by component."""
    return {pod.component: pod for pod in pods(rendered) if pod.is_service}


def test_custom_objects_are_what_their_projects_say(rendered: Rendered) -> None:
    assert [
        each for document in custom_objects(rendered) for each in custom_problems(document)
    ] == []


def test_the_profiles_have_every_custom_kind() -> None:
    kinds = {each["kind"] for each in custom_objects(rendered_profile("everything"))}
    assert kinds == {
        "EndpointPickerConfig",
        "HTTPRoute",
        "InferencePool",
        "PodMonitor",
        "PrometheusRule",
        "ScaledObject",
    }
    assert custom_problems(only(everything(GRPC_ROUTE), "GRPCRoute")) == []
    assert custom_objects(rendered_profile("cpu")) == []


def test_a_custom_object_with_any_key_misspelt_is_found() -> None:
    route = only(everything(GRPC_ROUTE), "GRPCRoute")
    for document in [*custom_objects(rendered_profile("everything")), route]:
        for path in _keys(document):
            misspelt = copy.deepcopy(document)
            holder: Any = misspelt
            for step in path[:-1]:
                holder = holder[step]
            holder[f"{path[-1]}x"] = holder.pop(path[-1])
            if path in (("apiVersion",), ("kind",)):
                continue
            assert custom_problems(misspelt), f"{document['kind']}: {path}"
    assert custom_problems({"apiVersion": "v1", "kind": "Servise"}) == [
        "Servise of v1: there is no servise.json"
    ]


def test_the_pool_is_servings_pods_on_their_grpc_port() -> None:
    rendered = rendered_profile("everything")
    spec = only(rendered, "InferencePool")["spec"]
    there = running(rendered)

    taken = [name for name, pod in there.items() if selects(spec["selector"], pod.labels)]
    ports = {each["name"]: each["containerPort"] for each in there["serving"].service["ports"]}

    assert taken == ["serving"]
    assert spec["targetPorts"] == [{"number": ports["grpc"]}]
    assert spec["appProtocol"] == "kubernetes.io/h2c"
    no_protocol = everything(nested("traffic.inferencePool.appProtocol", ""))
    assert "appProtocol" not in only(no_protocol, "InferencePool")["spec"]


def test_the_pool_may_be_of_openais_api() -> None:
    rendered = everything(OPENAI_POOL)
    ports = {p["name"]: p["containerPort"] for p in running(rendered)["serving"].service["ports"]}
    spec = only(rendered, "InferencePool")["spec"]

    assert spec["targetPorts"] == [{"number": ports["openai"]}]
    assert "appProtocol" not in spec
    config = only(rendered, "EndpointPickerConfig")
    assert config["requestHandler"]["parsers"] == [{"pluginRef": "openai-parser"}]
    assert "passthrough-parser" not in str(config)
    assert custom_problems(only(rendered, "InferencePool")) == custom_problems(config) == []


def test_the_pool_asks_the_pickers_service() -> None:
    rendered = rendered_profile("everything")
    asked = only(rendered, "InferencePool")["spec"]["endpointPickerRef"]
    service = rendered.one("Service", "-picker")
    picker = running(rendered)["picker"]

    assert asked["name"] == service["metadata"]["name"]
    assert asked["port"]["number"] == service["spec"]["ports"][0]["port"]
    assert selects(service["spec"]["selector"], picker.labels)
    own = nested("traffic.picker", {"create": False, "service": {"name": "epp", "port": 9}})
    theirs = everything(own)
    reference = only(theirs, "InferencePool")["spec"]["endpointPickerRef"]
    assert reference == {"name": "epp", "port": {"number": 9}, "failureMode": "FailOpen"}
    assert "picker" not in running(theirs)
    assert only(theirs, "EndpointPickerConfig")


def test_the_picker_reads_the_pods_metrics_where_they_are() -> None:
    rendered = rendered_profile("everything")
    config = only(rendered, "EndpointPickerConfig")
    plugins = {each["type"]: each.get("parameters") for each in config["plugins"]}
    ports = {p["name"]: p["containerPort"] for p in running(rendered)["serving"].service["ports"]}
    source = plugins["metrics-data-source"]

    assert (source["scheme"], source["path"], source["port"]) == ("http", "/metrics", ports["http"])
    # Nothing that the picker's configuration refers to is missing, and nothing stands there unused.
    referred = {
        *(each["pluginRef"] for each in config["schedulingProfiles"][0]["plugins"]),
        *(each["pluginRef"] for each in config["requestHandler"]["parsers"]),
        *(each["pluginRef"] for each in config["dataLayer"]["sources"]),
        *(x["pluginRef"] for each in config["dataLayer"]["sources"] for x in each["extractors"]),
    }
    assert referred == plugins.keys()


def test_a_weight_of_nothing_leaves_the_scorer_out() -> None:
    config = only(
        everything(nested("traffic.picker.config.weights.kvCache", 0)), "EndpointPickerConfig"
    )
    assert "kv-cache-utilization-scorer" not in str(config)
    older = nested("traffic.picker.config.apiVersion", "llm-d.ai/v1alpha1")
    assert only(everything(older), "EndpointPickerConfig")["apiVersion"] == "llm-d.ai/v1alpha1"


def test_the_picker_starts_again_when_its_configuration_changes() -> None:
    changed = everything(nested("traffic.picker.config.weights.queue", 5))
    before = running(rendered_profile("everything"))["picker"].annotations["checksum/config"]
    assert running(changed)["picker"].annotations["checksum/config"] != before


def test_the_picker_may_read_and_nothing_more() -> None:
    rendered = rendered_profile("everything")
    rules = rendered.one("Role", "-picker")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert not rendered.of_kind("ClusterRole", "ClusterRoleBinding")
    assert not {"secrets", "configmaps"} & {what for rule in rules for what in rule["resources"]}


def test_the_picker_reaches_the_pods_behind_their_policy() -> None:
    rendered = rendered_profile("everything")
    there = running(rendered)
    opened = rendered.one("NetworkPolicy", "-serving-from-picker")["spec"]
    (rule,) = opened["ingress"]

    assert selects(opened["podSelector"], there["serving"].labels)
    ports = {p["name"]: p["containerPort"] for p in there["serving"].service["ports"]}
    assert [each["port"] for each in rule["ports"]] == [ports["http"]]
    (peer,) = rule["from"]
    assert [n for n, p in there.items() if selects(peer["podSelector"], p.labels)] == ["picker"]
    own = rendered.one("NetworkPolicy", "adapters-picker")["spec"]
    assert own["ingress"][0]["ports"][0]["port"] == 9002
    egress = own["egress"]
    assert any(
        selects(to.get("podSelector", {"matchLabels": {"": ""}}), there["serving"].labels)
        for each in egress
        for to in each["to"]
    )
    assert not everything(nested("networkPolicy.enabled", False)).of_kind("NetworkPolicy")


# -- Routes -------------------------------------------------------------------------------------

PLACES = {
    "tailorbird.serving.v1.InferenceService": "serving",
    "tailorbird.adapters.v1.AdapterService": "serving",
    "tailorbird.tuning.v1.TuningService": "trainer",
}


def _services() -> Iterator[ServiceDescriptor]:
    for module in (adapter_service_pb2, inference_service_pb2, tuning_service_pb2):
        file: FileDescriptor = module.DESCRIPTOR
        yield from file.services_by_name.values()


@pytest.mark.parametrize("changes", [{}, GRPC_ROUTE], ids=["HTTPRoute", "GRPCRoute"])
def test_every_method_takes_its_route(changes: Values) -> None:
    rendered = everything(changes)
    route = only(rendered, "GRPCRoute" if changes else "HTTPRoute")
    assert {each.full_name for each in _services()} == PLACES.keys()
    for service in _services():
        for method in service.methods:
            backend = _backend(route, service.full_name, method.name)
            place = PLACES[service.full_name]
            assert backend["name"].endswith(f"-{place}"), method.full_name
            if backend.get("kind") == "InferencePool":
                assert backend["name"] == only(rendered, "InferencePool")["metadata"]["name"]
                assert method.name in ("Generate", "StreamGenerate")
            else:
                assert method.name not in ("Generate", "StreamGenerate") or changes
                (found,) = (
                    each
                    for each in rendered.of_kind("Service")
                    if each["metadata"]["name"] == backend["name"]
                )
                assert backend["port"] == found["spec"]["ports"][0]["port"]


@pytest.mark.parametrize("changes", [{}, OPENAI_POOL], ids=["grpc", "openai"])
def test_openais_paths_take_their_routes(changes: Values) -> None:
    rendered = everything(changes)
    found = {
        match["path"]["value"]: (match["path"]["type"], rule["backendRefs"])
        for rule in only(rendered, "HTTPRoute")["spec"]["rules"]
        for match in rule["matches"]
        if match["path"]["value"].startswith("/v1/")
    }
    services = {
        name: rendered.one("Service", f"adapters-{name}") for name in ("serving", "trainer")
    }
    ports = {
        name: next(p["port"] for p in each["spec"]["ports"] if p["name"] == "openai")
        for name, each in services.items()
    }
    to = {
        name: {"name": each["metadata"]["name"], "port": ports[name]}
        for name, each in services.items()
    }
    answering = to["serving"]
    if changes:
        pool = only(rendered, "InferencePool")["metadata"]["name"]
        answering = {
            "name": pool,
            "group": "inference.networking.k8s.io",
            "kind": "InferencePool",
        }
    assert found == {
        "/v1/chat/completions": ("Exact", [answering]),
        "/v1/completions": ("Exact", [answering]),
        "/v1/models": ("PathPrefix", [to["serving"]]),
        "/v1/files": ("PathPrefix", [to["trainer"]]),
        "/v1/fine_tuning": ("PathPrefix", [to["trainer"]]),
    }
    pooled = [
        rule["matches"]
        for rule in only(rendered, "HTTPRoute")["spec"]["rules"]
        if rule["backendRefs"][0].get("kind") == "InferencePool"
    ]
    assert len(pooled) == 1


def test_without_its_port_openais_api_has_no_route() -> None:
    none = {part: {"ports": {"openai": None}} for part in ("serving", "trainer")}
    assert "/v1/" not in str(only(everything(none), "HTTPRoute")["spec"]["rules"])
    assert "/v1/" not in str(only(everything(GRPC_ROUTE), "GRPCRoute")["spec"]["rules"])


def test_a_route_may_leave_the_trainer_out() -> None:
    rendered = only(everything(nested("traffic.route.trainer", False)), "HTTPRoute")
    assert "TuningService" not in str(rendered)
    assert "/v1/files" not in str(rendered)


def test_a_call_has_the_time_that_the_route_gives_it() -> None:
    rules = only(rendered_profile("everything"), "HTTPRoute")["spec"]["rules"]
    assert {rule["timeouts"]["request"] for rule in rules} == {"0s"}
    default = everything(nested("traffic.route.requestTimeout", ""))
    assert "timeouts" not in str(only(default, "HTTPRoute"))
    assert "timeouts" not in str(only(everything(GRPC_ROUTE), "GRPCRoute"))


def _backend(route: Object, service: str, method: str) -> dict[str, Any]:
    """Return where the Gateway API sends a call: the exact path first, then the longest prefix."""
    best: tuple[int, dict[str, Any]] | None = None
    for rule in route["spec"]["rules"]:
        for match in rule["matches"]:
            fit = _fit(match, service, method)
            if fit and (best is None or fit > best[0]):
                best = (fit, rule["backendRefs"][0])
    assert best is not None, f"/{service}/{method} has no route"
    return best[1]


def _fit(match: dict[str, Any], service: str, method: str) -> int:
    if "method" in match:
        wanted = match["method"]
        return int(wanted["service"] == service) * (1 + ("method" in wanted))
    path = match["path"]
    if path["type"] == "Exact":
        return 1000 if path["value"] == f"/{service}/{method}" else 0
    return len(path["value"]) if f"/{service}/{method}".startswith(path["value"] + "/") else 0


# -- Scaling ------------------------------------------------------------------------------------


def test_keda_scales_servings_deployment_and_nobody_else_does() -> None:
    rendered = rendered_profile("everything")
    target = only(rendered, "ScaledObject")["spec"]["scaleTargetRef"]
    (deployment,) = (
        each
        for each in rendered.of_kind("Deployment")
        if each["metadata"]["name"] == target["name"]
    )
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], deployment["kind"])
    assert "replicas" not in deployment["spec"]
    assert "serving" in deployment["metadata"]["name"]


def test_a_trigger_for_each_target() -> None:
    spec = only(rendered_profile("everything"), "ScaledObject")["spec"]
    triggers = {each["name"]: each["metadata"] for each in spec["triggers"]}
    assert {name: each["threshold"] for name, each in triggers.items()} == {
        "waiting-requests": "4",
        "running-requests": "64",
        "slot-waits": "0.5",
        "wake": "1000000000",
    }
    assert {each["metricType"] for each in spec["triggers"]} == {"AverageValue"}
    without = everything(nested("scaling.targets.slotWaitsPerSecond", None))
    names = [each["name"] for each in only(without, "ScaledObject")["spec"]["triggers"]]
    assert names == ["waiting-requests", "running-requests", "wake"]


def test_no_series_is_no_answer_unless_no_replica_may_be_right() -> None:
    idle = only(rendered_profile("everything"), "ScaledObject")["spec"]
    assert idle["idleReplicaCount"] == 0
    assert {each["metadata"]["ignoreNullValues"] for each in idle["triggers"]} == {"true"}
    running = only(everything(nested("scaling.idleReplicas", None)), "ScaledObject")["spec"]
    assert "idleReplicaCount" not in running
    assert {each["metadata"]["ignoreNullValues"] for each in running["triggers"]} == {"false"}


def test_prometheus_is_asked_with_the_credentials_named() -> None:
    credentials = {"authModes": "bearer", "authentication": {"name": "thanos"}}
    spec = only(everything(nested("scaling.prometheus", credentials)), "ScaledObject")["spec"]
    assert {each["metadata"]["authModes"] for each in spec["triggers"]} == {"bearer"}
    reference = {"kind": "TriggerAuthentication", "name": "thanos"}
    assert all(each["authenticationRef"] == reference for each in spec["triggers"])
    open_ = only(rendered_profile("everything"), "ScaledObject")["spec"]["triggers"][0]
    assert "authenticationRef" not in open_


# -- What does not work -------------------------------------------------------------------------

NO_TARGETS = dict.fromkeys(("waitingRequests", "runningRequests", "slotWaitsPerSecond"))
REFUSED: list[tuple[str, Values, str]] = [
    ("traffic.route.parentRefs", nested("traffic.route.parentRefs", []), "no Gateway"),
    ("traffic.route.kind", nested("traffic.route.kind", "GRPCRoute"), "HTTPRoute only"),
    ("traffic.route.kind", nested("traffic.route.kind", "TCPRoute"), "must be one of"),
    ("traffic.route.requestTimeout", nested("traffic.route.requestTimeout", "1 min"), "pattern"),
    ("traffic.route.hostnames.0", nested("traffic.route.hostnames", ["A_b"]), "pattern"),
    (
        "traffic.inferencePool.enabled",
        {"mesh": "", "tls": {"existingSecret": "tls"}},
        "tls.existingSecret",
    ),
    (
        "traffic.inferencePool.failureMode",
        nested("traffic.inferencePool.failureMode", "x"),
        "one of",
    ),
    (
        "traffic.inferencePool.api",
        merged(OPENAI_POOL, nested("serving.ports.openai", None)),
        "no pod speaks it",
    ),
    ("traffic.picker.service.name", nested("traffic.picker.create", False), "name its Service"),
    ("traffic.picker.create", nested("traffic.inferencePool.enabled", False), "makes"),
    ("traffic.picker.image", nested("traffic.picker.image", ""), "needs the endpoint picker's"),
    ("traffic.picker.apiServer.to", nested("traffic.picker.apiServer.to", []), "could not watch"),
    (
        "traffic.picker.config.apiVersion",
        nested("traffic.picker.config.apiVersion", "llm-d.ai/v2"),
        "one of",
    ),
    (
        "traffic.picker.config.metricsInterval",
        nested("traffic.picker.config.metricsInterval", "3s"),
        "pattern",
    ),
    ("scaling.minReplicas", nested("scaling.minReplicas", 9), "scaling.maxReplicas 8"),
    ("scaling.minReplicas", nested("scaling.minReplicas", 0), "minimum"),
    ("scaling.idleReplicas", nested("scaling.idleReplicas", 1), "one of"),
    ("scaling.targets", nested("scaling.targets", NO_TARGETS), "all are null"),
    (
        "scaling.prometheus.serverAddress",
        nested("scaling.prometheus.serverAddress", ""),
        "asks a Prometheus",
    ),
    (
        "scaling.prometheus.authentication.name",
        nested("scaling.prometheus.authModes", "bearer"),
        "needs a TriggerAuthentication",
    ),
    ("scaling.wake.query", nested("scaling.wake.query", ""), "no replica is left"),
    (
        "scaling.wake.query",
        nested("scaling.wake.query", "sum(vllm:num_requests_waiting)"),
        "gone while no replica runs",
    ),
    (
        "scaling.wake.query",
        nested("scaling.wake.query", "sum(rate(tailorbird_rpc_handled_total[1m]))"),
        "gone while no replica runs",
    ),
    ("sight.rules.disabled", nested("sight.rules.disabled", ["TailorbirdAllWell"]), "no alert"),
    ("sight.podMonitor.interval", nested("sight.podMonitor.interval", "soon"), "pattern"),
    ("sight.selectors.serving", nested("sight.selectors.serving", "{job}"), "pattern"),
    (
        "sight.rules.thresholds.failedShare",
        nested("sight.rules.thresholds.failedShare", 5),
        "exclusiveMaximum",
    ),
]


@pytest.mark.parametrize(
    ("key", "changes", "told"), REFUSED, ids=[f"{key}: {told}" for key, _, told in REFUSED]
)
def test_what_cannot_work_is_refused_by_its_key(key: str, changes: Values, told: str) -> None:
    said = refusal(merged(profile_values("everything"), changes)).replace("/", ".")
    assert key in said
    assert told in said


def test_replicas_that_share_no_store_are_not_scaled() -> None:
    prometheus = {"serverAddress": "http://prometheus:9090"}
    scaled = nested("scaling", {"enabled": True, "maxReplicas": 2, "prometheus": prometheus})
    said = refusal(merged(profile_values("cpu"), scaled))
    assert "scaling.maxReplicas: is 2, and replicas share no file:// store" in said
    render(merged(profile_values("cpu"), scaled, nested("scaling.maxReplicas", 1)))


def _keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every key that a project has fixed."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            if key not in _FREE:
                yield from _keys(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _keys(inner, (*path, index))
