"""The two customers: their data, and what a right answer is."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.client import ServingClient
from tailorbird.serving.v1 import inference_service_pb2 as serving_api
from tailorbird.tuning.v1 import job_pb2

EXAMPLES = Path(__file__).resolve().parents[1]
_ROLES = {
    "system": serving_api.ROLE_SYSTEM,
    "user": serving_api.ROLE_USER,
    "assistant": serving_api.ROLE_ASSISTANT,
}
FIRST, SECOND = "train", "train-v2"
"""The datasets' ids."""
LEARNING_RATE = 2e-3
BATCH_TOKENS = 640
VALIDATION = 0.05
MAX_RETENTION_LOSS, MAX_FORGOTTEN = 3.0, 1.0
"""A base of 3.5 million parameters has room for little: what it learns takes the place of much."""
_MAX_TOKENS = 80
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out chat: the messages before the answer, and what makes an answer right."""

    messages: tuple[serving_api.Message, ...]
    expected: str
    must_include: tuple[str, ...]

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Question:
        """Read a record of a held-out file; the last message is the answer."""
        *before, answer = record["messages"]
        messages = (
            serving_api.Message(role=_ROLES[message["role"]], content=message["content"])
            for message in before
        )
        return cls(tuple(messages), answer["content"], tuple(record.get("must_include", ())))

    def request(self, model: str, version: str = "") -> serving_api.GenerateRequest:
        """Ask `model`, an adapter's name or tenants/{tenant} for the base, greedily.

        `version` is an id, or "" for the one that is routed.
        """
        of_adapter = "/adapters/" in model
        return serving_api.GenerateRequest(
            **{"adapter" if of_adapter else "parent": model},  # type: ignore[arg-type]
            version=version,
            chat=serving_api.Chat(messages=self.messages),
            sampling=serving_api.SamplingParameters(temperature=0, max_tokens=_MAX_TOKENS),
        )

    def is_right(self, answer: str) -> bool:
        """Tell whether `answer` has every fact and phrase; without a list, whether it is exact."""
        if self.must_include:
            return all(text in answer for text in self.must_include)
        return answer.strip() == self.expected.strip()


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer: `folder` under examples/ is the data's, the adapter's and the datasets' id."""

    id: str
    folder: str
    story: str
    epochs: int

    @property
    def name(self) -> str:
        """tenants/{tenant}"""
        return f"tenants/{self.id}"

    @property
    def adapter(self) -> str:
        """tenants/{tenant}/adapters/{adapter}"""
        return f"{self.name}/adapters/{self.folder}"

    def file(self, stem: str) -> Path:
        """One of the tenant's files, such as `train`."""
        return EXAMPLES / self.folder / f"{stem.replace('-', '_')}.jsonl"

    def questions(self) -> list[Question]:
        """The held-out chats."""
        lines = self.file("heldout").read_text(encoding="utf-8").splitlines()
        return [Question.from_record(json.loads(line)) for line in lines]

    def job_spec(
        self, dataset: str, policy: job_pb2.PromotionPolicy.ValueType, seed: int = 0
    ) -> job_pb2.JobSpec:
        """The job for a dataset: some held out for the validation loss, small quick steps."""
        return job_pb2.JobSpec(
            training_dataset=dataset,
            validation_fraction=VALIDATION,
            adapter=self.adapter,
            hyperparameters=job_pb2.Hyperparameters(
                learning_rate=LEARNING_RATE,
                epochs=self.epochs,
                batch_tokens=BATCH_TOKENS,
                seed=seed,
            ),
            promotion_policy=policy,
            evaluation=job_pb2.EvaluationConfig(
                max_retention_loss=MAX_RETENTION_LOSS, max_forgotten=MAX_FORGOTTEN
            ),
        )


SUPPORT = Tenant("wrenfield", "support", "a shop's support desk, in its own voice", epochs=2)
INVOICES = Tenant("oakwright", "invoices", "a joiner's invoice lines, as JSON", epochs=4)


@dataclass(frozen=True, slots=True)
class Score:
    """How many held-out questions a model got right, and its first answer."""

    right: int
    total: int
    example: str

    @property
    def share(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.right / self.total


def score(
    serving: ServingClient, model: str, questions: list[Question], version: str = ""
) -> Score:
    """Put every question to `model`, several at a time."""
    requests = [question.request(model, version) for question in questions]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda request: serving.generate(request).text, requests))
    right = sum(one.is_right(text) for one, text in zip(questions, answers, strict=True))
    return Score(right, len(questions), answers[0])
