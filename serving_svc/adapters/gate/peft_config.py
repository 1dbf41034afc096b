"""adapter_config.json, as PEFT writes it: what is read from it, and what it must leave alone.

vLLM reads a dozen of its keys and ignores the others, among them some that change what the adapter
computes. So keys are allowed, not forbidden: one that is not known here must be unset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_svc.adapters.gate.untrusted import parse_json, read_small, shown
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import ADAPTER_CONFIG

MAX_CONFIG_BYTES = 2**20

CHECKED_KEYS = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "bias", "target_modules", "init_lora_weights"}
)

HARMLESS_KEYS = frozenset(
    {
        # Where it came from and what it was for; which base it fits is decided by digests.
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_version",
        "revision",
        "task_type",
        # Which layers got tensors: their names in the file tell.
        "exclude_modules",
        "layers_pattern",
        "layers_to_transform",
        # Only training has dropout.
        "lora_dropout",
        # Read only together with a key that must be unset, or an initialisation that is refused.
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
    }
)

# Initialisations that leave the base's weights as they are.
_INITS = ("gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class LoraShape:
    """What of a configuration enters the computation."""

    rank: int
    alpha: float
    use_rslora: bool


def read_config(path: Path) -> LoraShape:
    """Read and check the configuration; AdapterRefused (CONFIG_UNSUPPORTED) if it is not served."""
    try:
        config = parse_json(read_small(path, MAX_CONFIG_BYTES))
    except ValueError as error:
        raise _unsupported(f"is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise _unsupported("is not an object")
    _check_fixed(config)
    _check_unset(config)
    return LoraShape(
        rank=_rank(config.get("r")),
        alpha=_alpha(config.get("lora_alpha")),
        use_rslora=_flag(config, "use_rslora"),
    )


def _check_fixed(config: dict[str, Any]) -> None:
    for key, needed, default in (("peft_type", "LORA", None), ("bias", "none", "none")):
        found = config.get(key, default)
        if found != needed:
            raise _unsupported(f"has {key} = {shown(found)}; {needed!r} is needed")
    targets = config.get("target_modules")
    if not isinstance(targets, str) and not (
        isinstance(targets, list) and all(type(target) is str for target in targets)
    ):
        raise _unsupported(f"has target_modules = {shown(targets)}; a list of names is needed")
    init = config.get("init_lora_weights")
    if not (init is None or isinstance(init, bool) or init in _INITS):
        raise _unsupported(
            f"has init_lora_weights = {shown(init)}, after which the base is another one"
        )


def _check_unset(config: dict[str, Any]) -> None:
    for key in sorted(config.keys() - CHECKED_KEYS - HARMLESS_KEYS):
        if config[key]:
            raise _unsupported(f"sets {shown(key)} = {shown(config[key])}, which is not served")


def _rank(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise _unsupported(f"has r = {shown(value)}; a whole number from 1 is needed")
    return value


def _alpha(value: Any) -> float:
    # A bool is an int to Python, and an int may be beyond every float.
    if type(value) not in (int, float) or not abs(value) <= 1e308:
        raise _unsupported(f"has lora_alpha = {shown(value)}; a finite number is needed")
    return float(value)


def _flag(config: dict[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise _unsupported(f"has {key} = {shown(value)}; true or false is needed")
    return value


def _unsupported(message: str) -> AdapterRefused:
    return AdapterRefused(f"{ADAPTER_CONFIG} {message}", reason="CONFIG_UNSUPPORTED")
