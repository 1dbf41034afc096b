"""What was found out about a version, as a person reads it."""

from __future__ import annotations

import io

from rich.console import Console

from tailorbird.adapters.v1 import judgement_pb2 as pb
from tailorbird.cli.judgement import judgement_lines
from tailorbird.rpc.judgement import judgement_to_proto
from tests.unit.trainer_svc.golden import sample

JUDGED = judgement_to_proto(sample("judged.json")["judgement"])


def shown(judgement: pb.Judgement) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(judgement_lines(judgement))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_everything_is_told() -> None:
    lines = [line.split() for line in shown(JUDGED).splitlines()]
    assert lines[0] == ["40", "HELD-OUT", "RECORDS", "TUNED", "ROUTED", "NOW"]
    assert " ".join(lines[1]) == ("label_accuracy * 0.975 [0.93, 1.00] 0.500 [0.35, 0.65]")
    text = shown(JUDGED)
    for said in (
        "tuned less routed: +0.475 [+0.325, +0.625]",
        "shop: best north, worst south, 0.050 apart",
        "loss 2.000 before, 2.250 after; 3 of 30 general questions forgotten",
        "1 of 10 answers change when a word is swapped",
        "safety: violence in 2 of training: lines 4, 8",
        "few-shot: 6 of 8 examples fit into the prompt",
        "json_schema was not used",
        "better: label_accuracy +0.475",
    ):
        assert said in text


def test_a_refusal_is_told_by_its_reason() -> None:
    worse = pb.Judgement()
    worse.CopyFrom(JUDGED)
    worse.decision.promote = False
    worse.decision.reason = "FORGOTTEN"
    assert "FORGOTTEN: label_accuracy" in shown(worse)


def test_the_primary_metric_comes_first_and_gaps_stay_empty() -> None:
    few = pb.Judgement(records=10, primary_metric="rouge_l")
    few.candidates.add(candidate="tuned").metrics["rouge_l"].value = 0.5
    few.candidates.add(candidate="base").metrics["exact_match"].value = 0.25
    lines = shown(few).splitlines()
    assert lines[1].split()[:2] == ["rouge_l", "*"]
    assert lines[2].split()[0] == "exact_match"
    assert lines[2].split()[1].startswith("0.250")


def test_markup_in_the_data_stays_text() -> None:
    told = pb.Judgement(notes=["[red]not red[/red]"])
    assert "[red]not red[/red]" in shown(told)
