"""Every record that a job trains on, held against the operator's screen before it trains."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.line_numbers import say_lines
from tailorbird.names import DatasetName
from tailorbird.pieces import some
from tailorbird.records.chats import template_messages
from tailorbird.records.formats import DatasetFormat, parse_record
from tailorbird.turns import Turns
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.jobs.events import JobWarning
from trainer_svc.judgement.model import SafetyFinding
from trainer_svc.judgement.safety import SafetyScreen
from trainer_svc.protocol import DatasetRef

MAX_CHARACTERS = 2**29
"""That are searched; of longer data the rest is not, which is said. Minutes for one core with lists
of dozens of words, hours with the longest that an operator may give."""

_TOLD_LINES = 10
_PIECE_SECONDS = 0.1
_READ = {
    DatasetFormat.PROMPT_COMPLETION: ("prompt", "completion"),
    DatasetFormat.INSTRUCTION: ("instruction", "input", "output"),
    DatasetFormat.TEXT: ("text",),
}


@dataclass(frozen=True)
class Screened:
    """What was found in the training data, and in how many of its records it was looked for."""

    findings: Sequence[SafetyFinding] = ()
    records: int = 0
    of: int = 0

    @property
    def note(self) -> str:
        """What the report says where not all were looked at; else ""."""
        if self.records == self.of:
            return ""
        return (
            f"the first {self.records:,} of {self.of:,} training records were held against the"
            f" safety lists: no more than {MAX_CHARACTERS:,} characters are"
        )

    @property
    def warnings(self) -> list[JobWarning]:
        """What the job's history says before anything is trained."""
        told = [
            JobWarning(reason="UNSAFE_TRAINING_DATA", message=self._told(each))
            for each in self.findings
        ]
        if self.note:
            told.append(JobWarning(reason="PARTLY_SCREENED", message=self.note))
        return told

    def _told(self, found: SafetyFinding) -> str:
        lines = say_lines(found.lines[:_TOLD_LINES], found.count)
        unsure = f"; {found.overruns} only by a pattern that ran out of time"
        return (
            f"{found.category} occurs in {found.count:,} of {self.records:,} training records:"
            f" {lines}{unsure if found.overruns else ''}"
        )


class Screening:
    """Screens what a worker's jobs train on, a piece of one at a time, tenants in turn.

    It holds the interpreter lock, for which steps wait: as long for many jobs as for one.
    """

    def __init__(self, files: DatasetFiles, screen: SafetyScreen) -> None:
        self._files = files
        self._screen = screen
        self._pieces = Turns(1, waiting="pieces of training data", reason="SCREENING_WAITING")

    async def of(self, ref: DatasetRef, lines: npt.NDArray[np.int64], folder: Path) -> Screened:
        """Search the records on these lines, [records], prompts and answers, one at a time.

        Raises what `DatasetFiles.file` does.
        """
        file = await self._files.file(ref, folder)
        tenant = DatasetName.parse(ref.name).tenant
        with closing(_screened(file.path, ref, lines, self._screen)) as work:
            while True:
                async with self._pieces.turn(tenant):
                    done = await in_thread(lambda _: some(work, _PIECE_SECONDS))
                if done is not None:
                    return done.result


def _screened(
    path: Path, ref: DatasetRef, lines: npt.NDArray[np.int64], screen: SafetyScreen
) -> Generator[None, None, Screened]:
    """Pause after each of the screen's searches of a record: a long one takes seconds."""
    trained = np.unique(lines)
    scan = screen.begin("training")
    room = MAX_CHARACTERS
    for line, text in _texts(path, DatasetFormat(ref.format), trained):
        room -= len(text)
        if room < 0:
            break
        yield from scan.adding(line, text)
    return Screened(scan.findings, scan.texts, len(trained))


def _texts(
    path: Path, format_: DatasetFormat, lines: npt.NDArray[np.int64]
) -> Iterator[tuple[int, str]]:
    """Yield each of the lines, which rise, with what its record says."""
    wanted = iter(lines.tolist())
    next_line = next(wanted, None)
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if next_line is None:
                return
            if line == next_line:
                yield line, _said(*parse_record(line, raw, format_))
                next_line = next(wanted, None)


def _said(format_: DatasetFormat, record: Mapping[str, Any]) -> str:
    if format_ is not DatasetFormat.CHAT:
        return "\n".join(record.get(key) or "" for key in _READ[format_])
    return "\n".join(
        part
        for message in template_messages(record)
        for part in (message["content"], *map(_called, message.get("tool_calls") or ()))
    )


def _called(call: Mapping[str, Any]) -> str:
    """Say a call with its arguments as they would be read, without escapes of other scripts."""
    function = call["function"]
    return f"{function['name']} {json.dumps(function['arguments'], ensure_ascii=False)}"
