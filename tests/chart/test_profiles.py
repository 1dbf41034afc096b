"""Every profile lints, renders, and is what an API server takes."""

from __future__ import annotations

import pytest

from tests.chart import lint as lint_tool
from tests.chart.helm import PROFILES, Rendered, lint, profile_values
from tests.chart.kinds import NEWEST, OLDEST, is_built_in, problems


def valid(rendered: Rendered, version: str = NEWEST) -> list[str]:
    """Return what an API server would say of the objects of Kubernetes' own kinds."""
    return [
        problem
        for document in rendered
        if is_built_in(document)
        for problem in problems(document, version)
    ]


def test_there_is_a_profile_for_each_way_to_run() -> None:
    assert set(PROFILES) == {
        "cpu",
        "dra",
        "everything",
        "replicated",
        "shared-gpu",
        "tensor-parallel",
    }


def test_a_profile_lints_without_a_warning(profile: str) -> None:
    assert lint(profile_values(profile)) == []


def test_make_check_fails_for_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint_tool.main() == 0
    monkeypatch.setattr(lint_tool, "profile_values", lambda _: {"trainr": {}})

    assert lint_tool.main() == 1
    assert "cpu: values.yaml: " in capsys.readouterr().out


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_an_api_server_takes_every_object(rendered: Rendered, version: str) -> None:
    found = [
        each
        for document in rendered
        if is_built_in(document)
        for each in problems(document, version)
    ]

    assert found == []


def test_what_an_api_server_would_refuse_is_found() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a"},
        "spec": {"port": 1},
    }

    assert "'port' was unexpected" in "\n".join(problems(service, OLDEST))
    assert not is_built_in(service | {"apiVersion": "v2"})
    assert problems(service | {"kind": "Servise"}, OLDEST) == [
        "Servise a: Kubernetes 1.34 has no v1"
    ]
