"""Whether the objects fit together: selectors, ports, volumes, names and labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.chart.environment import environment
from tests.chart.helm import RELEASE, Object, Rendered, named
from tests.chart.pods import WORKLOADS, Pod, both, pods, selects
from tests.chart.rules.rule import rule

WRITABLE = {"/var/lib/tailorbird", "/store", "/tmp", "/var/cache/huggingface", "/dev/shm"}
_LABELS = ("name", "instance", "component", "version", "managed-by", "part-of")
_SELECTORS = {f"app.kubernetes.io/{each}" for each in ("name", "instance", "component")}
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


@rule
def selectors_match_their_own_pods_only(rendered: Rendered) -> Iterator[str]:
    for workload in rendered.of_kind(*WORKLOADS):
        selector = workload["spec"]["selector"]
        if set(selector.get("matchLabels") or {}) != _SELECTORS:
            yield f"{named(workload)}: selects by {selector}, which an upgrade may change"
        for pod in pods(rendered):
            own = pod.owner is workload
            if selects(selector, pod.labels) != own:
                yield f"{named(workload)}: {'does not select its own' if own else 'selects'} {pod}"


@rule
def services_lead_to_ports_that_exist(rendered: Rendered) -> Iterator[str]:
    for service in rendered.of_kind("Service"):
        selector = service["spec"].get("selector") or {}
        found = [pod for pod in pods(rendered) if selects(selector, pod.labels)]
        if not selector or len(found) != 1 or not found[0].is_service:
            yield f"{named(service)}: leads to {[str(pod) for pod in found]}"
            continue
        ports = {each["name"] for each in found[0].service["ports"]}
        for port in service["spec"]["ports"]:
            if port.get("targetPort") not in ports:
                yield f"{named(service)}: port {port['name']} leads to {port.get('targetPort')}"


@rule
def grpc_ports_say_so(rendered: Rendered) -> Iterator[str]:
    running = both(rendered)
    for service in rendered.of_kind("Service"):
        chosen = service["spec"]["selector"]
        secure = any(
            "TAILORBIRD_TLS_KEY_FILE" in environment(rendered, pod)
            for pod in running.values()
            if selects(chosen, pod.labels)
        )
        for port in service["spec"]["ports"]:
            plain = {"grpc": "kubernetes.io/h2c"}.get(port["name"], "http")
            wanted = "https" if secure and port["name"] in ("grpc", "openai") else plain
            if port.get("appProtocol") != wanted:
                yield f"{named(service)}: port {port['name']} is {port.get('appProtocol')}"


@rule
def every_pod_is_behind_a_network_policy_both_ways(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        policies = [
            each
            for each in _policies(rendered, pod)
            if selects(each["spec"]["podSelector"], pod.labels)
        ]
        covered = {way for each in policies for way in each["spec"].get("policyTypes") or []}
        for way in sorted({"Ingress", "Egress"} - covered):
            yield f"{pod}: {way} is open"


def _policies(rendered: Rendered, pod: Pod) -> list[Object]:
    """Return the policies that are there when the pod starts."""
    found = rendered.of_kind("NetworkPolicy")
    if any(pod.owner is hook for hook in rendered.hooks):
        found = found + [hook for hook in rendered.hooks if hook["kind"] == "NetworkPolicy"]
    return found


@rule
def network_policies_open_something_by_name(rendered: Rendered) -> Iterator[str]:
    for policy in (each for each in rendered if each["kind"] == "NetworkPolicy"):
        if not any(selects(policy["spec"]["podSelector"], pod.labels) for pod in pods(rendered)):
            yield f"{named(policy)}: holds for no pod"
        for way in ("ingress", "egress"):
            for opening in policy["spec"].get(way) or []:
                if not opening.get("ports"):
                    yield f"{named(policy)}: {way} on every port"


@rule
def every_volume_is_mounted_and_every_mount_has_a_volume(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts") or []}
        for name in sorted(mounted ^ pod.volumes.keys()):
            yield f"{pod}: volume {name} is {'mounted' if name in mounted else 'declared'} only"
        if len(pod.volumes) != len(pod.spec.get("volumes") or []):
            yield f"{pod}: two volumes have one name"
        for container in pod.containers:
            paths = Counter(m["mountPath"] for m in container.get("volumeMounts") or [])
            for path, count in paths.items():
                if count > 1:
                    yield f"{pod}: {container['name']}: {count} mounts on {path}"


@rule
def only_these_folders_are_writable(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for container in pod.containers:
            for mount in container.get("volumeMounts") or []:
                if not mount.get("readOnly") and mount["mountPath"] not in WRITABLE:
                    yield f"{pod}: {container['name']}: {mount['mountPath']} is writable"
                if "subPath" in mount or "subPathExpr" in mount:
                    yield f"{pod}: {container['name']}: {mount['mountPath']} never sees a change"


@rule
def what_a_pod_names_is_in_the_release(rendered: Rendered) -> Iterator[str]:
    """What begins with the release's name is the chart's; all else is the user's own."""
    there = {(each["kind"], each["metadata"]["name"]) for each in rendered}
    for pod in pods(rendered):
        for kind, name in _named_by(pod):
            if name.startswith(RELEASE + "-") and (kind, name) not in there:
                yield f"{pod}: there is no {kind} {name}"


def _named_by(pod: Pod) -> Iterator[tuple[str, str]]:
    for volume in pod.volumes.values():
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
    for claim in pod.spec.get("resourceClaims") or []:
        if "resourceClaimTemplateName" in claim:
            yield "ResourceClaimTemplate", claim["resourceClaimTemplateName"]
    for container in pod.containers:
        for each in container.get("envFrom") or []:
            if "configMapRef" in each:
                yield "ConfigMap", each["configMapRef"]["name"]
    if "serviceAccountName" in pod.spec:
        yield "ServiceAccount", pod.spec["serviceAccountName"]
    if pod.owner["kind"] == "StatefulSet":
        yield "Service", pod.owner["spec"]["serviceName"]


@rule
def variables_and_ports_have_one_meaning(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for container in pod.containers:
            names = Counter(each["name"] for each in container.get("env") or [])
            yield from (f"{pod}: {name} is set {n} times" for name, n in names.items() if n > 1)
            ports = container.get("ports") or []
            numbers = Counter(each["containerPort"] for each in ports)
            yield from (f"{pod}: port {port} stands twice" for port, n in numbers.items() if n > 1)
            for port in ports:
                if not re.fullmatch(r"[a-z][a-z0-9-]{0,14}", port["name"]):
                    yield f"{pod}: {port['name']!r} is no port's name"


@rule
def labels_are_complete(rendered: Rendered) -> Iterator[str]:
    labelled: list[tuple[str, dict[str, str]]] = [
        (named(each), each["metadata"].get("labels") or {}) for each in rendered
    ]
    labelled += [(f"pods of {pod}", pod.labels) for pod in pods(rendered)]
    for name, labels in labelled:
        for label in _LABELS:
            value = labels.get(f"app.kubernetes.io/{label}")
            if not isinstance(value, str) or not value:
                yield f"{name}: app.kubernetes.io/{label} is {value!r}"
        for key, value in labels.items():
            if not isinstance(value, str) or not _LABEL.fullmatch(value):
                yield f"{name}: {key} is {value!r}"


@rule
def names_are_valid_and_unique(rendered: Rendered) -> Iterator[str]:
    names = Counter((each["kind"], each["metadata"]["name"]) for each in rendered)
    for (kind, name), count in names.items():
        if count > 1:
            yield f"{kind} {name} stands {count} times"
        if not _NAME.fullmatch(name):
            yield f"{kind} {name}: no valid name"


@rule
def a_changed_config_restarts_its_pods(rendered: Rendered) -> Iterator[str]:
    for pod in both(rendered).values():
        if not any(key.startswith("checksum/") for key in pod.annotations):
            yield f"{pod}: has no checksum of its ConfigMap"


@rule
def commands_run_without_a_shell(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for container in pod.containers:
            command: list[Any] = [*(container.get("command") or []), *(container.get("args") or [])]
            if command and re.fullmatch(r"(/bin/)?(ba|da)?sh", str(command[0])):
                yield f"{pod}: {container['name']}: {command[0]} would not hand on signals"
