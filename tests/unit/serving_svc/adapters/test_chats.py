"""What serving makes of a certificate's chats, against what training made of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serving_svc.adapters.chats import check_chats
from tailorbird.errors import AdapterRefused, FailedPrecondition, InvalidArgument, Unavailable
from tailorbird.manifest import ChatMessage, RenderedChat


class Renderer:
    """Renders every chat as the ids it is given."""

    def __init__(self, *ids: int, error: Exception | None = None) -> None:
        self.ids = ids
        self.error = error
        self.tenants: list[str] = []

    async def render(self, chat: RenderedChat, tenant: str) -> Sequence[int]:
        self.tenants.append(tenant)
        if self.error is not None:
            raise self.error
        return self.ids


def chat(*ids: int) -> RenderedChat:
    return RenderedChat(messages=(ChatMessage(role="user", content="hello"),), token_ids=ids)


async def test_chats_that_render_alike_pass_in_their_tenants_turn() -> None:
    renderer = Renderer(1, 2, 3)
    await check_chats(renderer, [chat(1, 2, 3), chat(1, 2, 3)], "acme")
    await check_chats(renderer, [], "zeta")
    assert renderer.tenants == ["acme", "acme"]


@pytest.mark.parametrize(
    ("told", "where"),
    [
        ((1, 2, 4), "at position 2 of 3 it has token 3 here, and token 4 at position 2 of 3"),
        ((9, 2, 3), "at position 0 of 3 it has token 1 here, and token 9 at position 0 of 3"),
        ((1, 2), "at position 2 of 3 it has token 3 here, and no token at position 2 of 2"),
        ((1, 2, 3, 4), "at position 3 of 3 it has no token here, and token 4 at position 3 of 4"),
    ],
)
async def test_the_first_difference_is_told_and_is_for_ever(
    told: tuple[int, ...], where: str
) -> None:
    with pytest.raises(AdapterRefused) as caught:
        await check_chats(Renderer(1, 2, 3), [chat(1, 2, 3), chat(*told)], "acme")
    assert (caught.value.reason, caught.value.retryable) == ("RENDERING_MISMATCH", False)
    assert caught.value.message == (
        f"chat 2 of its certificate renders otherwise: {where} in training"
    )


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("chat", "the chat template refuses it: no system"),
        FailedPrecondition("the base model has no chat template"),
    ],
)
async def test_a_chat_that_the_template_refuses_is_a_difference(error: Exception) -> None:
    with pytest.raises(AdapterRefused, match=r"chat 1 .* cannot be rendered: .*template") as caught:
        await check_chats(Renderer(error=error), [chat(1)], "acme")
    assert (caught.value.reason, caught.value.retryable) == ("RENDERING_MISMATCH", False)


async def test_an_engine_that_ended_refuses_nobody() -> None:
    with pytest.raises(Unavailable):
        await check_chats(Renderer(error=Unavailable("restarting")), [chat(1)], "acme")
