"""What the Dockerfiles say: stages and instructions, as far as ours need to be read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "deploy" / "docker"
SERVICES = ("trainer", "serving")
DEVICES = ("cpu", "cuda")

_STAGE = re.compile(r"^(?P<base>\S+) AS (?P<name>\S+)$")
_PAIR = re.compile(r'(\S+?)=("[^"]*"|\S+)')
_MOUNT = re.compile(r"--mount=\S+\s+")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continuation lines joined."""

    keyword: str
    text: str

    @property
    def pairs(self) -> dict[str, str]:
        """KEY=VALUE pairs of a LABEL or ENV."""
        return {key: value.strip('"') for key, value in _PAIR.findall(self.text)}

    @property
    def command(self) -> list[str]:
        """Words of an exec form; ValueError for a shell form."""
        return list(json.loads(self.text.removeprefix("CMD ")))


@dataclass(frozen=True)
class Stage:
    """One FROM and what follows it."""

    name: str
    base: str
    instructions: list[Instruction]

    def all(self, keyword: str) -> list[Instruction]:
        return [one for one in self.instructions if one.keyword == keyword]


class Dockerfile:
    """One service's file."""

    def __init__(self, service: str) -> None:
        self.path = FOLDER / f"{service}.Dockerfile"
        self.head: list[Instruction] = []
        self.stages: dict[str, Stage] = {}
        into = self.head
        for instruction in _instructions(self.path.read_text()):
            if instruction.keyword == "FROM":
                match = _STAGE.match(instruction.text)
                assert match, f"a stage without a name: {instruction.text}"
                into = []
                self.stages[match["name"]] = Stage(match["name"], match["base"], into)
            else:
                into.append(instruction)

    def lineage(self, target: str) -> list[Stage]:
        """`target` and the stages it is built on, the first one first."""
        stage = self.stages[target]
        return [*(self.lineage(stage.base) if stage.base in self.stages else []), stage]

    def of(self, target: str, keyword: str) -> list[Instruction]:
        """Instructions of that keyword that are in force in `target`."""
        return [one for stage in self.lineage(target) for one in stage.all(keyword)]

    def env(self, target: str) -> dict[str, str]:
        """Environment of a container of `target`."""
        return {k: v for one in self.of(target, "ENV") for k, v in one.pairs.items()}

    def last(self, target: str, keyword: str) -> Instruction:
        """The instruction that decides, of several."""
        return self.of(target, keyword)[-1]

    def steps(self, target: str) -> list[list[str]]:
        """Arguments to build.sh of every RUN that `target` comes from, in their order."""
        copied = [
            re.findall(r"--from=(\S+)", one.text)[0]
            for one in self.of(target, "COPY")
            if "--from=" in one.text
        ]
        steps = [step for stage in copied for step in self.steps(stage)]
        for run in self.of(target, "RUN"):
            script, *arguments = _MOUNT.sub("", run.text).split()
            assert script.endswith("deploy/docker/build.sh"), f"a RUN of its own: {run.text}"
            steps.append(arguments)
        return steps


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        Instruction(*line.split(" ", 1))
        for line in (re.sub(r"\s+", " ", one).strip() for one in joined.splitlines())
        if line
    ]
