"""Answers in a chat as they come: one as text, two side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread

from rich.live import Live
from rich.table import Table
from rich.text import Text

from tailorbird.cli.output import describe, errors, last_part, out, plain
from tailorbird.errors import TailorbirdError
from tailorbird.serving.v1 import inference_service_pb2 as api

Pieces = Generator[api.StreamGenerateResponse, None, None]
Ask = Callable[[], Pieces]


@dataclass(slots=True)
class Answer:
    """An answer, as far as it came."""

    text: str = ""
    version: str = ""
    tokens: int = 0
    cut: bool = False
    stopped: bool = False
    """Whoever asked wanted no more of it."""
    error: TailorbirdError | None = None

    def take(self, piece: api.StreamGenerateResponse) -> None:
        """Add a piece."""
        self.text += piece.text
        self.version = self.version or piece.version
        self.tokens = piece.usage.completion_tokens or self.tokens
        self.cut = piece.finish_reason == api.FINISH_REASON_LENGTH

    def end(self) -> str:
        """Say who answered, and how it ended."""
        if self.error is not None:
            return describe(self.error)
        if self.stopped:
            return "stopped"
        who = last_part(self.version) or "the base model"
        return f"{who} · {self.tokens} tokens{', cut at the limit' if self.cut else ''}"


def print_answer(ask: Ask) -> Answer:
    """Print an answer as it comes; Ctrl-C ends it there."""
    answer = Answer()
    pieces = _heard([ask])
    try:
        for _, piece in pieces:
            if isinstance(piece, TailorbirdError):
                answer.error = piece
            else:
                answer.take(piece)
                sys.stdout.write(shown(piece.text))
                sys.stdout.flush()
    except KeyboardInterrupt:
        answer.stopped = True
    finally:
        pieces.close()
    if answer.text:
        print()
    if answer.error is not None:
        errors.print(Text(answer.end(), style="red"), soft_wrap=True)
    elif out.is_terminal or answer.stopped:
        errors.print(Text(answer.end(), style="dim"), soft_wrap=True)
    return answer


def print_answers(labels: Iterable[str], asked: Iterable[Ask]) -> list[Answer]:
    """Print several answers: beside each other on a terminal, one below the other elsewhere."""
    if out.is_terminal:
        return _beside(list(labels), list(asked))
    answers = []
    for label, ask in zip(labels, asked, strict=True):
        print(f"[{label}]")
        answers.append(print_answer(ask))
    return answers


def _beside(labels: list[str], asked: list[Ask]) -> list[Answer]:
    answers = [Answer() for _ in asked]
    pieces = _heard(asked)
    try:
        with Live(_table(labels, answers), console=out, auto_refresh=False, transient=True) as live:
            for index, piece in pieces:
                if isinstance(piece, TailorbirdError):
                    answers[index].error = piece
                else:
                    answers[index].take(piece)
                live.update(_table(labels, answers), refresh=True)
    except KeyboardInterrupt:
        for answer in answers:
            # What has told its tokens has come to its end.
            answer.stopped = not answer.tokens
    finally:
        pieces.close()
    out.print(_table(labels, answers))
    return answers


_Piece = tuple[int, api.StreamGenerateResponse | TailorbirdError]


def _heard(asked: list[Ask]) -> Generator[_Piece, None, None]:
    """Yield the pieces of several answers as they come, with whose they are; an error as the last.

    Each is read in a thread of its own. The main thread waits outside of gRPC: Ctrl-C while it
    waits there may break a lock of gRPC's, which is then raised. When this is closed, so is each
    answer after its next piece.
    """
    found: SimpleQueue[_Piece | None] = SimpleQueue()
    enough = Event()
    for index, ask in enumerate(asked):
        Thread(target=_take, args=(index, ask, found, enough), daemon=True).start()
    left = len(asked)
    try:
        while left:
            piece = found.get()
            if piece is None:
                left -= 1
            else:
                yield piece
    finally:
        enough.set()


def _take(index: int, ask: Ask, found: SimpleQueue[_Piece | None], enough: Event) -> None:
    try:
        pieces = ask()
        for piece in pieces:
            if enough.is_set():
                pieces.close()
                break
            found.put((index, piece))
    except TailorbirdError as error:
        found.put((index, error))
    finally:
        found.put(None)


def _table(labels: list[str], answers: list[Answer]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold", expand=True)
    for label in labels:
        table.add_column(Text(plain(label)), ratio=1, overflow="fold")
    table.add_row(*(Text(shown(answer.text)) for answer in answers))
    table.add_row(*(Text(answer.end(), style="dim") for answer in answers))
    return table


def shown(text: str) -> str:
    """Return an answer's text with what a terminal would act on escaped, but its lines."""
    if not out.is_terminal:
        return text
    return "".join(one if one in "\n\t" else plain(one) for one in text)
