"""What serving's tests serve: a tiny random Llama, and real PEFT adapters with real probes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tailorbird.base_model import BaseModelFiles
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PROBES,
    AdapterManifest,
    ChatMessage,
    EvaluationSummary,
    Lineage,
    Probes,
    ProbeSequence,
    RenderedChat,
    file_entry,
)
from tailorbird.names import AdapterName, JobName, VersionName, version_id
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RoutedVersion

CONTEXT = 2048
VOCABULARY = 100
_SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_TEMPLATE = (
    "{%- for tool in tools or [] -%}"
    "{{- '<|system|>' ~ tool['function']['name'] ~ '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- for message in messages -%}"
    "{{- '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
PROMPT = tuple(range(40, 60))
_RANK = 8
_TARGETS = ("q_proj", "v_proj", "down_proj")


def make_base(folder: Path) -> None:
    """Write a random Llama of two layers in float32, with one token an ASCII character."""
    alphabet = [*_SPECIAL, "\u0120", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_SPECIAL[0],
        eos_token=_SPECIAL[1],
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        # vLLM's attention on a CPU has no head of fewer than 32 dimensions.
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        # Large, so that answers differ from adapter to adapter.
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        # Greedy answers have no special token in them: they go on until max_tokens.
        model.get_input_embeddings().weight[: len(_SPECIAL)] = 0
    model.save_pretrained(folder)


@dataclass
class World:
    """A base model and the object store that adapters are published into."""

    base: BaseModelFiles
    registry: AdapterRegistry
    scratch: Path
    _count: int = 0
    answers: dict[VersionName, str] = field(default_factory=dict)
    """What PEFT answers greedily to PROMPT, by version: the text of 8 tokens."""

    base_answer: str = ""
    """What the base answers."""

    async def publish(
        self,
        adapter: AdapterName,
        *,
        seed: int = 1,
        scale: float = 0.5,
        spoil: Callable[[Path], None] | None = None,
        corrupt: Callable[[Path], None] | None = None,
        manifest_changes: dict[str, Any] | None = None,
        after: Callable[[VersionName], Any] | None = None,
    ) -> VersionName:
        """Publish a version, without a route.

        `spoil` changes the files before the manifest is made of them, `corrupt` after it has their
        tensors and before they are hashed; `after` is awaited once they are stored.
        """
        self._count += 1
        job = JobName(adapter.tenant, f"job-{self._count}")
        version = adapter.version(version_id(job, 1, datetime.now(UTC)))
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        self.answers[version], self.base_answer = train_adapter(self.base.path, folder, seed, scale)
        if spoil is not None:
            spoil(folder)
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        if corrupt is not None:
            corrupt(folder)
        manifest = self._manifest(version, job, folder, tensors)
        manifest = manifest.model_copy(update=manifest_changes or {})
        for name in manifest.files:
            await self.registry.store.upload(f"{version}/{name}", folder / name)
        if after is not None:
            await after(version)
        await self.registry.publish(version, manifest)
        shutil.rmtree(folder)
        return version

    async def publish_copy(self, source: VersionName, adapter: AdapterName) -> VersionName:
        """Publish what `source` is as a version of `adapter`, without a route."""
        self._count += 1
        job = JobName(adapter.tenant, f"job-{self._count}")
        version = adapter.version(version_id(job, 1, datetime.now(UTC)))
        manifest = await self.registry.manifest(source)
        for name in manifest.files:
            await self.registry.store.put(
                f"{version}/{name}", await self.registry.store.get(f"{source}/{name}")
            )
        changes = {"version": str(version), "create_time": datetime.now(UTC)}
        await self.registry.publish(version, manifest.model_copy(update=changes))
        self.answers[version] = self.answers[source]
        return version

    async def route(self, version: VersionName) -> Route:
        """Append a route to `version`."""
        adapter = version.adapter_name
        head = await self.registry.head(adapter)
        route = Route(
            generation=head.generation + 1 if head else 1,
            versions=(RoutedVersion(version=version.version),),
            reason="publish",
            actor="test",
            create_time=datetime.now(UTC),
            nonce=version.version,
        )
        await self.registry.append_route(adapter, route)
        return route

    async def publish_routed(self, adapter: AdapterName, **options: Any) -> VersionName:
        """Publish a version and route the adapter to it."""
        version = await self.publish(adapter, **options)
        await self.route(version)
        return version

    def _manifest(
        self, version: VersionName, job: JobName, folder: Path, tensors: dict[str, torch.Tensor]
    ) -> AdapterManifest:
        return AdapterManifest(
            version=str(version),
            create_time=datetime.now(UTC),
            base_model=self.base.name,
            base_model_digest=self.base.digest,
            chat_template_digest=self.base.chat_template_digest,
            rank=_RANK,
            alpha=16,
            use_rslora=False,
            target_modules=_TARGETS,
            tensors={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            files={
                name: file_entry(folder / name)
                for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES)
            },
            lineage=Lineage(
                job=str(job),
                training_dataset=f"tenants/{job.tenant}/datasets/data",
                training_dataset_sha256="0" * 64,
                spec_sha256="1" * 64,
                parent_version="",
                code_version="test",
            ),
            evaluation=EvaluationSummary(
                steps=3, training_loss=1.5, validation_loss=None, base_validation_loss=None
            ),
        )


def train_adapter(base_path: Path, folder: Path, seed: int, scale: float) -> tuple[str, str]:
    """Write an adapter with random weights and its probes into `folder`.

    Return what PEFT answers greedily to PROMPT with it, and without: the text of 8 tokens.
    """
    # So small a model is fastest on one thread, and on a busy machine by far.
    torch.set_num_threads(1)
    base = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    lora = LoraConfig(r=_RANK, lora_alpha=16, target_modules=list(_TARGETS), lora_dropout=0.0)
    torch.manual_seed(seed)
    model = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)
    model.eval()
    model.save_pretrained(folder)
    sequences = [_probe(model, torch.randint(5, VOCABULARY, (24,)).tolist()) for _ in range(2)]
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    probes = Probes(sequences=tuple(sequences), chats=(_chat(tokenizer, "hello?"),))
    (folder / PROBES).write_bytes(probes.to_json())
    with model.disable_adapter():
        base_answer = str(tokenizer.decode(_greedy(model, PROMPT)))
    return str(tokenizer.decode(_greedy(model, PROMPT))), base_answer


def change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Return a spoiler that changes an adapter's tensors."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        change(tensors)
        save_file(tensors, folder / ADAPTER_WEIGHTS)

    return spoil


def change_config(**changes: object) -> Callable[[Path], None]:
    """Return a spoiler that changes an adapter's configuration."""

    def spoil(folder: Path) -> None:
        path = folder / ADAPTER_CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


@torch.no_grad()
def _logprobs(model: Any, ids: list[int]) -> tuple[float, ...]:
    logits = model(torch.tensor([ids])).logits[0, :-1]
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    return tuple(chosen[:, 0].tolist())


def _probe(model: PeftModel, ids: list[int]) -> ProbeSequence:
    with model.disable_adapter():
        base = _logprobs(model, ids)
    return ProbeSequence(
        token_ids=tuple(ids), base_logprobs=base, adapter_logprobs=_logprobs(model, ids)
    )


def _chat(tokenizer: Any, question: str) -> RenderedChat:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    return RenderedChat(
        messages=(ChatMessage(role="user", content=question),),
        token_ids=tuple(tokenizer.encode(text, add_special_tokens=False)),
    )


@torch.no_grad()
def _greedy(model: Any, prompt: tuple[int, ...], tokens: int = 8) -> list[int]:
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
