"""The one line of a start that fails: the setting, its key in values.yaml, what is wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving_svc.settings import ServingSettings
from tailorbird.errors import FailedPrecondition, InvalidArgument, NotFound
from tailorbird.failed_start import setting_of, told, wrong_settings

KEYS = {
    "TAILORBIRD_VALUES_KEYS": "MAX_LORA_RANK=serving.config.maxLoraRank, TAILORBIRD_HOST=bind,,x,y="
}
FIELDS = ServingSettings.model_fields


def problems(**given: object) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        ServingSettings(**{"base_model": "demo", **given})  # type: ignore[arg-type]
    return list(wrong_settings(caught.value))


def test_every_kind_of_wrong_setting_is_named() -> None:
    ((setting, problem),) = problems(max_lora_rank="7")
    assert (setting, problem[:18]) == ("max_lora_rank", "Input should be 8,")
    assert problems(replica="-") == [
        ("replica", "replica '-' must be 1 to 63 letters, digits, '-' or '.', and begin and end "
         "with a letter or digit")
    ]  # fmt: skip
    ((setting, problem),) = problems(adapter_slots=4, max_cpu_loras=3)
    assert (setting, problem[:27]) == ("max_cpu_loras", "3 is less than adapter_slot")
    ((setting, _),) = problems(warm="tenants/a/adapters/b,nonsense")
    assert setting == "warm"
    assert [setting for setting, _ in problems(port=-1, dtype="int8")] == ["port", "dtype"]


@pytest.mark.parametrize("digest", ["sha256:12", "md5:" + "0" * 32, "0" * 64])
def test_a_digest_must_be_one(digest: str) -> None:
    ((setting, _),) = problems(base_model_digest=digest)
    assert setting == "base_model_digest"


def test_the_line_names_where_the_setting_was_set() -> None:
    assert told("max_lora_rank", "too\nlarge", KEYS) == {
        "setting": "TAILORBIRD_MAX_LORA_RANK",
        "values_key": "serving.config.maxLoraRank",
        "error": "TAILORBIRD_MAX_LORA_RANK (serving.config.maxLoraRank in values.yaml): too large",
    }
    assert told("host", "no", KEYS)["values_key"] == "bind"
    assert told("y", "no", KEYS) == {"setting": "TAILORBIRD_Y", "error": "TAILORBIRD_Y: no"}
    assert told("", "no", KEYS) == {"error": "no"}


def test_an_error_at_the_start_knows_its_setting() -> None:
    assert setting_of(InvalidArgument("base_model", "no"), FIELDS) == ("base_model", "no")
    assert setting_of(InvalidArgument("a.field", "no"), FIELDS) == ("", "a.field: no")
    assert setting_of(FailedPrecondition("no", setting="port"), FIELDS) == ("port", "no")
    assert setting_of(NotFound("x"), FIELDS) == ("", "x does not exist")
