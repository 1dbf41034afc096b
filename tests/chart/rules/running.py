"""What keeps the services up: through starts, stops, lost nodes and upgrades."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.chart.environment import environment
from tests.chart.helm import Object, Rendered, named
from tests.chart.pods import Pod, both, pods, selects
from tests.chart.rules.rule import rule

PROBES = {"startupProbe": "/readyz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
HTTP_PORT = "http"
_FOLDERS = [("requests", "ephemeral-storage")]
# A model is read from a disk or a registry, and compiled.
_LEAST_START_SECONDS = 300
_LEAST_LIVENESS_SECONDS = 30


@rule
def every_container_says_what_it_needs(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for container in pod.containers:
            resources = container.get("resources") or {}
            for kind, name in (
                ("requests", "cpu"),
                ("requests", "memory"),
                ("limits", "memory"),
                *(_FOLDERS if _has_folders_on_its_node(pod) else ()),
            ):
                if name not in (resources.get(kind) or {}):
                    yield f"{pod}: {container['name']}: no {kind} of {name}"


def _has_folders_on_its_node(pod: Pod) -> bool:
    return any(
        (each.get("emptyDir") or {"medium": "Memory"}).get("medium") != "Memory"
        for each in pod.volumes.values()
    )


@rule
def folders_in_memory_and_on_the_node_are_bounded(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for name, volume in pod.volumes.items():
            if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
                yield f"{pod}: volume {name}: emptyDir has no sizeLimit"


@rule
def a_gpu_is_asked_for_once_and_whole(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        claims = {each["name"] for each in pod.spec.get("resourceClaims") or []}
        taken: list[str] = []
        for container in pod.containers:
            resources = container.get("resources") or {}
            limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
            for name in limits.keys() | requests.keys():
                if "/" in name and limits.get(name) != requests.get(name, limits.get(name)):
                    yield f"{pod}: {container['name']}: requests of {name} are not its limits"
            taken += [each["name"] for each in resources.get("claims") or []]
        if claims != set(taken):
            yield f"{pod}: resourceClaims {sorted(claims)} but containers take {sorted(taken)}"


@rule
def probes_are_on_the_plain_port(rendered: Rendered) -> Iterator[str]:
    for pod in both(rendered).values():
        ports = {each["name"] for each in pod.service["ports"]}
        for name, path in PROBES.items():
            probe = pod.service.get(name) or {}
            http = probe.get("httpGet") or {}
            if http.get("path") != path or http.get("port") != HTTP_PORT:
                yield f"{pod}: {name} is {http}, not {path} on the port {HTTP_PORT}"
            if http.get("scheme", "HTTP") != "HTTP":
                yield f"{pod}: {name} wants TLS"
        if HTTP_PORT not in ports:
            yield f"{pod}: no port is called {HTTP_PORT}"


@rule
def probes_give_time(rendered: Rendered) -> Iterator[str]:
    for pod in both(rendered).values():
        start, live = pod.service["startupProbe"], pod.service["livenessProbe"]
        if _patience(start) < _LEAST_START_SECONDS:
            yield f"{pod}: a start may take {_patience(start)} s only"
        if _patience(live) < _LEAST_LIVENESS_SECONDS:
            yield f"{pod}: is killed after {_patience(live)} s of silence"


def _patience(probe: dict[str, Any]) -> int:
    period: int = probe.get("periodSeconds", 10)
    failures: int = probe.get("failureThreshold", 3)
    return period * failures


@rule
def stopping_fits_into_the_grace_period(rendered: Rendered) -> Iterator[str]:
    for pod in both(rendered).values():
        settings = environment(rendered, pod)
        delay = float(settings["TAILORBIRD_DRAIN_DELAY"])
        needed = _pre_stop(pod) + delay + float(settings["TAILORBIRD_SHUTDOWN_GRACE"])
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if grace <= needed:
            yield f"{pod}: is killed after {grace} s, and stops in {needed} s"
        if pod.takes_calls and pod.owner["kind"] == "Deployment" and delay + _pre_stop(pod) <= 0:
            yield f"{pod}: refuses calls before its endpoints are gone"


def _pre_stop(pod: Pod) -> float:
    hook = (pod.service.get("lifecycle") or {}).get("preStop") or {}
    if not hook:
        return 0.0
    return float(hook["sleep"]["seconds"])


@rule
def one_trainer_and_never_two(rendered: Rendered) -> Iterator[str]:
    trainer = both(rendered).get("trainer")
    if trainer is None:
        return
    spec = trainer.owner["spec"]
    if trainer.owner["kind"] != "StatefulSet" or spec.get("replicas") != 1:
        yield f"{trainer}: {spec.get('replicas')} replicas"
    if spec.get("volumeClaimTemplates"):
        yield f"{trainer}: volumeClaimTemplates can never be changed"


@rule
def a_roll_out_can_go_on(rendered: Rendered) -> Iterator[str]:
    for deployment in rendered.of_kind("Deployment"):
        rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
        if rolling.get("maxSurge") in (0, "0%") and rolling.get("maxUnavailable") in (0, "0%"):
            yield f"{named(deployment)}: may neither add a pod nor take one away"
        if "progressDeadlineSeconds" in deployment["spec"]:
            start = _patience(
                deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
            )
            if deployment["spec"]["progressDeadlineSeconds"] <= start:
                yield f"{named(deployment)}: is given up before its pods have started"


@rule
def disruption_budgets_let_nodes_be_drained(rendered: Rendered) -> Iterator[str]:
    running = both(rendered)
    for budget in rendered.of_kind("PodDisruptionBudget"):
        spec = budget["spec"]
        found = [pod for pod in running.values() if selects(spec["selector"], pod.labels)]
        if len(found) != 1:
            yield f"{named(budget)}: selects {len(found)} workloads"
            continue
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{named(budget)}: a pod that never becomes ready holds its node for ever"
        if found[0].component in ("trainer", "trainer-worker"):
            continue  # Pods that hand over have a budget by choice: test_reliability.py.
        replicas = _least_replicas(rendered, found[0])
        if not _may_evict(spec, replicas):
            yield f"{named(budget)}: none of {replicas} pods may be evicted"


def _may_evict(spec: dict[str, Any], replicas: int) -> bool:
    if "maxUnavailable" in spec:
        return spec["maxUnavailable"] not in (0, "0%")
    least = spec["minAvailable"]
    if isinstance(least, str):
        # The API rounds a share up.
        least = -(-replicas * int(least.rstrip("%")) // 100)
    return bool(least < replicas)


@rule
def several_replicas_have_a_budget_and_are_spread(rendered: Rendered) -> Iterator[str]:
    for pod in both(rendered).values():
        if _least_replicas(rendered, pod) < 2 or not pod.takes_calls:
            continue
        budgets = rendered.of_kind("PodDisruptionBudget")
        if not any(selects(each["spec"]["selector"], pod.labels) for each in budgets):
            yield f"{pod}: no PodDisruptionBudget"
        if not any(selects(each, pod.labels) for each in _spreads(pod)):
            yield f"{pod}: its pods may all be on one node"


def _spreads(pod: Pod) -> Iterator[dict[str, Any]]:
    for each in pod.spec.get("topologySpreadConstraints") or []:
        yield each["labelSelector"]
    apart = (pod.spec.get("affinity") or {}).get("podAntiAffinity") or {}
    for each in apart.get("requiredDuringSchedulingIgnoredDuringExecution") or []:
        yield each["labelSelector"]
    for each in apart.get("preferredDuringSchedulingIgnoredDuringExecution") or []:
        yield each["podAffinityTerm"]["labelSelector"]


@rule
def spreading_selects_the_pod_itself(rendered: Rendered) -> Iterator[str]:
    for pod in pods(rendered):
        for selector in _spreads(pod):
            if not selects(selector, pod.labels):
                yield f"{pod}: is spread away from pods that are not its own"


@rule
def replicas_are_set_by_one_side(rendered: Rendered) -> Iterator[str]:
    for pod in both(rendered).values():
        scalers = _scalers(rendered, pod.owner)
        if scalers and "replicas" in pod.owner["spec"]:
            yield f"{pod}: each upgrade undoes what {named(scalers[0])} has set"
        if not scalers and "replicas" not in pod.owner["spec"]:
            yield f"{pod}: nobody says how many"
    for scaler in rendered.of_kind("ScaledObject", "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if not any(
            pod.owner["metadata"]["name"] == target["name"] and pod.owner["kind"] == target["kind"]
            for pod in both(rendered).values()
        ):
            yield f"{named(scaler)}: scales {target}, which is not here"


def _scalers(rendered: Rendered, owner: Object) -> list[Object]:
    return [
        each
        for each in rendered.of_kind("ScaledObject", "HorizontalPodAutoscaler")
        if each["spec"]["scaleTargetRef"]["name"] == owner["metadata"]["name"]
    ]


def _least_replicas(rendered: Rendered, pod: Pod) -> int:
    scalers = _scalers(rendered, pod.owner)
    if scalers:
        return int(scalers[0]["spec"].get("minReplicaCount", 0))
    return int(pod.owner["spec"].get("replicas", 1))


@rule
def hooks_end_and_leave_nothing(rendered: Rendered) -> Iterator[str]:
    for hook in rendered.hooks:
        if "helm.sh/hook-delete-policy" not in hook["metadata"]["annotations"]:
            yield f"{named(hook)}: stays for ever"
    for pod in pods(rendered.hooks):
        if pod.spec.get("restartPolicy") != "Never":
            yield f"{pod}: restartPolicy is {pod.spec.get('restartPolicy')}"
        if "activeDeadlineSeconds" not in {**pod.spec, **pod.owner["spec"]}:
            yield f"{pod}: may run for ever"


@rule
def claims_outlive_the_release(rendered: Rendered) -> Iterator[str]:
    for claim in rendered.of_kind("PersistentVolumeClaim"):
        if (claim["metadata"].get("annotations") or {}).get("helm.sh/resource-policy") != "keep":
            yield f"{named(claim)}: `helm uninstall` deletes what is on it"
