"""Each wrong setting names itself and its limit; the defaults agree with one another."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving_svc.settings import ServingSettings


def _read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> ServingSettings:
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    for name, value in variables.items():
        monkeypatch.setenv(f"TAILORBIRD_{name}", value)
    return ServingSettings()


def test_what_is_not_set_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _read(monkeypatch)
    assert settings.adapter_slots is settings.adapter_memory_gib is settings.max_running is None
    assert settings.tenant_tokens_per_minute is None
    assert settings.warm == settings.import_prefixes == ()
    assert settings.replica


@pytest.mark.parametrize(
    "name", ["my_host", "-a-", "ö.example", "x" * 100, "___", "pod-0.serving.svc"]
)
def test_every_host_name_makes_a_replica(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)
    replica = _read(monkeypatch).replica
    assert _read(monkeypatch, REPLICA=replica).replica == replica


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _read(
        monkeypatch,
        WARM="tenants/acme/adapters/a, tenants/acme/adapters/a/versions/20261120T153000-job-1",
        IMPORT_PREFIXES="s3://bucket/{tenant}/,file:///srv/adapters/{tenant}/done/",
    )
    assert len(settings.warm) == 2
    assert settings.import_prefixes == (
        "s3://bucket/{tenant}/",
        "file:///srv/adapters/{tenant}/done/",
    )


def test_feedback_is_off_until_tenants_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _read(monkeypatch)
    assert settings.feedback_allowed == frozenset()
    assert settings.feedback_personal_data == "redact"
    some = _read(monkeypatch, FEEDBACK_TENANTS="acme, globex")
    assert some.feedback_allowed == frozenset({"acme", "globex"})
    assert _read(monkeypatch, FEEDBACK_TENANTS="*").feedback_allowed is None


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"FEEDBACK_TENANTS": "Acme"}, "is not an id"),
        ({"FEEDBACK_TENANTS": "*,acme"}, "stands alone"),
        ({"FEEDBACK_PERSONAL_DATA": "scan"}, "redact"),
        ({"FEEDBACK_MAX_RECORD_BYTES": "1023"}, "1024"),
        ({"FEEDBACK_MAX_RECORD_BYTES": "1048577"}, "1048576"),
        ({"FEEDBACK_RECORDS_PER_DAY": "0"}, "1"),
        ({"FEEDBACK_TENANTS": "acme", "PERSONAL_DATA_KINDS": "shoe_size"}, "shoe_size"),
        ({"FEEDBACK_TENANTS": "acme", "PERSONAL_DATA_PATTERNS": "ticket=("}, "ticket"),
    ],
)
def test_feedback_settings_that_cannot_be_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        _read(monkeypatch, **variables)


def test_feedback_needs_the_extra_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.personal_data.settings.find_spec", lambda _: None)
    assert _read(monkeypatch).feedback_tenants == ()
    with pytest.raises(ValidationError, match=r"feedback_tenants.*tailorbird\[privacy\]"):
        _read(monkeypatch, FEEDBACK_TENANTS="acme")


@pytest.mark.parametrize(
    "prefix",
    [
        "s3://bucket/{tenant}",  # tenant "ab" would have "a"'s neighbours
        "s3://bucket/{tenant}x/../",
        "s3://bucket/",
        "s3://bucket/{tenant}/{tenant}/",
        "s3://bucket/{other}/{tenant}/",
        "/srv/{tenant}/",
        "s3://bucket/{tenant}-adapters/",
        # Importing would refuse these when its first call comes, or read another place than told.
        "s3://{tenant}",
        "http://host/{tenant}/",
        "s3://bucket/../{tenant}/",
        "s3://bucket//{tenant}/",
        "s3://bucket/a%20b/{tenant}/",
        "s3://user@bucket/{tenant}/",
        "s3://bucket:80/{tenant}/",
        f"s3://bucket/{'x' * 1024}/{{tenant}}/",
    ],
)
def test_a_prefix_that_does_not_keep_tenants_apart(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    with pytest.raises(ValidationError, match="is not a URI like"):
        _read(monkeypatch, IMPORT_PREFIXES=prefix)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WARM", "support", "is not the name of an adapter or a version"),
        ("REPLICA", "a/b", "1 to 63 letters"),
        ("ADAPTER_SLOTS", "0", "greater than or equal to 1"),
        ("ADAPTER_SLOTS", "257", "less than or equal to 256"),
        ("MAX_LORA_RANK", "48", "8, 16, 32, 64 or 128"),
        ("TENSOR_PARALLEL_SIZE", "0", "greater than or equal to 1"),
        ("ADAPTER_MEMORY_GIB", "0", "greater than 0"),
        ("STALL_TIMEOUT", "1", "greater than or equal to 5"),
        ("FETCH_STALL_TIMEOUT", "0", "greater than 0"),
        ("TOOL_CALL_PARSER", "../x", "should match pattern"),
        ("METRICS_TENANTS", "-1", "greater than or equal to 0"),
    ],
)
def test_a_wrong_value_names_its_limit(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    with pytest.raises(ValidationError, match=told) as failed:
        _read(monkeypatch, **{name: value})
    assert failed.value.errors()[0]["loc"][0] == name.lower()


def test_no_port_is_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be found out once the engine has started, minutes later."""
    with pytest.raises(ValidationError, match="metrics_port: 9092 is TAILORBIRD_PORT too"):
        _read(monkeypatch, PORT="9092")
    assert _read(monkeypatch, PORT="0", METRICS_PORT="0").port == 0


def test_the_object_store_is_of_a_known_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("", "file:///x", "s3://bucket/x", "GS://x", "az://x"):
        assert _read(monkeypatch, OBJECT_STORE=url).object_store == url
    with pytest.raises(ValidationError, match="object_store"):
        _read(monkeypatch, OBJECT_STORE="ftp://x")


def test_the_host_copies_hold_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="max_cpu_loras: 3 is less than adapter_slots 4"):
        _read(monkeypatch, ADAPTER_SLOTS="4", MAX_CPU_LORAS="3")
    assert _read(monkeypatch, ADAPTER_SLOTS="4", MAX_CPU_LORAS="4").max_cpu_loras == 4


def test_the_disk_holds_the_largest_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=r"adapter_cache_bytes: 9 has no room .* 10"):
        _read(monkeypatch, ADAPTER_CACHE_BYTES="9", MAX_ADAPTER_BYTES="10")
    settings = _read(monkeypatch, ADAPTER_CACHE_BYTES="10", MAX_ADAPTER_BYTES="10")
    assert settings.adapter_cache_bytes == 10


@pytest.mark.parametrize("what", ["running", "waiting"])
def test_one_tenant_may_not_have_more_than_all(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    own, total = f"TENANT_MAX_{what.upper()}", f"MAX_{what.upper()}"
    with pytest.raises(ValidationError, match=f"tenant_max_{what}: 5 is more than max_{what} 4"):
        _read(monkeypatch, **{own: "5", total: "4"})
    assert getattr(_read(monkeypatch, **{own: "4", total: "4"}), own.lower()) == 4


def test_the_rank_cap_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read(monkeypatch, MAX_LORA_RANK="16").max_lora_rank == 16
    for value in ("24", "sixteen"):
        with pytest.raises(ValidationError, match="8, 16, 32, 64 or 128"):
            _read(monkeypatch, MAX_LORA_RANK=value)
