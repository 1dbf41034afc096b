"""The chats of a certificate: this engine must make of them the tokens that training made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

from tailorbird.errors import AdapterRefused, FailedPrecondition, InvalidArgument
from tailorbird.manifest import RenderedChat


class ChatRenderer(Protocol):
    """What renders the chats that are asked."""

    async def render(self, chat: RenderedChat, tenant: str) -> Sequence[int]:
        """Return the token ids of a chat with the assistant's turn opened, as if it were asked.

        Raises InvalidArgument if the template refuses it, FailedPrecondition if there is none, and
        Unavailable if the engine ended.
        """


async def check_chats(engine: ChatRenderer, chats: Sequence[RenderedChat], tenant: str) -> None:
    """Render the chats; AdapterRefused (RENDERING_MISMATCH), for ever, at the first difference.

    Template and tokenizer have the digests that training knew; what renders them here and there
    are other programs.
    """
    for number, chat in enumerate(chats, 1):
        which = f"chat {number} of its certificate"
        try:
            found = await engine.render(chat, tenant)
        except (InvalidArgument, FailedPrecondition) as error:
            raise _differs(f"{which} cannot be rendered: {error.message}") from error
        told = chat.token_ids
        for place, (here, there) in enumerate(zip_longest(found, told)):
            if here != there:
                raise _differs(
                    f"{which} renders otherwise: at position {place} of {len(found)} it has "
                    f"{_shown(here)} here, and {_shown(there)} at position {place} of {len(told)} "
                    "in training"
                )


def _shown(token: int | None) -> str:
    return "no token" if token is None else f"token {token}"


def _differs(message: str) -> AdapterRefused:
    return AdapterRefused(message, reason="RENDERING_MISMATCH")
