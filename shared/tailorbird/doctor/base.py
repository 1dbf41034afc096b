"""The base model: whether it is there, and holds what both services need."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tailorbird.base_model import context_length, has_chat_template
from tailorbird.base_source import check_base_source
from tailorbird.doctor.finding import Finding, failed, ok, warning
from tailorbird.doctor.folders import nearest
from tailorbird.errors import InvalidArgument

_SUBJECT = "base model"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def base_model(model: str) -> Iterator[Finding]:
    """Tell of a folder what it lacks; of a hub's model whether it can be fetched."""
    try:
        source = check_base_source(model)
    except InvalidArgument as error:
        # What to do stands at its end.
        found, _, advice = error.description.rpartition(": ")
        yield failed(_SUBJECT, found, advice)
        return
    if source is not None:
        yield _fetched(model, source.bytes, source.folder)
        return
    folder = Path(model)
    try:
        length = context_length(folder)
        has_template = has_chat_template(folder)
    except InvalidArgument as error:
        advice = "copy the model's own files into it again, as transformers' save_pretrained does"
        yield failed(_SUBJECT, error.description, advice)
        return
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        yield failed(
            _SUBJECT,
            f"{folder} has no tokenizer ({', '.join(_TOKENIZERS[:2])})",
            "copy the model's tokenizer files into it; transformers' tokenizer.save_pretrained"
            " writes them",
        )
    elif not has_template:
        yield warning(
            _SUBJECT,
            f"{folder} has no chat template: chats can be neither trained on nor answered",
            "add the model's chat_template.jinja, take an instruction-tuned base, or use"
            " prompt_completion data and plain prompts only",
        )
    else:
        yield ok(_SUBJECT, f"{folder}: {length:,} tokens of context, with tokenizer and template")


def _fetched(model: str, size: int | None, folder: Path) -> Finding:
    if size is None:
        return ok(_SUBJECT, f"{model}, in the Hugging Face cache ({folder})")
    free = shutil.disk_usage(nearest(folder.absolute())).free
    told = f"{model} is fetched at the first start: {size / 2**30:.1f} GiB to {folder}"
    if size > free:
        advice = "make room, or set HF_HOME to a larger disk"
        return failed(_SUBJECT, f"{told}, where {free / 2**30:.1f} GiB are free", advice)
    return ok(_SUBJECT, told)
