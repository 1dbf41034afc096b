"""The base model's identity: where its files are, and the digest both services must agree on."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.base_source import HUB_PATTERNS, check_folder, folder_problem, hub_problem, parsed
from tailorbird.errors import InvalidArgument
from tailorbird.manifest import file_entry
from tailorbird.servable import LINEAR_MODULES

_MORE_TEMPLATES = ("chat_template.json", "additional_chat_templates")
"""Where transformers finds a template besides: what has one is not said to have none."""
_HEADER_SIZE_BYTES = 8
_MAX_HEADER_BYTES = 100 * 2**20
"""A safetensors file begins with its header's size and the header; no header is longer."""


@dataclass(frozen=True, slots=True)
class BaseModelFiles:
    """A base model on local disk.

    `digest` covers every weight, configuration and tokenizer file; `chat_template_digest` the chat
    template alone. Both are "sha256:" and 64 hex digits.
    """

    name: str
    path: Path
    digest: str
    chat_template_digest: str
    max_sequence_length: int
    hidden_size: int
    architecture: str = ""
    """As config.json names it; "" if it does not."""
    weight_bytes: int = 0
    """Size of the files that the weights are loaded from."""
    has_chat_template: bool = True
    linear_modules: frozenset[str] = LINEAR_MODULES
    """The kinds of layers that adapters may change, as far as the weights have some of the name."""


def load_base_model(
    model: str, cache: Path, name: str = "", *, expected_digest: str = ""
) -> BaseModelFiles:
    """Find `model`, a local folder or a Hugging Face id, and compute its digests.

    The id may be followed by "@" and a revision. File hashes are kept under `cache` by path, size
    and times of change, so that a large base is hashed once; nothing else is written. `name` is
    what jobs and manifests call it; empty: the id, or the folder's name. Raises InvalidArgument if
    there is no such model, it cannot be read, or its digest is not the one expected, if any is.
    """
    id_, revision = (model, "") if Path(model).is_dir() else parsed(model)
    path = _locate(id_, revision)
    config = _read_json(path / "config.json")
    length, hidden = _sizes(path, config)
    digest = _digest(path, cache)
    template = _chat_template(path)
    if expected_digest and digest != expected_digest:
        raise InvalidArgument(
            "base_model_digest",
            f"{expected_digest} is expected, and the files in {path} have {digest}",
            reason="BASE_DIGEST_MISMATCH",
        )
    return BaseModelFiles(
        name=name or (path.name if Path(model).is_dir() else id_),
        path=path,
        digest=digest,
        chat_template_digest=_sha256(template.encode()),
        max_sequence_length=length,
        hidden_size=hidden,
        architecture=_architecture(config),
        weight_bytes=_weight_bytes(path),
        has_chat_template=has_chat_template(path),
        linear_modules=LINEAR_MODULES & _modules(path),
    )


def has_chat_template(folder: Path) -> bool:
    """Tell whether a base's folder has a chat template; InvalidArgument if it cannot be read."""
    return bool(_chat_template(folder)) or any((folder / one).exists() for one in _MORE_TEMPLATES)


def context_length(folder: Path) -> int:
    """Return the tokens of context that a base's folder says it has; InvalidArgument if none."""
    return _sizes(folder, _read_json(folder / "config.json"))[0]


def _sizes(path: Path, config: dict[str, Any]) -> tuple[int, int]:
    """Return the context's tokens and the hidden size."""
    text_config = config.get("text_config", config)
    try:
        return int(text_config["max_position_embeddings"]), int(text_config["hidden_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(
            "base_model", f"{path / 'config.json'} lacks an integer {error}"
        ) from error


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _weight_bytes(path: Path) -> int:
    """Return how much is loaded: a folder may hold a second format beside it."""
    index = path / "model.safetensors.index.json"
    named = _read_json(index).get("weight_map") if index.is_file() else None
    files = [path / str(name) for name in set(named.values())] if isinstance(named, dict) else []
    try:
        return sum(file.stat().st_size for file in files or path.glob("*.safetensors"))
    except OSError as error:
        raise InvalidArgument("base_model", f"{error.filename}: {error.strerror}") from error


def _modules(path: Path) -> set[str]:
    """Return the last parts of the names of all modules that have weights."""
    found = set()
    for file in path.glob("*.safetensors"):
        try:
            with file.open("rb") as opened:
                size = int.from_bytes(opened.read(_HEADER_SIZE_BYTES), "little")
                # Wrong bytes here are for the worker to tell, which reads all of them.
                header = opened.read(min(size, _MAX_HEADER_BYTES))
        except OSError as error:
            raise InvalidArgument("base_model", f"{file}: {error.strerror}") from error
        try:
            tensors = dict(json.loads(header))
        except (TypeError, ValueError):
            return set(LINEAR_MODULES)
        found |= {name.split(".")[-2] for name in tensors if "." in name}
    return found


def _locate(model: str, revision: str) -> Path:
    path = Path(model)
    try:
        if not path.is_dir():
            path = _fetched(model, revision)
        check_folder(path)
        return path.resolve()
    except OSError as error:
        raise InvalidArgument("base_model", f"{path}: {error.strerror}") from error


def _fetched(model: str, revision: str) -> Path:
    if problem := folder_problem(model):
        raise InvalidArgument("base_model", problem)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(model, revision=revision or None, allow_patterns=HUB_PATTERNS)
        )
    except Exception as error:
        # The hub's own errors, its HTTP library's, and the disk's.
        named = f"{model}@{revision}" if revision else model
        raise InvalidArgument("base_model", hub_problem(named, error)) from error


def _digest(path: Path, cache: Path) -> str:
    memo_path = cache / "base-digests.json"
    memo: dict[str, Any] = {}
    if memo_path.is_file():
        with suppress(InvalidArgument):  # broken, it is only made anew
            memo = _read_json(memo_path)
    known = dict(memo)
    lines = []
    try:
        for file in sorted(
            {found for pattern in HUB_PATTERNS for found in path.glob(pattern)},
            key=lambda file: file.name,
        ):
            stat = file.stat()
            # Images give all of their files one time of modification, and other weights of the same
            # shapes have the same size; nobody sets the time of the last change to the inode.
            times = f"{stat.st_mtime_ns}:{stat.st_ctime_ns}"
            key = f"{file.resolve()}:{stat.st_size}:{times}"
            memo[key] = memo.get(key) or file_entry(file).sha256
            lines.append(f"{file.name} {memo[key]}\n")
    except OSError as error:
        raise InvalidArgument("base_model", f"{error.filename}: {error.strerror}") from error
    if memo != known:
        _remember(memo, memo_path)
    return _sha256("".join(lines).encode())


def _remember(memo: dict[str, Any], path: Path) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    # What cannot be kept is only computed again.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(memo))
        scratch.replace(path)


def _chat_template(path: Path) -> str:
    file = path / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidArgument("base_model", f"{file} cannot be read: {error}") from error
    config = path / "tokenizer_config.json"
    template = _read_json(config).get("chat_template", "") if config.is_file() else ""
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument("base_model", f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidArgument("base_model", f"{path} is not a JSON object")
    return content


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
