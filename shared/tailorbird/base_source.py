"""Where a base model is to come from, a folder or the Hugging Face hub, and what is wrong with it.

Told in one sentence with what to do, before a service is started or after its download failed.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tailorbird.errors import InvalidArgument

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CONFIGS = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
HUB_PATTERNS = [*WEIGHTS, *CONFIGS, *TOKENIZER]
"""The files of a base that are downloaded, and that its digest covers."""

_PATH = re.compile(r"[/~]|\.\.?(/|$)|.*/$|[^/]*/[^/]*/|.*\\")
_HUB_SECONDS = 10.0
_NEAR = 0.75
_MAX_TEXT = 300
_CHECK = "check the path"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A base that the services fetch from the hub, unless they have it."""

    id: str
    bytes: int | None
    """What is to be fetched; None if it is not known."""
    folder: Path
    """Where it is fetched to."""


def parsed(model: str) -> tuple[str, str]:
    """Return the id and the revision of `org/name@revision`; "" without one."""
    id_, _, revision = model.partition("@")
    return id_, revision


def check_base_source(model: str) -> HubModel | None:
    """Return what is to be fetched from the hub, or None for a folder.

    Raises InvalidArgument, with what to do, where it is neither. Asks the hub where the name is
    no folder's and not in its cache. Needs huggingface_hub.
    """
    path = Path(model)
    if path.is_dir():
        check_folder(path)
        return None
    if problem := folder_problem(model):
        raise InvalidArgument("base_model", problem)
    return _asked_for(model)


def check_folder(path: Path) -> None:
    """Raise InvalidArgument unless the folder holds a base, as far as names of files tell."""
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise InvalidArgument(
            "base_model",
            f"{path} holds no config.json with *.safetensors beside it: name the folder with the "
            "model's own files, as transformers' save_pretrained writes them",
        )


def folder_problem(model: str) -> str:
    """Say what is wrong with `model`, no folder, if it can only have been meant as one; or ""."""
    if Path(model).exists():
        return f"{model} is a file: name the folder with the model's config.json and weights"
    if _PATH.match(model):
        near = _near(Path(model))
        return f"there is no folder {model}: {f'did you mean {near}?' if near else _CHECK}"
    return ""


def hub_problem(model: str, error: Exception) -> str:
    """Say why the hub gave no model of that name, and what to do."""
    from huggingface_hub import errors

    causes = _causes(error)
    id_, revision = parsed(model)
    near = _near(Path(id_))
    nowhere = f"there is no folder {model} here{f' (did you mean {near}?)' if near else ''}"

    def is_one(kind: type[Exception]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if is_one(errors.HFValidationError):
        return f"{nowhere}, and that is no Hugging Face id, which is like org/name: {_CHECK}"
    if is_one(errors.GatedRepoError):
        return (
            f"the Hugging Face hub gives {id_} only to those who accepted its conditions: do so on "
            "its page there, and set HF_TOKEN"
        )
    if is_one(errors.RevisionNotFoundError):
        return f"{id_} on the Hugging Face hub has no revision {revision}: check what follows the @"
    if is_one(errors.RepositoryNotFoundError):
        return (
            f"{nowhere}, and no model of that name on the Hugging Face hub: check the name; for a "
            "private model set HF_TOKEN"
        )
    if is_one(errors.OfflineModeIsEnabled):
        return (
            f"{nowhere}, the Hugging Face cache has no model of that name, and HF_HUB_OFFLINE "
            "forbids to fetch one: name a folder, or unset it"
        )
    text = " ".join(str(causes[-1]).split())[:_MAX_TEXT]
    return (
        f"{nowhere}, and the Hugging Face hub cannot be asked for a model of that name "
        f"({type(causes[-1]).__name__}: {text}): name a folder, or go online"
    )


def _asked_for(model: str) -> HubModel:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    id_, revision = parsed(model)
    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=id_, repo_type="model")
        if isinstance(try_to_load_from_cache(id_, "config.json", revision=revision or None), str):
            return HubModel(id_, None, folder)
        info = HfApi().model_info(
            id_, revision=revision or None, files_metadata=True, timeout=_HUB_SECONDS
        )
    except Exception as error:
        # The hub's own errors, its HTTP library's, and the disk's.
        raise InvalidArgument("base_model", hub_problem(model, error)) from error
    files = [
        one
        for one in info.siblings or []
        if any(fnmatch(one.rfilename, pattern) for pattern in HUB_PATTERNS)
    ]
    names = {one.rfilename for one in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InvalidArgument(
            "base_model",
            f"{id_} on the Hugging Face hub has no config.json with *.safetensors beside it: "
            "choose a model in that format",
        )
    sizes = [one.size for one in files]
    return HubModel(id_, None if None in sizes else sum(filter(None, sizes)), folder)


def _near(path: Path) -> Path | None:
    """Return a folder whose path differs from `path`, which is none, by a slip."""
    if path.parts[:1] == ("~",):
        # A shell replaces it at the start of a word only.
        home = path.expanduser()
        return home if home.is_dir() else _near(home)
    if len(path.parts) < 1 or path.name == "..":
        return None
    parent = path.parent if path.parent.is_dir() else _near(path.parent)
    try:
        beside = [one.name for one in parent.iterdir() if one.is_dir()] if parent else []
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, beside, 1, _NEAR)
    return parent / near[0] if parent and near else None


def _causes(error: BaseException) -> list[BaseException]:
    causes = [error]
    while (below := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(below)
    return causes
