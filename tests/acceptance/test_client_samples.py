"""The samples in Python and in Node against the real services: from a file to a tuned answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo.stage import Stage
from examples.demo.tenants import EXAMPLES, SUPPORT
from tests.node import ROOT, node_modules
from tools.protos_dist import files


@pytest.mark.long
@pytest.mark.timeout(600)
def test_both_samples_fine_tune_and_are_answered(tmp_path: Path) -> None:
    for name, data in files().items():
        (tmp_path / "protos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "protos" / name).write_bytes(data)
    chats = (EXAMPLES / "support" / "train.jsonl").read_text(encoding="utf-8").splitlines(True)
    commands = {
        "python": [sys.executable, "-m", "examples.clients.fine_tune"],
        "node": ["node", str(EXAMPLES / "clients" / "node" / "fine_tune.js")],
    }
    run = tmp_path / "run"
    run.mkdir()
    with Stage(run, str(EXAMPLES / "demo_base")) as stage:
        environment = {
            **os.environ,
            "TAILORBIRD_TRAINER": stage.services.trainer.address,
            "TAILORBIRD_SERVING": stage.services.serving.address,
            "TAILORBIRD_TOKEN": stage.tokens[SUPPORT.id],
            "TAILORBIRD_PROTOS": str(tmp_path / "protos"),
            "NODE_PATH": str(node_modules()),
        }
        stage.services.until_ready()
        running = {}
        for language, command in commands.items():
            part = tmp_path / language / f"{language}.jsonl"
            part.parent.mkdir()
            part.write_text("".join(chats[:40]), encoding="utf-8")
            running[language] = subprocess.Popen(
                [*command, f"tenants/{SUPPORT.id}", str(part), "It is about order W-5663."],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        for language, process in running.items():
            out, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors
            uploaded, *evaluations, published, answer = out.splitlines()
            assert uploaded == f"tenants/{SUPPORT.id}/datasets/{language}: 40 records"
            assert evaluations
            assert all(line.startswith("step ") for line in evaluations)
            adapter = f"tenants/{SUPPORT.id}/adapters/{language}"
            assert published.startswith(f"published {adapter}/versions/")
            assert answer.strip()
