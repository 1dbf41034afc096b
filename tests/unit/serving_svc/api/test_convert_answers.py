from __future__ import annotations

from serving_svc.api.convert_answers import generate_response, server_info, stream_response
from serving_svc.generation.model import (
    Answer,
    Chunk,
    Completion,
    FinishReason,
    TokenLogprob,
    TokenLogprobs,
    ToolCall,
    Usage,
)
from tailorbird.names import VersionName
from tailorbird.profile import ServingProfile
from tailorbird.serving.v1 import inference_service_pb2 as pb

VERSION = VersionName("acme", "support", "20260101T000001-job-1")
TOKEN = TokenLogprob(7, "a", -0.5)
OTHER = TokenLogprob(8, "b", -1.5)
LOGPROBS = TokenLogprobs(TOKEN, (TOKEN, OTHER))
WRITTEN = pb.TokenLogprobs(
    token=pb.TokenLogprob(id=7, text="a", logprob=-0.5),
    top=[
        pb.TokenLogprob(id=7, text="a", logprob=-0.5),
        pb.TokenLogprob(id=8, text="b", logprob=-1.5),
    ],
)
CALL = ToolCall("c1", "weather", "{}")


def test_a_chunk_carries_only_what_it_has() -> None:
    assert stream_response(Chunk("a")) == pb.StreamGenerateResponse(text="a")
    chunk = Chunk(
        "b",
        FinishReason.LENGTH,
        (7,),
        2,
        [LOGPROBS],
        [CALL],
        Usage(3, 2),
        VERSION,
        7,
    )
    expected = pb.StreamGenerateResponse(
        text="b",
        finish_reason=pb.FINISH_REASON_LENGTH,
        index=2,
        logprobs=[WRITTEN],
        tool_calls=[pb.ToolCall(id="c1", name="weather", arguments_json="{}")],
        usage=pb.Usage(prompt_tokens=3, completion_tokens=2),
        version=str(VERSION),
        route_generation=7,
    )
    assert stream_response(chunk) == expected
    expected.token_ids.append(7)
    assert stream_response(chunk, with_token_ids=True) == expected


def test_the_end_of_one_of_several_has_no_usage() -> None:
    message = stream_response(Chunk("", FinishReason.STOP, index=1))
    assert message == pb.StreamGenerateResponse(index=1, finish_reason=pb.FINISH_REASON_STOP)


def test_an_answer_has_its_first_completion_in_its_own_fields() -> None:
    first = Completion("a", FinishReason.TOOL_CALLS, (7,), (LOGPROBS,), (CALL,))
    second = Completion("b", FinishReason.STOP, (8,))
    answer = Answer((first, second), Usage(3, 2), VERSION, 7)
    expected = pb.GenerateResponse(
        version=str(VERSION),
        route_generation=7,
        text="a",
        finish_reason=pb.FINISH_REASON_TOOL_CALLS,
        usage=pb.Usage(prompt_tokens=3, completion_tokens=2),
        logprobs=[WRITTEN],
        tool_calls=[pb.ToolCall(id="c1", name="weather", arguments_json="{}")],
        others=[pb.Completion(text="b", finish_reason=pb.FINISH_REASON_STOP)],
    )
    assert generate_response(answer) == expected
    expected.token_ids.append(7)
    expected.others[0].token_ids.append(8)
    assert generate_response(answer, with_token_ids=True) == expected
    base = Answer((second,), Usage(3, 1), None, 0)
    assert generate_response(base).version == ""


def test_server_info_names_the_replica() -> None:
    digest = f"sha256:{'a' * 64}"
    profile = ServingProfile(
        profile="default",
        base_model="demo",
        base_model_digest=digest,
        chat_template_digest=digest,
        max_model_len=512,
        max_lora_rank=16,
        adapter_slots=8,
        dtype="float32",
    )
    info = server_info(profile, "0.1.0", "serving-0")
    assert (info.replica, info.service_version, info.adapter_slots) == ("serving-0", "0.1.0", 8)
