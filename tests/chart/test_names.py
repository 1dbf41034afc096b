"""Names: long ones, chosen ones, and two releases side by side."""

from __future__ import annotations

import pytest

from tests.chart.helm import Object, Rendered, default_values, merged, profile_values, render
from tests.chart.pods import both, pods, selects
from tests.chart.rules import wiring
from tests.chart.test_profiles import valid

LONGEST = "a-release-whose-name-is-as-long-as-helm-lets-it-be-53"


def identities(rendered: Rendered) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in rendered}


@pytest.mark.parametrize("values", [{}, {"nameOverride": "b" * 40}, {"fullnameOverride": "c" * 40}])
def test_names_stay_valid_however_long_the_release_s_is(profile: str, values: Object) -> None:
    assert len(LONGEST) == 53
    rendered = render(merged(profile_values(profile), values), release=LONGEST)

    assert list(wiring.names_are_valid_and_unique(rendered)) == []
    assert list(wiring.labels_are_complete(rendered)) == []
    assert list(wiring.services_lead_to_ports_that_exist(rendered)) == []
    assert list(wiring.selectors_match_their_own_pods_only(rendered)) == []
    assert valid(rendered) == []


def test_long_names_that_end_differently_stay_apart() -> None:
    first = render(profile_values("replicated"), release=LONGEST[:-1] + "1")
    second = render(profile_values("replicated"), release=LONGEST[:-1] + "2")

    assert not identities(first) & identities(second)


def test_a_whole_name_replaces_the_release_s(profile: str) -> None:
    rendered = render(merged(profile_values(profile), {"fullnameOverride": "birds"}))

    assert {name for _, name in identities(rendered) if not name.startswith("birds")} == set()


def test_the_release_s_name_is_not_said_twice() -> None:
    rendered = render(profile_values("cpu"), release="tailorbird")

    assert "tailorbird-serving" in {name for _, name in identities(rendered)}


def test_two_releases_in_one_namespace_do_not_meet(profile: str) -> None:
    values = profile_values(profile)
    first, second = render(values, release="one"), render(values, release="two")

    shared = identities(first) & identities(second)
    assert {each for each in shared if each[0] != "ServiceAccount"} == set()
    for mine, theirs in ((first, second), (second, first)):
        for selector in _selectors(mine):
            assert not [str(pod) for pod in pods(theirs) if selects(selector, pod.labels)]


def _selectors(rendered: Rendered) -> list[Object]:
    found = [each["spec"]["selector"] for each in rendered.of_kind("Service", "Deployment")]
    found += [each["spec"]["selector"] for each in rendered.of_kind("StatefulSet")]
    found += [each["spec"]["selector"] for each in rendered.of_kind("PodDisruptionBudget")]
    found += [each["spec"]["podSelector"] for each in rendered.of_kind("NetworkPolicy")]
    found += [each["spec"]["selector"] for each in rendered.of_kind("PodMonitor", "InferencePool")]
    return found


def test_nothing_is_named_outside_the_release(rendered: Rendered) -> None:
    assert {name for _, name in identities(rendered) if not name.startswith("shop-")} == set()


def test_labels_of_the_user_s_are_on_everything_and_change_no_selector() -> None:
    plain = render(profile_values("replicated"))
    labelled = render(
        merged(
            profile_values("replicated"),
            {"commonLabels": {"team": "ml"}, "commonAnnotations": {"example.com/owner": "ml"}},
        )
    )

    for each in labelled:
        assert each["metadata"]["labels"]["team"] == "ml"
        assert each["metadata"]["annotations"]["example.com/owner"] == "ml"
    for pod in pods(labelled):
        assert pod.labels["team"] == "ml"
    assert _selectors(plain) == _selectors(labelled)


def test_labels_of_the_user_s_replace_none_of_the_chart_s() -> None:
    key = "app.kubernetes.io/component"
    values = {"commonLabels": {key: "other"}, "serving": {"podLabels": {key: "other"}}}
    rendered = render(merged(profile_values("replicated"), values))

    assert both(rendered)["serving"].labels[key] == "serving"
    assert list(wiring.selectors_match_their_own_pods_only(rendered)) == []


def test_defaults_name_nobody_s_secrets() -> None:
    """An install without them fails, and does not run on somebody else's."""
    values = default_values()
    assert values["auth"]["existingSecret"] == values["tls"]["existingSecret"] == ""
    assert values["objectStore"]["existingSecret"] == values["objectStore"]["url"] == ""
    assert values["trainer"]["database"]["existingSecret"] == ""
