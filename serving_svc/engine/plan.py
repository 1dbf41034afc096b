"""How many adapters the engine holds, and what that costs: arithmetic on the base's dimensions.

vLLM gives every slot, in every layer that adapters may change, one A of the rank cap by the layer's
inputs and one B of its outputs by the rank cap, whatever an adapter's own rank. Under tensor
parallelism a layer that splits its outputs splits B, one that splits its inputs splits A, and the
other factor is whole on every device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tailorbird.errors import FailedPrecondition

_GIB = 2**30
_MIB = 2**20
# What adapters take of the memory that the base leaves, where nothing is set: the rest is the
# key-value cache's and the activations'.
_ADAPTER_SHARE = 0.25
# What is planned where nothing is set. More is a choice: each slot takes from the cache, and a step
# with more distinct adapters is a slower step.
_MOST_PLANNED_SLOTS = 32
# Adapters kept in host memory for each slot, where nothing is set and they fit.
_KEPT_PER_SLOT = 7
# A long prompt is read in steps, and a step of so many tokens delays the streams by no more than
# two or three of their own steps on a few cores. A GPU is fast enough for what vLLM takes.
_STEP_TOKENS_ON_CPU = 256
_MAX_RUNNING_ON_CPU = 128
_MAX_RUNNING_ON_GPU = 256
_SPLIT_INPUTS = frozenset({"o_proj", "down_proj"})
_KEYS_AND_VALUES = frozenset({"k_proj", "v_proj"})


@dataclass(frozen=True, slots=True)
class BaseDimensions:
    """What the plan must know of a base.

    `linear` has (out, in) of each layer that adapters may change, `parameters` counts all of them.
    Of the others, 0 means that config.json does not tell it.
    """

    linear: Mapping[str, tuple[int, int]]
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str

    @classmethod
    def read(
        cls,
        config: Mapping[str, Any],
        linear: Mapping[str, tuple[int, int]],
        parameters: int,
        dtype: str = "auto",
    ) -> BaseDimensions:
        """Read config.json as parsed; `dtype` as in the settings: "auto" is the base's own.

        Raises FailedPrecondition (BASE_UNSUPPORTED) for dimensions that are no positive integers.
        """
        text = config.get("text_config", config)
        heads = _positive(text, "num_attention_heads")
        head_dim = _positive(text, "head_dim")
        # Latent attention caches something else than heads.
        latent = text.get("kv_lora_rank") is not None
        return cls(
            linear=linear,
            parameters=parameters,
            layers=_positive(text, "num_hidden_layers"),
            heads=heads,
            kv_heads=_positive(text, "num_key_value_heads") or heads,
            head_dim=0 if latent else head_dim or _positive(text, "hidden_size") // max(1, heads),
            dtype=_served_dtype(dtype, text, config),
        )

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one number."""
        return 4 if self.dtype == "float32" else 2

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on all devices together."""
        return self.parameters * self.dtype_bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the engine runs. `memory`: bytes free on a CPU, bytes that one GPU has in all.

    `share` is the part of it that the engine may take; `kv_cache` the bytes of the key-value cache,
    None where it takes what is left. `host_memory`: bytes free on the host of a GPU.
    """

    on_cpu: bool
    memory: int
    share: float = 1.0
    kv_cache: int | None = None
    host_memory: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the settings ask for; None leaves it to the plan. `adapter_memory`: bytes a device."""

    max_lora_rank: int
    tensor_parallel_size: int = 1
    adapter_slots: int | None = None
    adapter_memory: int | None = None
    max_cpu_loras: int | None = None
    max_running: int | None = None
    max_step_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What the engine is built with. `slot_bytes`: of one slot on one device.

    `max_step_tokens` None leaves it to vLLM.
    """

    adapter_slots: int
    max_cpu_loras: int
    max_lora_rank: int
    tensor_parallel_size: int
    max_running: int
    max_step_tokens: int | None
    slot_bytes: int
    lines: tuple[str, ...]
    """The arithmetic, for people."""


def plan_engine(base: BaseDimensions, machine: Machine, asked: Asked) -> EnginePlan:
    """Divide the memory. Raises FailedPrecondition where the base or the settings do not fit.

    TENSOR_PARALLEL_INVALID: the devices do not divide the base. ADAPTER_MEMORY_TOO_SMALL: the
    memory has no room for one slot, or for those asked for. STEP_TOO_SMALL: a step would have no
    room for every request that runs.
    """
    ways = asked.tensor_parallel_size
    _check_divides(base, ways)
    memory = _memory(base, machine, asked)
    running = asked.max_running or (_MAX_RUNNING_ON_CPU if machine.on_cpu else _MAX_RUNNING_ON_GPU)
    slots = _slots(asked, memory, running)
    kept = _kept(base, machine, asked, memory, slots)
    return EnginePlan(
        adapter_slots=slots,
        max_cpu_loras=slots + kept,
        max_lora_rank=asked.max_lora_rank,
        tensor_parallel_size=ways,
        max_running=running,
        max_step_tokens=_step_tokens(machine, asked, running),
        slot_bytes=memory.slot,
        lines=tuple(_lines(base, machine, asked, memory, slots, kept)),
    )


def slot_bytes(base: BaseDimensions, rank_cap: int, ways: int = 1) -> int:
    """Return the bytes that one slot takes on each of `ways` devices, in all layers."""
    return rank_cap * _width(base, ways) * base.dtype_bytes


def _width(base: BaseDimensions, ways: int) -> int:
    """Return inputs and outputs of the layers' shares on one device, added up."""
    return sum(sum(_split(base, name, shape, ways)) for name, shape in base.linear.items())


def _split(base: BaseDimensions, name: str, shape: tuple[int, int], ways: int) -> tuple[int, int]:
    """Return (out, in) of one device's share of A and B: of A the inputs, of B the outputs."""
    out, inputs = shape
    module = name.rpartition(".")[2]
    if ways == 1:
        return shape
    if module in _SPLIT_INPUTS:
        return out, inputs // ways
    # With more devices than key-value heads each device has a copy of one.
    kv_share = max(1, base.kv_heads // ways)
    if module in _KEYS_AND_VALUES:
        return out // base.kv_heads * kv_share, inputs
    if module == "qkv_proj":
        head = out // (base.heads + 2 * base.kv_heads)
        return head * (base.heads // ways + 2 * kv_share), inputs
    return out // ways, inputs


def _check_divides(base: BaseDimensions, ways: int) -> None:
    if ways == 1:
        return
    split = {
        name: shape[1] if name.endswith(tuple(_SPLIT_INPUTS)) else shape[0]
        for name, shape in base.linear.items()
        if name.rpartition(".")[2] not in _KEYS_AND_VALUES | {"qkv_proj"}
    }
    uneven = next((f"{name} of {size}" for name, size in split.items() if size % ways), "")
    if not base.heads:
        uneven = "number of attention heads, which config.json does not tell"
    elif base.heads % ways:
        uneven = f"{base.heads} attention heads"
    elif base.kv_heads % ways and ways % base.kv_heads:
        uneven = f"{base.kv_heads} key-value heads"
    if uneven:
        raise FailedPrecondition(
            f"tensor_parallel_size {ways} does not divide the base's {uneven}",
            reason="TENSOR_PARALLEL_INVALID",
            setting="tensor_parallel_size",
            tensor_parallel_size=ways,
        )


@dataclass(frozen=True, slots=True)
class _Memory:
    """Bytes of one device: a slot, an adapter with all it takes there, the room, the budget."""

    slot: int
    adapter: int
    room: int
    budget: int


def _memory(base: BaseDimensions, machine: Machine, asked: Asked) -> _Memory:
    ways = asked.tensor_parallel_size
    total = int(machine.memory * machine.share)
    slot = adapter = slot_bytes(base, asked.max_lora_rank, ways)
    if machine.on_cpu:
        # The processes of all ranks share the machine's memory; each has a cache of its own, keeps
        # whole what is in its slots, and packs it for our kernels.
        total //= ways
        adapter += slot_bytes(base, asked.max_lora_rank) + _packed_copies(base) * slot
    room = max(0, total - base.weight_bytes // ways - (machine.kv_cache or 0))
    budget = asked.adapter_memory
    return _Memory(slot, adapter, room, int(room * _ADAPTER_SHARE) if budget is None else budget)


def _packed_copies(base: BaseDimensions) -> int:
    # At the true rank, so these are the most: as they are, and laid out for bfloat16 (vnni.py).
    return 2 if base.dtype == "bfloat16" else 1


def _slots(asked: Asked, memory: _Memory, running: int) -> int:
    limit = min(memory.budget, memory.room)
    if asked.adapter_slots is not None and asked.adapter_memory is None:
        # Who asks for slots and names no budget may take from the key-value cache.
        limit = memory.room
    wanted, fitting = asked.adapter_slots or 1, limit // memory.adapter
    if fitting < wanted:
        told = (
            f"the base leaves {_shown(memory.room)}"
            if asked.adapter_memory is None or memory.room < memory.budget
            else f"adapter_memory_gib allows {_shown(memory.budget)}"
        )
        raise FailedPrecondition(
            f"adapter_slots {wanted} at max_lora_rank {asked.max_lora_rank} take "
            f"{_shown(wanted * memory.adapter)}, and {told}: lower one of the two, or give more "
            "memory",
            reason="ADAPTER_MEMORY_TOO_SMALL",
            setting="max_lora_rank" if asked.adapter_slots is None else "adapter_slots",
            adapter_slots=wanted,
            adapter_bytes=memory.adapter,
            room_bytes=limit,
        )
    return asked.adapter_slots or min(fitting, _MOST_PLANNED_SLOTS, running)


def _step_tokens(machine: Machine, asked: Asked, running: int) -> int | None:
    step = asked.max_step_tokens
    if step is None:
        return max(running, _STEP_TOKENS_ON_CPU) if machine.on_cpu else None
    if step < running:
        raise FailedPrecondition(
            f"max_step_tokens {step} is less than max_running {running}: a step has a token of "
            "each request that runs",
            reason="STEP_TOO_SMALL",
            setting="max_step_tokens",
            max_step_tokens=step,
            max_running=running,
        )
    return step


def _kept(base: BaseDimensions, machine: Machine, asked: Asked, memory: _Memory, slots: int) -> int:
    """Return how many adapters beside those in slots are kept in host memory."""
    if asked.max_cpu_loras is not None:
        return max(0, asked.max_cpu_loras - slots)
    whole = slot_bytes(base, asked.max_lora_rank)
    if machine.on_cpu:
        left = min(memory.budget, memory.room) - slots * memory.adapter
    else:
        # Every rank's process has a copy of its own, of what is in slots too.
        share = int(machine.host_memory * _ADAPTER_SHARE) // asked.tensor_parallel_size
        left = share - slots * whole
    return max(0, min(_KEPT_PER_SLOT * slots, left // whole))


def _lines(
    base: BaseDimensions, machine: Machine, asked: Asked, memory: _Memory, slots: int, kept: int
) -> Iterator[str]:
    ways = asked.tensor_parallel_size
    where = f" on each of {ways} devices" if ways > 1 else ""
    yield (
        f"1 slot = {len(base.linear)} linear layers with {_width(base, ways):,} inputs and outputs "
        f"× rank cap {asked.max_lora_rank} × {base.dtype_bytes} bytes ({base.dtype}) "
        f"= {_shown(memory.slot)}{where}"
    )
    if machine.on_cpu:
        yield (
            f"1 adapter = its slot, a copy in host memory and {_packed_copies(base)} for our "
            f"kernels = {_shown(memory.adapter)} at most"
        )
    of = (
        f"{_ADAPTER_SHARE:.0%} of the {_shown(memory.room)} that the base leaves"
        if asked.adapter_memory is None
        else "adapter_memory_gib"
    )
    taken = slots * memory.adapter
    yield f"{slots} slots = {_shown(taken)}; the budget is {_shown(memory.budget)}, {of}"
    if kept:
        copies = kept * slot_bytes(base, asked.max_lora_rank)
        yield f"{kept} adapters without a slot are kept in host memory = {_shown(copies)} at most"
    token = 2 * base.layers * max(1, base.kv_heads // ways) * base.head_dim * base.dtype_bytes
    if token:
        most = "at most " if machine.kv_cache is None else ""
        cache = memory.room - taken if machine.kv_cache is None else machine.kv_cache
        yield (
            f"key-value cache = {most}{_shown(cache)} at {token:,} bytes a token "
            f"= {most}{cache // token:,} tokens; a slot is as much as {memory.slot // token:,}"
        )


def _shown(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.1f} MiB"


def _positive(config: Mapping[str, Any], key: str) -> int:
    """Return the number under `key`, 0 if it is missing."""
    value = config.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FailedPrecondition(
            f"config.json: {key} is {value!r:.40}, no positive integer",
            reason="BASE_UNSUPPORTED",
            setting="base_model",
        )
    return value


def _served_dtype(asked: str, text: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if asked != "auto":
        return asked
    own = next((c[k] for c in (text, config) for k in ("dtype", "torch_dtype") if c.get(k)), "")
    # vLLM takes 16 bits for a base of 32 that asks for nothing else.
    return "float16" if own == "float16" else "bfloat16"
