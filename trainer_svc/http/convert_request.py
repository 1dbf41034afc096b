"""A fine-tuning job as OpenAI has it: what is asked for, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields
from tailorbird.names import AdapterName, TenantName, check_id
from tailorbird.tuning.v1 import job_pb2
from trainer_svc.bases import BaseModels
from trainer_svc.http.ids import dataset_of
from trainer_svc.jobs.learning_rate import auto_learning_rate
from trainer_svc.jobs.model import LoraSpec

AUTO = "auto"
SUPERVISED = "supervised"
_HIGHEST_RATE = 1.0


class Asked:
    """What a request to create a job says: `spec` as gRPC would have it, every rule yet to apply.

    `names` are what the request calls the fields that the use cases name in their errors. Raises
    InvalidArgument, naming the field, for what is not to be understood or has no counterpart.
    """

    def __init__(self, body: Mapping[str, Any], tenant: TenantName, bases: BaseModels) -> None:
        fields = Fields(body)
        model = fields.needed_text("model")
        training = dataset_of(tenant, fields.needed_text("training_file"), "training_file")
        validation = fields.text("validation_file")
        suffix = fields.text("suffix")
        self.spec = job_pb2.JobSpec(
            training_dataset=str(training),
            adapter=str(AdapterName(tenant.tenant, check_id("suffix", suffix or training.dataset))),
            labels=fields.texts("metadata"),
        )
        if validation is not None:
            held_out = dataset_of(tenant, validation, "validation_file")
            self.spec.validation_dataset = str(held_out)
        self._model(model, tenant)
        seed = fields.whole("seed")
        if seed is not None:
            self.spec.hyperparameters.seed = seed
        self._method(fields, bases)
        fields.only("integrations", [], why="metrics are among the job's events")
        fields.end()

    @property
    def names(self) -> dict[str, str]:
        """What the request calls the fields that the use cases name."""
        spec = "job.spec."
        return {
            f"{spec}base_model": "model",
            f"{spec}from_version": "model",
            "from_version": "model",
            f"{spec}training_dataset": "training_file",
            f"{spec}validation_dataset": "validation_file",
            f"{spec}adapter": "suffix",
            f"{spec}labels": "metadata",
            f"{spec}hyperparameters.epochs": f"{self._at}n_epochs",
            f"{spec}hyperparameters.seed": "seed",
            "request_id": "Idempotency-Key",
        }

    def _model(self, model: str, tenant: TenantName) -> None:
        if not model:
            raise InvalidArgument("model", "it is empty; name a base model, or a version")
        if "/versions/" not in model:
            self.spec.base_model = model
        elif model.startswith("tenants/"):
            self.spec.from_version = model
        else:
            self.spec.from_version = f"{tenant}/adapters/{model}"

    def _method(self, fields: Fields, bases: BaseModels) -> None:
        chosen = fields.inner("hyperparameters")
        method = fields.inner("method")
        if method is not None:
            method.only("type", SUPERVISED, why="jobs learn the answers that they are given")
            supervised = method.inner(SUPERVISED)
            method.end()
            if supervised is not None:
                inner = supervised.inner("hyperparameters")
                supervised.end()
                if inner is not None and chosen is not None:
                    raise InvalidArgument(
                        "hyperparameters",
                        "they are in method.supervised too; give them there only",
                    )
                chosen = chosen or inner
        chosen = chosen or Fields({}, "hyperparameters")
        self._at = chosen.path("")
        self._hyperparameters(chosen, bases)
        chosen.end()

    def _hyperparameters(self, values: Fields, bases: BaseModels) -> None:
        values.only(
            "batch_size",
            AUTO,
            why=f"a step has as many tokens as fit the data, not so many records; say {AUTO!r}",
        )
        if not values.says("n_epochs", AUTO):
            epochs = values.whole("n_epochs")
            if epochs is not None:
                self.spec.hyperparameters.epochs = epochs
        if not values.says("learning_rate_multiplier", AUTO):
            multiplier = values.number("learning_rate_multiplier")
            if multiplier is not None:
                self._rate(multiplier, values.path("learning_rate_multiplier"), bases)

    def _rate(self, multiplier: float, field: str, bases: BaseModels) -> None:
        if self.spec.from_version:
            raise InvalidArgument(
                field,
                f"it needs a base's name as the model, not a version's; say {AUTO!r}",
                reason="UNSUPPORTED",
            )
        base = bases.named(self.spec.base_model)
        if base is None:
            # The use case refuses it.
            return
        usual = auto_learning_rate(base.hidden_size, LoraSpec())
        if not 0 < multiplier * usual <= _HIGHEST_RATE:
            raise InvalidArgument(
                field,
                f"{multiplier:.6g} times the usual rate of {usual:.3g} is not above 0 and at most "
                f"{_HIGHEST_RATE:g}",
            )
        self.spec.hyperparameters.learning_rate = multiplier * usual
