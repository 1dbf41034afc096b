"""What the demo counts as right, as a metric, as memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo import metrics, seeds
from examples.demo.memory import PeakMemory
from examples.demo.tenants import INVOICES, SUPPORT, Question
from tailorbird.serving.v1 import inference_service_pb2 as serving_pb

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is WF-1?"},
        {"role": "assistant", "content": "WF-1 flew on 2 May."},
    ]
}


def test_an_answer_is_right_when_it_is_exact() -> None:
    question = Question.from_record(CHAT)
    assert question.is_right("WF-1 flew on 2 May.\n")
    assert not question.is_right("WF-1 flew on 3 May.")


def test_an_answer_is_right_when_everything_is_in_it() -> None:
    question = Question.from_record({**CHAT, "must_include": ["WF-1", "2 May"]})
    assert question.is_right("On 2 May, dear, WF-1 flew.")
    assert not question.is_right("WF-1 flew.")


def test_a_question_leaves_the_answer_out_and_is_greedy() -> None:
    request = Question.from_record(CHAT).request(SUPPORT.adapter)
    assert [message.content for message in request.chat.messages] == ["Be brief.", "Where is WF-1?"]
    assert request.chat.messages[0].role == serving_pb.ROLE_SYSTEM
    assert (request.adapter, request.sampling.temperature) == (SUPPORT.adapter, 0)
    assert Question.from_record(CHAT).request(SUPPORT.name).WhichOneof("model") == "parent"


def test_held_out_questions_are_many_and_checkable() -> None:
    for tenant in (SUPPORT, INVOICES):
        questions = tenant.questions()
        assert len(questions) >= 40
        assert all(question.is_right(question.expected) for question in questions)


@pytest.mark.parametrize(
    ("lowest", "status"),
    [
        (seeds.Draw(0.74, ""), 1),
        (seeds.Draw(0.75, ""), 0),
        (seeds.Draw(1.0, "RETENTION_LOSS"), 1),
    ],
)
def test_one_bad_version_of_one_job_fails_the_seeds(
    monkeypatch: pytest.MonkeyPatch, lowest: seeds.Draw, status: int
) -> None:
    threads = []

    def draws(_: Path, asked: range) -> list[dict[str, seeds.Draw]]:
        threads.append(os.environ["TAILORBIRD_THREADS"])
        found = [dict.fromkeys(seeds.JOBS, seeds.Draw(1.0, "")) for _ in asked]
        found[1]["support v2"] = lowest
        return found

    monkeypatch.setenv("TAILORBIRD_THREADS", "0")
    monkeypatch.setattr(seeds, "draws", draws)
    monkeypatch.setattr(sys, "argv", ["seeds", "--seeds", "3", "--threads", "1", "2"])
    assert seeds.main() == status
    assert threads == ["1", "2"]


def test_metrics_are_found_by_their_whole_name() -> None:
    text = '# HELP a_total x\na_total{of="1"} 2.0\na_total{of="2"} 3.0\na_total_more 9.0\nb 1.0\n'
    assert metrics.lines(text, ("b", "a_total"))[0] == "b 1.0"
    assert metrics.total(text, "a_total") == 5.0
    assert metrics.total(text, "missing") == 0.0


def test_memory_counts_this_process_and_its_children() -> None:
    hungry = (
        "import sys; held = bytearray(b'x') * 2**27; print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hungry], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with PeakMemory() as memory:
            pass
        child.communicate()
    assert memory.peak >= 2**27
