"""How a version is judged: EvaluationConfig to the domain and back."""

from __future__ import annotations

from tailorbird.adapters.v1 import judgement_pb2
from tailorbird.errors import InvalidArgument
from tailorbird.tuning.v1 import job_pb2
from trainer_svc.judgement.check import MAX_RECORDS, check_spec
from trainer_svc.judgement.model import EvaluationSpec, Grader

_AT = "job.spec.evaluation."
_NUMBERS = (
    "few_shot_examples",
    "max_records",
    "max_slice_drop",
    "max_retention_loss",
    "max_forgotten",
    "max_counterfactual_changes",
)


def evaluation_from_proto(config: job_pb2.EvaluationConfig) -> EvaluationSpec:
    """Return what is asked for; InvalidArgument names what is wrong with it."""
    given = {name: getattr(config, name) for name in _NUMBERS if config.HasField(name)}  # type: ignore[arg-type]
    spec = EvaluationSpec(
        primary_metric=config.primary_metric,
        required_phrases=tuple(config.required_phrases),
        forbidden_phrases=tuple(config.forbidden_phrases),
        graders=tuple(_grader(index, grader) for index, grader in enumerate(config.graders)),
        json_schema=config.json_schema,
        slice_fields=tuple(config.slice_fields),
        counterfactuals=tuple(tuple(each.words) for each in config.counterfactuals),
        **given,
    )
    # None at all is no number of records that is too small.
    check_spec(spec if spec.max_records else spec.model_copy(update={"max_records": MAX_RECORDS}))
    return spec


def evaluation_to_proto(spec: EvaluationSpec) -> job_pb2.EvaluationConfig:
    """Return the message for it."""
    return job_pb2.EvaluationConfig(
        primary_metric=spec.primary_metric,
        required_phrases=spec.required_phrases,
        forbidden_phrases=spec.forbidden_phrases,
        graders=[_grader_to_proto(grader) for grader in spec.graders],
        json_schema=spec.json_schema,
        slice_fields=spec.slice_fields,
        counterfactuals=[
            job_pb2.EvaluationConfig.WordSet(words=words) for words in spec.counterfactuals
        ],
        **spec.model_dump(include=set(_NUMBERS), exclude_none=True),
    )


def _grader(index: int, grader: judgement_pb2.Grader) -> Grader:
    kind = grader.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument(
            f"{_AT}graders[{index}]",
            "of an unknown kind: string_check and text_similarity are known",
        )
    return Grader(
        kind=kind,
        name=grader.name,
        operation=grader.string_check,
        evaluation_metric=grader.text_similarity,
        **{side: text for side in ("input", "reference") if (text := getattr(grader, side))},
    )


def _grader_to_proto(grader: Grader) -> judgement_pb2.Grader:
    message = judgement_pb2.Grader(name=grader.name, input=grader.input, reference=grader.reference)
    if grader.kind == "string_check":
        message.string_check = grader.operation
    else:
        message.text_similarity = grader.evaluation_metric
    return message
