"""Settings both services have: TAILORBIRD_ environment variables, checked at start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tailorbird.address import is_loopback
from tailorbird.object_store import is_store_url
from tailorbird.store_patience import RETRY_SECONDS

Port = Annotated[int, Field(ge=0, le=65535)]


def _number(value: Any) -> Any:
    # A Literal takes no number from a string, and the environment has only strings.
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Rank = Annotated[Literal[8, 16, 32, 64, 128], BeforeValidator(_number)]


def wrong_setting(setting: str, problem: str) -> PydanticCustomError:
    """Return the error of a check over several settings; `setting` is the one to change."""
    return PydanticCustomError(
        "wrong_setting", "{setting}: {problem}", {"setting": setting, "problem": problem}
    )


class CommonSettings(BaseSettings):
    """What the trainer and serving both read."""

    model_config = SettingsConfigDict(
        env_prefix="TAILORBIRD_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    data_dir: Path = Path(".tailorbird")
    """Folder of everything a service keeps on local disk."""
    object_store: str = ""
    """file://, s3://, gs:// or az:// URL. Empty: the folder `store` under data_dir."""
    store_retry_timeout: Annotated[float, Field(gt=0, le=300)] = RETRY_SECONDS
    """Seconds for which a request that the object store fails is tried again.

    With growing pauses, half of each by chance; after that a call is UNAVAILABLE. A store in a
    folder is asked once.
    """
    base_model: str
    """Local folder or Hugging Face id, whose revision may follow: org/name@revision."""
    base_model_name: str = ""
    """What jobs and manifests call the base model. Empty: its id, or its folder's name."""
    base_model_digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest the base model must have, as `tailorbird base digest` prints it. Empty: any."""
    profile: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "default"
    """Name of the serving profile that serving writes and the trainer heeds."""
    host: str = "127.0.0.1"
    """Address all ports bind to."""
    port: Port
    metrics_port: Port
    http_port: Port = 0
    """Port of the HTTP that OpenAI's clients speak; 0: none. Needs the extra `http`."""
    tokens_file: Path | None = None
    """Static tokens (see tailorbird.rpc.auth). Without it only loopback addresses are served.

    Read again when it changes, within about a second.
    """
    tls_certificate_file: Path | None = None
    """PEM file of the server's certificate and those between it and its authority, leaf first.

    With it gRPC and HTTP speak TLS only; the metrics port stays plain, for probes. Read again, with
    its key, when they change. Needs tls_key_file.
    """
    tls_key_file: Path | None = None
    """PEM file of the certificate's private key, without a password."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Below which level nothing is logged."""
    drain_delay: Annotated[float, Field(ge=0, le=300)] = 0.0
    """Seconds between NOT_SERVING and the refusal of new calls, after SIGTERM.

    As long as load balancers need to hear of it; on Kubernetes a few seconds.
    """
    shutdown_grace: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """Seconds that calls in flight, and a worker's checkpoint, have to end after drain_delay."""

    @field_validator("object_store")
    @classmethod
    def _store_is_known(cls, url: str) -> str:
        # No message repeats it: it may hold what belongs in the environment.
        if url and not is_store_url(url):
            raise ValueError("it is not a file, s3, gs or az URL")
        parts = urlsplit(url)
        if parts.scheme != "file" and ("@" in parts.netloc or parts.query):
            raise ValueError(
                "it holds more than bucket and path: credentials and options are taken from the "
                "environment, such as AWS_ACCESS_KEY_ID"
            )
        return url

    @model_validator(mode="after")
    def _only_loopback_without_tokens(self) -> Self:
        if self.tokens_file is None and not is_loopback(self.host):
            raise wrong_setting(
                "host",
                f"{self.host!r} is not a loopback address: set TAILORBIRD_TOKENS_FILE first",
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        taken: dict[int, str] = {}
        for name in ("port", "metrics_port", "http_port"):
            number = getattr(self, name)
            if number and number in taken:
                raise wrong_setting(
                    name,
                    f"{number} is TAILORBIRD_{taken[number].upper()} too: each port needs its own",
                )
            taken[number] = name
        return self

    @model_validator(mode="after")
    def _tls_has_both_files(self) -> Self:
        files = {"tls_certificate_file", "tls_key_file"}
        missing = [name for name in sorted(files) if getattr(self, name) is None]
        if len(missing) == 1:
            (other,) = files - set(missing)
            raise wrong_setting(
                missing[0], f"it is not set, but TAILORBIRD_{other.upper()} is: TLS needs both"
            )
        return self

    @property
    def object_store_url(self) -> str:
        """`object_store`, or the embedded default."""
        return self.object_store or (self.data_dir.resolve() / "store").as_uri()
