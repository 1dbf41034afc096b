"""What a pod may do on its node and in its cluster: as little as can be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.chart.helm import Rendered, named
from tests.chart.pods import Pod, pods
from tests.chart.rules.rule import rule

# Below it are the users that a node's own system has.
_LEAST_USER = 10_000
# The endpoint picker of the Gateway API inference extension.
_WATCHES_THE_CLUSTER = "picker"
_OF_THE_HOST = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers")
_SECRET_NAME = re.compile(r"(password|passwd|secret|token|credential|api_?key|private_?key)", re.I)
_SECRET_VALUE = re.compile(
    r"://[^/\s:@]+:[^/\s@]+@"  # a URL with a password
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|ghp_[A-Za-z0-9]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.)"
)


def _contexts(rendered: Rendered) -> Iterator[tuple[Pod, str, dict[str, Any]]]:
    """Yield each container's security context, with what it has from its pod."""
    for pod in pods(rendered):
        of_pod = pod.spec.get("securityContext") or {}
        for container in pod.containers:
            yield pod, container["name"], of_pod | (container.get("securityContext") or {})


@rule
def runs_as_a_numeric_user_that_is_not_root(rendered: Rendered) -> Iterator[str]:
    for pod, name, context in _contexts(rendered):
        if context.get("runAsNonRoot") is not True:
            yield f"{pod}: {name}: runAsNonRoot is not true"
        for key in ("runAsUser", "runAsGroup"):
            number = context.get(key)
            if not isinstance(number, int) or number < _LEAST_USER:
                yield f"{pod}: {name}: {key} is {number}, not a number from {_LEAST_USER}"


@rule
def root_is_read_only(rendered: Rendered) -> Iterator[str]:
    for pod, name, context in _contexts(rendered):
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{pod}: {name}: readOnlyRootFilesystem is not true"


@rule
def gains_no_privileges(rendered: Rendered) -> Iterator[str]:
    for pod, name, context in _contexts(rendered):
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{pod}: {name}: allowPrivilegeEscalation is not false"
        if context.get("privileged"):
            yield f"{pod}: {name}: is privileged"
        if context.get("procMount", "Default") != "Default":
            yield f"{pod}: {name}: has another procMount"


@rule
def has_no_capabilities(rendered: Rendered) -> Iterator[str]:
    for pod, name, context in _contexts(rendered):
        capabilities = context.get("capabilities") or {}
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"{pod}: {name}: capabilities are {capabilities}"


@rule
def has_a_seccomp_profile(rendered: Rendered) -> Iterator[str]:
    for pod, name, context in _contexts(rendered):
        if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield f"{pod}: {name}: seccompProfile is not RuntimeDefault"


@rule
def has_nothing_of_its_node(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        yield from (f"{pod}: {key}" for key in _OF_THE_HOST if pod.spec.get(key))
        yield from (
            f"{pod}: volume {n}: hostPath" for n, v in pod.volumes.items() if "hostPath" in v
        )
        for container in pod.containers:
            for port in container.get("ports") or []:
                if "hostPort" in port:
                    yield f"{pod}: {container['name']}: hostPort {port['hostPort']}"


@rule
def has_no_token_of_the_cluster(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        mounted = pod.spec.get("automountServiceAccountToken") is not False
        if mounted and pod.component != _WATCHES_THE_CLUSTER:
            yield f"{pod}: automountServiceAccountToken is not false"
        if pod.is_service and pod.spec.get("serviceAccountName", "default") == "default":
            yield f"{pod}: has the namespace's default service account"
    for account in rendered.of_kind("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"{named(account)}: automountServiceAccountToken is not false"


@rule
def asks_for_no_rights_in_the_cluster(rendered: Rendered) -> Iterator[str]:
    for document in rendered:
        if "Role" not in document["kind"]:
            continue
        component = document["metadata"]["labels"]["app.kubernetes.io/component"]
        verbs = {verb for each in document.get("rules") or [] for verb in each["verbs"]}
        if component != _WATCHES_THE_CLUSTER or document["kind"].startswith("Cluster"):
            yield f"{named(document)}: nothing here calls the cluster's API"
        elif not verbs <= {"get", "list", "watch"}:
            yield f"{named(document)}: may {', '.join(sorted(verbs))}"


@rule
def has_no_variables_of_other_services(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod}: enableServiceLinks is not false"


@rule
def images_are_of_one_version(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for container in pod.containers:
            image, digest = container["image"], container["image"].partition("@")[2]
            tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
            if tag == "latest" or not (tag or digest):
                yield f"{pod}: {container['name']}: image {image} is another one tomorrow"
            if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                yield f"{pod}: {container['name']}: image {image} has no such digest"


@rule
def is_in_the_release_s_namespace(rendered: Rendered) -> Iterator[str]:
    for document in rendered:
        namespace = document["metadata"].get("namespace")
        if namespace not in (None, "tailorbird"):
            yield f"{named(document)}: is in {namespace}"


@rule
def no_secret_stands_in_clear(rendered: Rendered) -> Iterator[str]:
    for document in rendered.of_kind("Secret"):
        yield f"{named(document)}: `helm get manifest` shows it"
    for document in rendered:
        for path, text in _texts(document):
            if _SECRET_VALUE.search(text):
                yield f"{named(document)}: {path} looks like a secret"
    for name, key, value in _settings(rendered):
        # A file's or a resource's name is no secret, nor is a number.
        if _SECRET_NAME.search(key) and not re.fullmatch(r"[\d.]*|/.*|.*=.*", value):
            yield f"{name}: {key} looks like a secret"


def _settings(rendered: Rendered) -> Iterator[tuple[str, str, str]]:
    for document in rendered.of_kind("ConfigMap"):
        for key, value in (document.get("data") or {}).items():
            yield named(document), key, str(value)
    for pod in pods(rendered):
        for container in pod.containers:
            for each in container.get("env") or []:
                if "value" in each:
                    yield f"{pod}: {container['name']}", each["name"], str(each["value"])


@rule
def secrets_are_named_and_must_exist(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for container in pod.containers:
            for each in container.get("env") or []:
                ref = (each.get("valueFrom") or {}).get("secretKeyRef")
                if ref is not None and not (ref.get("name") and ref.get("key")):
                    yield f"{pod}: {each['name']}: secretKeyRef {ref}"
                if ref is not None and ref.get("optional"):
                    yield f"{pod}: {each['name']}: starts without its secret"
            for each in container.get("envFrom") or []:
                ref = each.get("secretRef")
                if ref is not None and (not ref.get("name") or ref.get("optional")):
                    yield f"{pod}: {container['name']}: envFrom {ref}"
        for name, volume in pod.volumes.items():
            secret = volume.get("secret")
            if secret is None:
                continue
            # Without these the process itself ends, and says what is missing.
            told = name in ("tokens", "tls", "authority")
            if not secret.get("secretName") or (secret.get("optional") and not told):
                yield f"{pod}: volume {name}: secret {secret}"


@rule
def secret_files_are_for_the_pod_s_group_only(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for name, volume in pod.volumes.items():
            if "secret" in volume and volume["secret"].get("defaultMode", 0o644) & 0o007:
                yield f"{pod}: volume {name}: everyone in the container may read it"


@rule
def services_are_reached_inside_the_cluster_only(rendered: Rendered) -> Iterator[str]:
    for service in rendered.of_kind("Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{named(service)}: type {service['spec']['type']}"
        if service["spec"].get("externalIPs"):
            yield f"{named(service)}: externalIPs"


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, f"{path}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value
