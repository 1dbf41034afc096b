"""For each rule, changes to what the chart renders that the rule must find."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tests.chart.helm import Object, Rendered

Change = Callable[[Rendered], None]

TEMPLATE = "spec template"
POD = "spec template spec"
MAIN = f"{POD} containers 0"
_GONE = object()


def broken(rendered: Rendered, *changes: Change) -> Rendered:
    """Return a copy of what was rendered, changed."""
    result = copy.deepcopy(rendered)
    for change in changes:
        change(result)
    return result


def put(kind: str, name: str, path: str, value: Any) -> Change:
    """Give `path` (its keys, by spaces) of the object whose name ends with `name` another value."""

    def change(rendered: Rendered) -> None:
        *parents, last = path.split()
        at: Any = rendered.one(kind, name)
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        if isinstance(at, list):
            at[int(last)] = value
        elif value is _GONE:
            del at[last]
        else:
            at[last] = value

    return change


def drop(kind: str, name: str, path: str) -> Change:
    """Take `path` away."""
    return put(kind, name, path, _GONE)


def append(kind: str, name: str, path: str, value: Any) -> Change:
    """Add `value` to the list at `path`."""

    def change(rendered: Rendered) -> None:
        at: Any = rendered.one(kind, name)
        *parents, last = path.split()
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]
        at.setdefault(last, []).append(value)

    return change


def add(document: Object, kind: str = "ConfigMap", name: str = "-serving") -> Change:
    """Add an object, with the labels that another has."""

    def change(rendered: Rendered) -> None:
        labels = rendered.one(kind, name)["metadata"]["labels"]
        metadata = {"labels": dict(labels)} | document["metadata"]
        rendered.objects.append(document | {"metadata": metadata})

    return change


def remove(kind: str, name: str) -> Change:
    """Take a whole object away."""
    return lambda rendered: rendered.objects.remove(rendered.one(kind, name))


def without_hook(kind: str) -> Change:
    """Take the hooks of a kind away."""

    def change(rendered: Rendered) -> None:
        rendered.hooks[:] = [each for each in rendered.hooks if each["kind"] != kind]

    return change


def of_job(path: str, value: Any) -> Change:
    """Give `path` of the hook that is a Job another value."""

    def change(rendered: Rendered) -> None:
        (job,) = (each for each in rendered.hooks if each["kind"] == "Job")
        put("Job", "", path, value)(Rendered([job], [], "", {}))

    return change


def serving(path: str, value: Any) -> Change:
    return put("Deployment", "-serving", path, value)


def trainer(path: str, value: Any) -> Change:
    return put("StatefulSet", "-trainer", path, value)


def mount(name: str, path: str, **more: Any) -> tuple[Change, Change]:
    """Mount an emptyDir in serving."""
    return (
        append(
            "Deployment",
            "-serving",
            f"{MAIN} volumeMounts",
            {"name": name, "mountPath": path} | more,
        ),
        append(
            "Deployment",
            "-serving",
            f"{POD} volumes",
            {"name": name, "emptyDir": {"sizeLimit": "1Gi"}},
        ),
    )


_ENV = f"{MAIN} env"
_SCALER = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "another-scaler"},
    "spec": {
        "minReplicaCount": 2,
        "scaleTargetRef": {"kind": "Deployment", "name": "shop-tailorbird-serving"},
    },
}

_OF_THE_PICKER = {"name": "shop-picker", "labels": {"app.kubernetes.io/component": "picker"}}

BREAKS: dict[str, list[tuple[Change, ...]]] = {
    "runs_as_a_numeric_user_that_is_not_root": [
        (serving(f"{POD} securityContext runAsUser", 0),),
        (serving(f"{POD} securityContext runAsGroup", "tailorbird"),),
        (trainer(f"{MAIN} securityContext runAsNonRoot", False),),
    ],
    "root_is_read_only": [(trainer(f"{MAIN} securityContext readOnlyRootFilesystem", False),)],
    "gains_no_privileges": [
        (serving(f"{MAIN} securityContext allowPrivilegeEscalation", True),),
        (serving(f"{MAIN} securityContext privileged", True),),
        (serving(f"{MAIN} securityContext procMount", "Unmasked"),),
    ],
    "has_no_capabilities": [
        (serving(f"{MAIN} securityContext capabilities", {}),),
        (serving(f"{MAIN} securityContext capabilities add", ["SYS_PTRACE"]),),
    ],
    "has_a_seccomp_profile": [
        (serving(f"{POD} securityContext seccompProfile type", "Unconfined"),),
    ],
    "has_nothing_of_its_node": [
        (serving(f"{POD} hostNetwork", True),),
        (serving(f"{POD} hostPID", True),),
        (serving(f"{POD} hostIPC", True),),
        (serving(f"{POD} volumes 0", {"name": "data", "hostPath": {"path": "/"}}),),
        (serving(f"{MAIN} ports 0 hostPort", 50052),),
    ],
    "has_no_token_of_the_cluster": [
        (serving(f"{POD} automountServiceAccountToken", True),),
        (drop("StatefulSet", "-trainer", f"{POD} serviceAccountName"),),
        (drop("ServiceAccount", "-trainer", "automountServiceAccountToken"),),
    ],
    "asks_for_no_rights_in_the_cluster": [
        (add({"kind": "RoleBinding", "metadata": {"name": "shop-admin"}}),),
        (add({"kind": "Role", "metadata": _OF_THE_PICKER, "rules": [{"verbs": ["create"]}]}),),
        (add({"kind": "ClusterRole", "metadata": _OF_THE_PICKER, "rules": [{"verbs": ["get"]}]}),),
    ],
    "has_no_variables_of_other_services": [
        (drop("Deployment", "-serving", f"{POD} enableServiceLinks"),)
    ],
    "images_are_of_one_version": [
        (serving(f"{MAIN} image", "registry.example:5000/tailorbird-serving"),),
        (serving(f"{MAIN} image", "tailorbird-serving:latest"),),
        (serving(f"{MAIN} image", "tailorbird-serving:1@sha256:0"),),
    ],
    "is_in_the_release_s_namespace": [
        (put("Service", "-serving", "metadata namespace", "default"),)
    ],
    "no_secret_stands_in_clear": [
        (add({"kind": "Secret", "metadata": {"name": "shop-tokens"}}),),
        (put("ConfigMap", "-trainer", "data URL", "postgresql://me:word@host/db"),),
        (put("ConfigMap", "-trainer", "data AWS_SECRET_ACCESS_KEY", "abc"),),
        (append("Deployment", "-serving", _ENV, {"name": "HF_TOKEN", "value": "abc"}),),
        (put("StatefulSet", "-trainer", f"{MAIN} args", ["--key=hf_abcdefghijklmnopqrstuvwxyz"]),),
    ],
    "secrets_are_named_and_must_exist": [
        (
            append(
                "Deployment",
                "-serving",
                _ENV,
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "", "key": "a"}}},
            ),
        ),
        (
            append(
                "Deployment",
                "-serving",
                _ENV,
                {
                    "name": "A",
                    "valueFrom": {"secretKeyRef": {"name": "b", "key": "a", "optional": True}},
                },
            ),
        ),
        (append("Deployment", "-serving", f"{MAIN} envFrom", {"secretRef": {"name": ""}}),),
        (
            append(
                "Deployment",
                "-serving",
                f"{POD} volumes",
                {
                    "name": "more",
                    "secret": {"secretName": "more", "optional": True, "defaultMode": 0o440},
                },
            ),
        ),
    ],
    "secret_files_are_for_the_pod_s_group_only": [
        (
            append(
                "Deployment",
                "-serving",
                f"{POD} volumes",
                {"name": "a", "secret": {"secretName": "a"}},
            ),
        ),
    ],
    "services_are_reached_inside_the_cluster_only": [
        (put("Service", "-serving", "spec type", "NodePort"),),
        (put("Service", "-serving", "spec externalIPs", ["192.0.2.1"]),),
    ],
    "every_container_says_what_it_needs": [
        (drop("Deployment", "-serving", f"{MAIN} resources requests cpu"),),
        (drop("StatefulSet", "-trainer", f"{MAIN} resources limits memory"),),
        (drop("StatefulSet", "-trainer", f"{MAIN} resources requests ephemeral-storage"),),
    ],
    "folders_in_memory_and_on_the_node_are_bounded": [
        (append("Deployment", "-serving", f"{POD} volumes", {"name": "a", "emptyDir": {}}),),
    ],
    "a_gpu_is_asked_for_once_and_whole": [
        (
            serving(f"{MAIN} resources limits nvidia.com/gpu", 2),
            serving(f"{MAIN} resources requests nvidia.com/gpu", 1),
        ),
        (
            serving(
                f"{POD} resourceClaims",
                [{"name": "gpu", "resourceClaimTemplateName": "shop-tailorbird-gone"}],
            ),
        ),
    ],
    "probes_are_on_the_plain_port": [
        (drop("Deployment", "-serving", f"{MAIN} livenessProbe"),),
        (serving(f"{MAIN} livenessProbe httpGet path", "/readyz"),),
        (serving(f"{MAIN} readinessProbe httpGet port", "grpc"),),
        (serving(f"{MAIN} readinessProbe httpGet scheme", "HTTPS"),),
        (serving(f"{MAIN} ports 1 name", "metrics"),),
    ],
    "probes_give_time": [
        (serving(f"{MAIN} startupProbe failureThreshold", 3),),
        (serving(f"{MAIN} livenessProbe failureThreshold", 1),),
    ],
    "stopping_fits_into_the_grace_period": [
        (serving(f"{POD} terminationGracePeriodSeconds", 65),),
        (drop("StatefulSet", "-trainer", f"{POD} terminationGracePeriodSeconds"),),
        (
            put("ConfigMap", "-serving", "data TAILORBIRD_DRAIN_DELAY", "0"),
            serving(f"{MAIN} lifecycle preStop sleep seconds", 0),
        ),
    ],
    "one_trainer_and_never_two": [
        (trainer("spec replicas", 2),),
        (trainer("spec volumeClaimTemplates", [{"metadata": {"name": "data"}}]),),
    ],
    "a_roll_out_can_go_on": [
        (
            serving("spec strategy rollingUpdate maxSurge", 0),
            serving("spec strategy rollingUpdate maxUnavailable", 0),
        ),
        (serving("spec progressDeadlineSeconds", 600),),
    ],
    "disruption_budgets_let_nodes_be_drained": [
        (put("PodDisruptionBudget", "-serving", "spec maxUnavailable", 0),),
        (
            drop("PodDisruptionBudget", "-serving", "spec maxUnavailable"),
            put("PodDisruptionBudget", "-serving", "spec minAvailable", "100%"),
        ),
        (put("PodDisruptionBudget", "-serving", "spec selector matchLabels", {"app": "x"}),),
        (drop("PodDisruptionBudget", "-serving", "spec unhealthyPodEvictionPolicy"),),
    ],
    "several_replicas_have_a_budget_and_are_spread": [
        (serving("spec replicas", 3), remove("PodDisruptionBudget", "-serving")),
        (serving("spec replicas", 3), serving(f"{POD} topologySpreadConstraints", [])),
    ],
    "spreading_selects_the_pod_itself": [
        (
            serving(
                f"{POD} topologySpreadConstraints 0 labelSelector", {"matchLabels": {"app": "x"}}
            ),
        ),
    ],
    "replicas_are_set_by_one_side": [
        (serving("spec replicas", 1), add(_SCALER)),
        (
            drop("Deployment", "-serving", "spec replicas"),
            lambda rendered: rendered.objects.__setitem__(
                slice(None), [o for o in rendered.objects if o["kind"] != "ScaledObject"]
            ),
        ),
        (
            add(
                _SCALER
                | {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "shop-tailorbird-x"}}}
            ),
        ),
    ],
    "hooks_end_and_leave_nothing": [
        (of_job("spec activeDeadlineSeconds", _GONE),),
        (of_job(f"{POD} restartPolicy", "OnFailure"),),
        (of_job("metadata annotations helm.sh/hook-delete-policy", _GONE),),
        (
            lambda rendered: rendered.hooks.append(
                {
                    "kind": "Pod",
                    "metadata": {"name": "a", "annotations": {"helm.sh/hook": "test"}},
                    "spec": {"containers": [], "restartPolicy": "Always"},
                }
            ),
        ),
    ],
    "claims_outlive_the_release": [
        (
            drop(
                "PersistentVolumeClaim", "-trainer", "metadata annotations helm.sh/resource-policy"
            ),
        ),
    ],
    "selectors_match_their_own_pods_only": [
        (serving("spec selector matchLabels app.kubernetes.io/version", "0.1.0"),),
        (serving(f"{TEMPLATE} metadata labels app.kubernetes.io/component", "trainer"),),
    ],
    "services_lead_to_ports_that_exist": [
        (put("Service", "-serving", "spec ports 0 targetPort", "grcp"),),
        (put("Service", "-serving", "spec selector", {"app": "x"}),),
        (drop("Service", "-serving", "spec selector app.kubernetes.io/component"),),
    ],
    "grpc_ports_say_so": [(put("Service", "-serving", "spec ports 0 appProtocol", "tcp"),)],
    "every_pod_is_behind_a_network_policy_both_ways": [
        (remove("NetworkPolicy", "-trainer"),),
        (without_hook("NetworkPolicy"),),
        (put("NetworkPolicy", "-serving", "spec policyTypes", ["Ingress"]),),
    ],
    "network_policies_open_something_by_name": [
        (put("NetworkPolicy", "-serving", "spec podSelector matchLabels", {"app": "x"}),),
        (append("NetworkPolicy", "-serving", "spec egress", {"to": []}),),
    ],
    "every_volume_is_mounted_and_every_mount_has_a_volume": [
        (mount("more", "/tmp/more")[0],),
        (mount("more", "/tmp/more")[1],),
        mount("data", "/store"),
        mount("more", "/tmp"),
    ],
    "only_these_folders_are_writable": [mount("more", "/root"), mount("more", "/tmp", subPath="a")],
    "what_a_pod_names_is_in_the_release": [
        (remove("ConfigMap", "-serving"),),
        (remove("ServiceAccount", "-serving"),),
        (remove("PersistentVolumeClaim", "-trainer"),),
        (remove("Service", "-trainer-headless"),),
        (
            append(
                "StatefulSet",
                "-trainer",
                f"{POD} volumes",
                {"name": "a", "configMap": {"name": "shop-tailorbird-gone"}},
            ),
        ),
        (
            serving(
                f"{POD} resourceClaims",
                [{"name": "gpu", "resourceClaimTemplateName": "shop-tailorbird-gone"}],
            ),
        ),
    ],
    "variables_and_ports_have_one_meaning": [
        (serving(_ENV, [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),),
        (serving(f"{MAIN} ports 0 name", "a-name-that-is-too-long"),),
        (serving(f"{MAIN} ports 0 containerPort", 9092),),
    ],
    "labels_are_complete": [
        (drop("Service", "-serving", "metadata labels app.kubernetes.io/part-of"),),
        (serving(f"{TEMPLATE} metadata labels app.kubernetes.io/version", 1.0),),
        (put("Service", "-serving", "metadata labels more", "a" * 64),),
    ],
    "names_are_valid_and_unique": [
        (put("Service", "-serving", "metadata name", "a" * 64),),
        (put("Service", "-serving", "metadata name", "Shop"),),
        (put("Service", "-serving-headless", "metadata name", "shop-tailorbird-serving"),),
    ],
    "a_changed_config_restarts_its_pods": [
        (serving(f"{TEMPLATE} metadata annotations", {}),),
    ],
    "commands_run_without_a_shell": [
        (serving(f"{MAIN} command", ["/bin/sh", "-c", "python -m serving_svc"]),),
        (serving(f"{MAIN} args", ["bash", "-c", "sleep 1"]),),
    ],
}
