"""What a caller is told of a source, and what is its operator's alone."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tailorbird.errors import FailedPrecondition
from tailorbird.names import TenantName
from tailorbird.object_store import open_store
from trainer_svc.datasets.sources import DatasetSources

ACME = TenantName("acme")


@pytest.mark.parametrize(
    ("prefix", "settings"),
    [
        ("az://box/", {}),
        ("gs://box/", {"GOOGLE_SERVICE_ACCOUNT": "/etc/none/secret.json"}),
    ],
)
async def test_credentials_that_open_nothing_are_told_to_the_operator_alone(
    monkeypatch: pytest.MonkeyPatch, prefix: str, settings: dict[str, str]
) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    sources = DatasetSources({"acme": [prefix]}, open_store)
    with capture_logs() as logged, pytest.raises(FailedPrecondition) as caught:
        async for _ in sources.pieces(ACME, f"{prefix}chats.jsonl", "uri"):
            pass
    assert caught.value.reason == "SOURCE_REFUSED"
    assert caught.value.metadata == {"field": "uri"}
    assert caught.value.message.startswith(f"the trainer may not read {prefix}chats.jsonl:")
    assert "secret" not in caught.value.message
    (entry,) = logged
    assert all(value in entry["error"] for value in settings.values())
