"""What a service needs, looked at with its own settings: `python -m trainer_svc check`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tailorbird.cli.findings import lines
from tailorbird.doctor.base import base_model
from tailorbird.doctor.clock import store_clock
from tailorbird.doctor.credentials import certificate, tokens_file
from tailorbird.doctor.finding import Finding, Status, failed, ok
from tailorbird.doctor.folders import data_directory
from tailorbird.doctor.ports import port
from tailorbird.doctor.running import Check, looked_at
from tailorbird.doctor.store import store
from tailorbird.doctor.variables import variables
from tailorbird.failed_start import told, wrong_settings
from tailorbird.holders import lock_holder
from tailorbird.settings import CommonSettings

_Settings = TypeVar("_Settings", bound=CommonSettings)
_PREFIX = "TAILORBIRD_"


def run(
    arguments: Sequence[str],
    module: str,
    read_settings: Callable[..., _Settings],
    own: Callable[[_Settings], list[Check]],
    lock: str,
) -> int:
    """Print what is found of the service in `module`; return 0 if nothing failed, otherwise 1.

    `own` gives the checks that this service has alone; `lock` is the file of the data directory
    that its process holds.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module} check", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="Print the findings as JSON.")
    as_json = parser.parse_args(arguments).json
    settings, found = _read(read_settings)
    checks = [Check("variables", variables)]
    if settings is not None:
        checks += [*_common(settings, module, lock), *own(settings)]
    found += looked_at(checks)
    if as_json:
        text = json.dumps([one.values() for one in found], indent=2)
    else:
        text = "\n".join(lines(found))
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return int(any(one.status is Status.FAILED for one in found))


def _read(read_settings: Callable[..., _Settings]) -> tuple[_Settings | None, list[Finding]]:
    """Return the settings, and what is wrong with them; the wrong ones are left out then."""
    found: list[Finding] = []
    # What is left out may have been what another needs.
    for _ in range(3):
        try:
            missing = {} if os.environ.get(f"{_PREFIX}BASE_MODEL") else {"base_model": ""}
            settings = read_settings(**missing)
        except ValidationError as error:
            for setting, problem in wrong_settings(error):
                text = told(setting, problem)["error"]
                advice = "correct it; docs/reference/settings.md says what it may be"
                found.append(failed("settings", text, advice))
                os.environ.pop(f"{_PREFIX}{setting.upper()}", None)
        else:
            return settings, found
    return None, found


def _common(settings: CommonSettings, module: str, lock: str) -> list[Check]:
    data_dir, url = settings.data_dir, settings.object_store_url
    listens = [
        Check(
            f"port {number}",
            partial(port, settings.host, number, _chosen_by(module, name), module, data_dir),
        )
        for name in ("port", "metrics_port", "http_port")
        if (number := getattr(settings, name))
    ]
    pair = settings.tls_certificate_file, settings.tls_key_file
    return [
        Check("data directory", partial(data_directory, data_dir, lock)),
        *listens,
        Check("object store", partial(store, url)),
        Check("clock", partial(store_clock, url)),
        Check("tokens file", partial(tokens_file, settings.tokens_file)),
        Check("TLS certificate", partial(certificate, *pair)),
        Check("base model", partial(_base, settings.base_model, data_dir / lock)),
    ]


def _chosen_by(module: str, setting: str) -> str:
    option = f"--{module.removesuffix('_svc')}-{setting.replace('_', '-')}"
    return f"{_PREFIX}{setting.upper()} (`tailorbird up`: {option})"


def _base(model: str, lock: Path) -> list[Finding]:
    if not model:
        # Nobody who asks beside `tailorbird up` repeats what it was started with.
        if lock_holder(lock.absolute()) is not None:
            return [ok("base model", "none is named here; the service that runs has one")]
        advice = "name a folder or a Hugging Face id: TAILORBIRD_BASE_MODEL, or --base-model"
        return [failed("base model", "none is named", advice)]
    return list(base_model(model))
